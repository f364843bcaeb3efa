"""One export from its order to its output folder: merge, verify, quantize, verify, describe, publish.

Nothing appears under the output's name before everything has passed: the work is done beside it and renamed at the end.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from export_worker.child import card, carry, quantizers, verify
from export_worker.child.merge import Merged, merge
from export_worker.child.rows import Sample, Texts
from export_worker.child.source import Source, choose_device, local_folder
from export_worker.child.watch import Watch
from shared import schema, templates, volumes
from shared.spec import ExportSpec

MERGED = "merged"
#: Room needed on the disk: the merged copy, and for a quantized export the codes beside it.
SPACE_FACTOR = {True: 1.05, False: 1.6}


@dataclass(frozen=True, kw_only=True)
class Order:
    """run.json, understood."""

    spec: ExportSpec
    source: Source
    format: str
    texts: Texts
    #: Jinja that the model is to be asked with, instead of what lies in its files.
    template: str | None
    out: Path
    scratch: Path
    #: {"name", "base_name", "source_name", "datasets", "training", "training_job"}: what the model card tells.
    lineage: Mapping[str, Any]

    @classmethod
    def from_run(cls, run: Mapping[str, Any]) -> Order:
        spec = schema.from_stored(ExportSpec, run["spec"])
        return cls(
            spec=spec,
            source=Source(
                model=local_folder(run["model_path"]),
                adapters=tuple(local_folder(path) for path in run["adapter_paths"]),
                trust_remote_code=spec.source.trust_remote_code,
                device=choose_device(spec.export.export_device),
            ),
            format=str(spec.export.export_format),
            texts=Texts(
                calibration=run["calibration"],
                held_out=run["held_out"],
                num_samples=spec.export.export_quantization_nsamples,
                max_tokens=spec.export.export_quantization_maxlen,
                gone=run.get("gone", ()),
            ),
            template=template_of(run),
            out=Path(run["output_dir"]),
            scratch=Path(run["scratch_dir"]),
            lineage=run["lineage"],
        )

    @property
    def staging(self) -> Path:
        """Within the attempt's folder as the output is: publishing is a rename."""
        return self.scratch / "output"

    @property
    def merged(self) -> Path:
        return self.staging if self.format == MERGED else self.scratch / MERGED


def template_of(run: Mapping[str, Any]) -> str | None:
    name = run["template"]
    return templates.get(name, templates.Wording(**run.get("wording", {}))).jinja if name else None


def export(order: Order, watch: Watch) -> dict[str, Any]:
    """Run the export; returns the result of the `done` event. Leaves nothing behind unless it succeeds."""
    try:
        return run(order, watch)
    except BaseException:
        shutil.rmtree(order.staging, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(order.scratch / MERGED, ignore_errors=True)


def run(order: Order, watch: Watch) -> dict[str, Any]:
    order.source.check()
    require_space(order)
    for name in order.texts.gone:
        watch.say(f"{name}, a dataset of the training, was deleted since: its texts are not used.", level="warning")
    watch.phase("merge", "Merging the adapter into the base" if order.source.adapters else "Copying the model")
    merged = write_merged(order, watch)
    watch.phase("verify", "Comparing the merged files with the trained model")
    tokenizer = AutoTokenizer.from_pretrained(order.merged, trust_remote_code=order.source.trust_remote_code)
    samples = verify.shorten(order.texts.held_out_samples(tokenizer))
    reading, verification = verify_merged(order, tokenizer, samples)
    quantization = None
    if order.format != MERGED:
        watch.phase("quantize", f"Quantizing to {order.format}")
        quantization = write_quantized(order, tokenizer, watch)
        watch.phase("verify_quantized", "Comparing the quantized files with the merged model")
        verification |= verify_quantized(order, tokenizer, samples, reading)
    watch.phase("publish", "Writing the model card and the digests")
    write_card(order, verification, quantization)
    files = digests(order.staging)
    watch.check()
    order.staging.rename(order.out)
    watch.end_phase()
    return {
        "output": order.out.name,
        "format": order.format,
        "method": merged.method,
        "untied": merged.untied,
        "quantization": quantization,
        "verification": verification,
        "files": files,
        "size_bytes": sum(file["size_bytes"] for file in files.values()),
        "seconds": watch.seconds,
    }


def require_space(order: Order) -> None:
    """Say before an hour's work, not after it, that the disk is too small."""
    order.scratch.mkdir(parents=True, exist_ok=True)
    size = sum(file.stat().st_size for file in order.source.model.glob("*") if file.is_file())
    needed = int(size * SPACE_FACTOR[order.format == MERGED])
    volumes.require(order.scratch, needed)


def write_merged(order: Order, watch: Watch) -> Merged:
    for folder in (order.staging, order.merged):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    merged = merge(order.source, order.merged, max_shard_gb=order.spec.export.export_size, watch=watch)
    carry.carry_over(order.source, order.merged, differs=merged.differs, template=order.template)
    return merged


def verify_merged(
    order: Order, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]
) -> tuple[verify.Reading, dict[str, Any]]:
    dtype = verify.comparison_dtype(order.merged)
    model = order.source.load_as_trained(dtype)
    trained = verify.read_model(model, tokenizer, samples)
    effect = verify.read_effect(model, trained, samples)
    del model
    gc.collect()
    model = order.source.load(order.merged, dtype)
    merged = verify.read_model(model, tokenizer, samples)
    found = {
        "num_rows": len(samples),
        "rows_from": order.texts.held_out_from,
        "merge": verify.check_merge(trained, merged, effect),
        "answers": {"trained": trained.answers, "merged": merged.answers},
    }
    return merged, found


def write_quantized(order: Order, tokenizer: PreTrainedTokenizerBase, watch: Watch) -> dict[str, Any]:
    work = quantizers.Quantization(
        source=order.source,
        model=order.merged,
        out=order.staging,
        num_bits=order.spec.export.export_quantization_bit,
        samples=order.texts.calibration_samples(tokenizer),
        max_shard_gb=order.spec.export.export_size,
        watch=watch,
    )
    details = quantizers.quantize(order.format, work)
    carry.carry_unchanged(order.merged, order.staging)
    gc.collect()
    return details


def verify_quantized(
    order: Order, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], merged: verify.Reading
) -> dict[str, Any]:
    model = order.source.load(order.staging, verify.comparison_dtype(order.merged))
    quantized = verify.read_model(model, tokenizer, samples)
    return {"quantized": verify.check_quantized(merged, quantized), "quantized_answers": quantized.answers}


def write_card(order: Order, verification: Mapping[str, Any], quantization: Mapping[str, Any] | None) -> None:
    lineage = {name: value for name, value in order.lineage.items() if name != "training_job"}
    text = card.render(
        card.Card(
            **lineage,
            format=order.format,
            verification=verification,
            quantization=quantization,
            licence=card.find_licence(order.source.model),
        )
    )
    (order.staging / "README.md").write_text(text)


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file, by its path within the folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = {"sha256": digest, "size_bytes": path.stat().st_size}
    return found
