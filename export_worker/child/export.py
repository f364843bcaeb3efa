"""One export from its order to files that are proven: merge, verify, quantize, verify.

Nothing appears under the output's name before everything has passed: the work is done beside it and renamed at the end
(publish.py), by this process or, where vLLM is to load the files first, by the phase that asks it (served.py).
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from export_worker.child import card, carry, loading, prompts, quantizers, resolution, serving, verify, weights
from export_worker.child.held_out import HeldOut, Known, gather
from export_worker.child.merge import Merged, merge
from export_worker.child.publish import Found, publish
from export_worker.child.reading import Questions, ReadBack, Reading, read_effect, read_model
from export_worker.child.rows import Texts
from export_worker.child.source import Source, choose_device, local_folder
from export_worker.child.watch import Watch
from shared import schema, templates, volumes
from shared.advice import exports
from shared.spec import ExportSpec, TrainSpec
from shared.tongues import Text

MERGED = "merged"


@dataclass(frozen=True, kw_only=True)
class Order:
    """run.json, understood."""

    spec: ExportSpec
    source: Source
    format: str
    texts: Texts
    known: Known
    #: Jinja that the model is to be asked with, instead of what lies in its files.
    template: str | None
    out: Path
    scratch: Path
    #: {"name", "base_name", "source_name", "datasets", "training", "training_job"}: what the model card tells.
    lineage: Mapping[str, Any]
    #: Whether another phase lets vLLM answer before anything is published; else why not.
    serves: bool
    not_served: str

    @classmethod
    def from_run(cls, run: Mapping[str, Any]) -> Order:
        spec = schema.from_stored(ExportSpec, run["spec"])
        source = Source(
            model=local_folder(run["model_path"]),
            adapters=tuple(local_folder(path) for path in run["adapter_paths"]),
            # An export that was ordered before there were weights merges all of each.
            adapter_weights=tuple(run.get("adapter_weights") or ()),
            trust_remote_code=spec.source.trust_remote_code,
            device=choose_device(spec.export.export_device),
        )
        return cls(
            spec=spec,
            source=source,
            format=str(spec.export.export_format),
            texts=Texts(
                calibration=run["calibration"],
                num_samples=spec.export.export_quantization_nsamples,
                max_tokens=spec.export.export_quantization_maxlen,
                gone=run.get("gone", ()),
            ),
            known=known_from(run, source),
            template=template_of(run),
            out=Path(run["output_dir"]),
            scratch=Path(run["scratch_dir"]),
            lineage=run["lineage"],
            serves=bool(run.get("serves")),
            not_served=run.get("not_served") or "",
        )

    @property
    def staging(self) -> Path:
        """Within the attempt's folder as the output is: publishing is a rename."""
        return self.scratch / "output"

    @property
    def merged(self) -> Path:
        return self.staging if self.format == MERGED else self.scratch / MERGED

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the files about to be published."""
        return AutoTokenizer.from_pretrained(self.merged, trust_remote_code=self.source.trust_remote_code)

    @property
    def field(self) -> str:
        return "export_format" if self.format != MERGED else "model_name_or_path"


def known_from(run: Mapping[str, Any], source: Source) -> Known:
    trained = run.get("training")
    spec = schema.from_stored(TrainSpec, trained) if trained else None
    grown = spec is not None and (spec.new_tokens.add_tokens or spec.new_tokens.special)
    return Known(
        spec=spec,
        evaluated=run["held_out"],
        trained=run.get("trained_on") or [],
        witnesses=run.get("witnesses"),
        calibration=run["calibration"],
        tokenizer=carry.tokenizer_folder(source) if grown or spec is None else source.model,
        trust_remote_code=source.trust_remote_code,
        template=template_of(run),
    )


def template_of(run: Mapping[str, Any]) -> str | None:
    name = run["template"]
    return templates.get(name, templates.Wording(**run.get("wording", {}))).jinja if name else None


def export(order: Order, watch: Watch) -> dict[str, Any] | None:
    """Run the export; the result of the `done` event, or None where a phase that asks vLLM has to follow. Leaves
    nothing behind unless it succeeds."""
    try:
        found = prove(order, watch)
        if order.serves:
            found.save(order.scratch)
            return None
        return publish(found, watch)
    except BaseException:
        shutil.rmtree(order.staging, ignore_errors=True)
        shutil.rmtree(order.scratch / MERGED, ignore_errors=True)
        raise
    finally:
        if not order.serves:
            shutil.rmtree(order.scratch / MERGED, ignore_errors=True)


def prove(order: Order, watch: Watch) -> Found:
    order.source.check()
    quantizers.check(order.format, order.source)
    require_space(order)
    for name in order.texts.gone:
        text = "{name}, a dataset of the training, was deleted since: its texts are not used."
        watch.say(Text(text, name=name), level="warning")
    limits = order.spec.parity
    held_out = gather(order.known, limits.export_verify_rows)
    if held_out.recognized and not held_out.recognized[0]:
        text = "No row of the datasets gives the token ids that the training had: other rows are compared."
        watch.say(Text(text), level="warning")
    questions = Questions(
        samples=held_out.samples,
        num_answers=limits.export_verify_answers,
        answer_tokens=limits.export_verify_answer_tokens,
    )
    merging = Text("Merging the adapter into the base") if order.source.adapters else Text("Copying the model")
    watch.phase("merge", merging)
    merged = write_merged(order, held_out, watch)
    watch.phase("verify", Text("Comparing the merged files with the trained model"))
    reading, verification = verify_merged(order, held_out, questions, watch)
    quantization, readings = None, dict[str, Reading | None]({MERGED: reading})
    if order.format != MERGED:
        watch.phase("quantize", Text("Quantizing to {format}", format=order.format))
        quantization = write_quantized(order, watch)
        watch.phase("verify_quantized", Text("Comparing the quantized files with the merged model"))
        readings["quantized"] = verify_quantized(order, questions, reading, verification, watch)
    if order.serves:
        serving_of(order, held_out, questions, readings).save(order.scratch)
    else:
        verification["vllm"] = {"proven": False, "why": order.not_served}
    watch.end_phase()
    return Found(
        staging=str(order.staging), out=str(order.out), format=order.format, method=merged.method,
        untied=merged.untied, quantization=quantization, verification=verification, lineage=order.lineage,
        licence=card.find_licence(order.source.model), seconds=watch.seconds,
    )  # fmt: skip


def require_space(order: Order) -> None:
    """As the worker before it (room.py), which knows no size of what was still on the Hub."""
    order.scratch.mkdir(parents=True, exist_ok=True)
    size = sum(file.stat().st_size for file in order.source.model.glob("*") if file.is_file())
    known = exports.Known(base=order.source.model.name, base_bytes=size, dtype=order.spec.source.infer_dtype)
    if (needed := exports.needs(order.spec, known)) is not None:
        volumes.require(order.scratch, needed.scratch)


def write_merged(order: Order, held_out: HeldOut, watch: Watch) -> Merged:
    for folder in (order.staging, order.merged):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    asked = order.spec.export
    merged = merge(
        order.source, order.merged, max_shard_gb=asked.export_size, watch=watch, dtype=order.spec.source.infer_dtype
    )
    carry.carry_over(order.source, order.merged, differs=merged.differs, template=order.template)
    if order.spec.parity.export_verify_prompt and (lacking := prompts.complete_ends(order.merged, held_out.ends)):
        text = "generation_config.json does not stop at what answers were taught to end with ({tokens}): it does now"
        watch.say(Text(text, tokens=lacking), level="warning", tokens=lacking)
    return merged


def verify_merged(
    order: Order, held_out: HeldOut, questions: Questions, watch: Watch
) -> tuple[Reading, dict[str, Any]]:
    tokenizer, limits = order.tokenizer, order.spec.parity
    prompted = prompts.check(tokenizer, order.merged, held_out, enforced=limits.export_verify_prompt)
    weighed = weights.check(order.source, order.merged, watch)
    how = loading.choose(order.merged, order.source.device)
    if how.left_out:
        watch.say(how.left_out, level="warning")
    questions, source = how.limited(questions), replace(order.source, device=how.device)
    model = source.load_as_trained(how.dtype)
    # Where the training taught it to end, whatever the files say that are about to be published.
    ends = sorted({*held_out.ends, *prompts.stop_ids(carry.tokenizer_folder(order.source))})
    trained = read_model(model, tokenizer, questions, watch, ends=ends)
    effect = read_effect(model, trained, questions, watch)
    del model
    gc.collect()
    model = source.load(order.merged, how.dtype)
    merged = read_model(model, tokenizer, questions, watch)
    rounded = resolution.rounded_away(order.source, order.merged)
    return merged, {
        "num_rows": len(questions.samples),
        "rows_from": held_out.rows_from,
        "rows_recognized": held_out.recognized,
        "prompts": prompted,
        "weights": weighed,
        "merge": verify.check_merge(trained, merged, effect, limits, rounded),
        "answers": {"trained": verify.texts(trained.answers), "merged": verify.texts(merged.answers)},
        "left_out": how.left_out or None,
    }


def write_quantized(order: Order, watch: Watch) -> dict[str, Any]:
    work = quantizers.Quantization(
        source=order.source,
        model=order.merged,
        out=order.staging,
        num_bits=order.spec.export.export_quantization_bit,
        gguf_type=order.spec.export.export_gguf_type,
        name=str(order.lineage["name"]),
        num_steps=order.spec.export.export_quantization_steps,
        samples=order.texts.calibration_samples(order.tokenizer),
        max_shard_gb=order.spec.export.export_size,
        watch=watch,
    )
    details = quantizers.quantize(order.format, work)
    carry.carry_unchanged(order.merged, order.staging)
    gc.collect()
    return details


def verify_quantized(
    order: Order, questions: Questions, merged: Reading, verification: dict[str, Any], watch: Watch
) -> Reading | None:
    """Adds its figures to the verification. None: only vLLM can load so large a model in this format."""
    how = loading.choose(order.merged, order.source.device)
    if how.left_out and not quantizers.reads(order.format):
        verification["left_out"] = f"{how.left_out} The quantized files are left to vLLM alone."
        return None
    back = ReadBack(
        source=replace(order.source, device=how.device),
        folder=order.staging,
        dtype=how.dtype,
        tokenizer=order.tokenizer,
        questions=how.limited(questions),
        watch=watch,
    )
    quantized = quantizers.read(order.format, back)
    verification["quantized"] = verify.check_quantized(merged, quantized, order.spec.parity)
    verification["answers"]["quantized"] = verify.texts(quantized.answers)
    return quantized


def serving_of(
    order: Order, held_out: HeldOut, questions: Questions, readings: Mapping[str, Reading | None]
) -> serving.Serving:
    """What vLLM is to be asked, and what it should say."""
    limits = order.spec.parity
    folders = {MERGED: order.merged, "quantized": order.staging}
    # The rows that all have read: means over others could not be compared.
    count = min(len(read.row_losses) for read in readings.values() if read)
    models = [_served(name, folders[name], read.first(count) if read else None) for name, read in readings.items()]
    asked = held_out.prompts if limits.export_verify_prompt else prompts.as_served(order.tokenizer, held_out.prompts)
    return serving.Serving(
        models=models,
        samples=list(questions.samples[:count]),
        prompts=list(asked),
        answer_tokens=limits.export_verify_answer_tokens,
        trust_remote_code=order.source.trust_remote_code,
        max_answer_gap=limits.export_max_answer_gap,
        max_difference=limits.export_max_served_difference,
        max_perplexity_ratio=limits.export_max_perplexity_ratio,
        is_required=limits.export_verify_vllm == "require",
    )


def _served(name: str, folder: Path, read: Reading | None) -> serving.Served:
    return serving.Served(
        name=name, folder=str(folder), loss=read.loss if read else None, answers=read.answers if read else []
    )
