"""Rounding learned block by block with texts run through the model: AutoRound (https://arxiv.org/abs/2309.05516).

For the formats that it writes, gptq and awq. Per block it moves each weight's rounding, and the range of its group, by
signed gradient descent on the difference of the block's output (equation 3). In the child's environment
(export_worker/command.py) the library holds one block at a time and writes it when it is done, so memory is a block and
what the texts are at its entrance.
Not here: what is read back (packed.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from export_worker.child import schemes, shards
from export_worker.child.merge import GB
from export_worker.child.quantizers import Quantization
from export_worker.child.source import CannotExport
from export_worker.child.watch import Watch

#: Texts are joined to rows of exactly so many tokens: the library drops shorter ones.
ROW_TOKENS = 512
#: Fewer tokens than these say nothing of what a model will be asked.
MIN_TOKENS = 32
#: Rows whose gradients make one step.
STEP_ROWS = 4
#: Steps per block where the export names none: the paper's number, and on a CPU what ends within the hour.
STEPS, CPU_STEPS = 200, 20
SEED = 42
#: Fewer bits are worth nothing without texts.
MIN_UNLEARNED_BITS = 4
#: Outputs are packed eight or sixteen to a word, and vLLM's kernels take them by 32.
OUTPUT_MULTIPLE = 32


@dataclass(frozen=True, kw_only=True)
class Target:
    #: The library's word for the files: "auto_gptq" or "auto_awq".
    files: str
    num_bits: int
    #: Whether a group's zero lies in the middle of its range, as vLLM wants it of gptq; else every group has its own.
    symmetric: bool


#: A row of calibration: samples behind one another, the last one cut where the row is full.
Row = Sequence[Sequence[int]]


def run(work: Quantization, target: Target) -> dict[str, Any]:
    """Weights and config.json into the empty folder `work.out`; what was done, for the result."""
    model = work.source.empty()
    group_size, unfit = choose_group_size(model)
    if unfit:
        text = f"{len(unfit)} layers have widths that no group divides: they stay in 16 bits."
        work.watch.say(text, level="warning", layers=unfit[:20])
    rows = join([sample.input_ids for sample in work.samples], row_tokens(work))
    steps = number_of_steps(work) if rows else 0
    if not rows:
        require_bits(target.num_bits)
        work.say_uncalibrated()
    with tempfile.TemporaryDirectory(prefix="autoround-", dir=work.out.parent) as folder:
        kept = [*unfit, *schemes.left_out(model, schemes.linears(model))]
        library = compressor(work, target, {"group_size": group_size, "iters": steps}, kept, rows)
        hooks = report_blocks(library.model_context.model, len(rows), steps, work.watch)
        library.quantize_and_save(folder, format=target.files)
        for hook in hooks:
            hook.remove()
        work.watch.check()
        take(next(Path(folder).rglob("config.json")).parent, work)
    texts = {"num_samples": len(work.samples), "num_tokens": sum(len(one) for row in rows for one in row)}
    done = {"num_bits": target.num_bits, "group_size": group_size, "num_left_out": len(unfit)}
    return {"method": "autoround", **done, **texts, "num_steps": steps} if steps else {"method": "rtn", **done}


def compressor(
    work: Quantization, target: Target, how: Mapping[str, int], kept: Sequence[str], rows: Sequence[Row]
) -> Any:
    """The library's own object, with the model loaded or its skeleton ready."""
    from auto_round import AutoRound

    learns = how["iters"] > 0
    # From a path, blocks are read as they come; what only rounds has to have the model.
    model = str(work.model) if learns else work.source.load(work.model)
    each = {"gradient_accumulate_steps": min(STEP_ROWS, len(rows))} if learns else {"disable_opt_rtn": True}
    return AutoRound(
        model,
        tokenizer=AutoTokenizer.from_pretrained(work.model, trust_remote_code=work.source.trust_remote_code),
        scheme=f"W{target.num_bits}A16",
        sym=target.symmetric,
        layer_config={name: {"bits": 16} for name in kept},
        dataset=[batch(row) for row in rows] if learns else None,
        nsamples=len(rows),
        seqlen=sum(len(one) for one in rows[0]) if learns else ROW_TOKENS,
        batch_size=1,  # the library looks up what positions a row has only where rows come one by one
        device_map=work.source.device,
        enable_torch_compile=False,
        seed=SEED,
        trust_remote_code=work.source.trust_remote_code,
        **how,
        **each,
    )


def require_bits(num_bits: int) -> None:
    if num_bits < MIN_UNLEARNED_BITS:
        raise CannotExport(
            f"{num_bits}-bit weights that are only rounded to nearest answer nothing, and no texts are known to learn "
            "the rounding from: name a dataset, or take 4 bits",
            field="export_quantization_dataset",
        )


def number_of_steps(work: Quantization) -> int:
    if work.num_steps is not None:
        return work.num_steps
    return CPU_STEPS if work.source.device == "cpu" else STEPS


def row_tokens(work: Quantization) -> int:
    return min(ROW_TOKENS, getattr(work.source.config(), "max_position_embeddings", None) or ROW_TOKENS)


def join(samples: Sequence[Sequence[int]], length: int) -> list[Row]:
    """The samples' tokens in rows of exactly `length`, what is left over dropped; all in one shorter row where they do
    not fill one, and no row at all where they are next to nothing."""
    rows: list[Row] = []
    row: list[Sequence[int]] = []
    room = length
    for sample in samples:
        rest = sample
        while rest:
            row.append(rest[:room])
            rest, room = rest[room:], room - len(row[-1])
            if room == 0:
                rows.append(row)
                row, room = [], length
    return rows or ([row] if length - room >= MIN_TOKENS else [])


def batch(row: Row) -> dict[str, torch.Tensor | None]:
    """Samples that do not see each other: where positions begin anew, transformers ends what attention sees, but only
    where it is given no mask."""
    if len(row) == 1:
        # All rows must have a mask, or the library takes the mask of another one: the last token, which it scores
        # nowhere, sees itself only.
        row = [row[0][:-1], row[0][-1:]]
    return {
        "input_ids": torch.tensor([[token for ids in row for token in ids]]),  # (1, tokens)
        "attention_mask": None,
        "position_ids": torch.cat([torch.arange(len(ids)) for ids in row])[None],  # (1, tokens)
    }


def choose_group_size(model: PreTrainedModel) -> tuple[int, list[str]]:
    """The largest group that leaves the fewest weights as they are, and the names of the layers that stay so."""
    layers = schemes.linears(model)
    best: tuple[int, int, list[str]] | None = None
    inner = expert_widths(model)
    for size in (size for size in schemes.GROUP_SIZES if not any(width % size for width in inner)):
        unfit = left_out(layers, size)
        weights = sum(layers[name].weight.numel() for name in unfit)
        if best is None or weights < best[0]:
            best = (weights, size, unfit)
    if best is None or len(best[2]) == len(layers):
        widths = sorted({layer.in_features for layer in layers.values()} | inner)
        raise CannotExport(
            f"no layer can be packed: groups have {schemes.GROUP_SIZES[-1]} weights at least, and divide none of the "
            f"widths {widths}",
            field="export_format",
        )
    return best[1], best[2]


def expert_widths(model: PreTrainedModel) -> set[int]:
    """Of experts that the model's class holds in one tensor (experts, out, in); the library takes them apart."""
    fused = (tensor for name, tensor in model.named_parameters() if ".experts." in name and tensor.dim() == 3)
    return {width for tensor in fused for width in tensor.shape[1:]}


def left_out(layers: Mapping[str, torch.nn.Linear], size: int) -> list[str]:
    """Layers that do not fit, with those beside them that read the same input: vLLM makes one layer of query, key and
    value, and of gate and up, which is packed or is not."""

    def beside(name: str) -> tuple[str, int]:
        return name.rpartition(".")[0], layers[name].in_features

    unfit = {
        beside(name)
        for name, layer in layers.items()
        if layer.in_features % size or layer.out_features % OUTPUT_MULTIPLE
    }
    return [name for name in layers if beside(name) in unfit]


def report_blocks(model: PreTrainedModel, num_rows: int, steps: int, watch: Watch) -> list[Any]:
    """Progress and cancellation from inside the library, which has no callback: each block reports its calls."""
    blocks = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    # Every row before the block is changed and after, and those of each step; the first block also takes in the texts.
    total = len(blocks) * (2 * num_rows + steps * min(STEP_ROWS, num_rows)) + num_rows
    done = 0

    def report(*_: Any) -> None:
        nonlocal done
        done += 1
        watch.progress(min(done, total), total, "block passes")

    return [block.register_forward_pre_hook(report) for block in blocks]


def take(written: Path, work: Quantization) -> None:
    """What the library wrote, in files of the size asked for; of its config.json only how the weights are packed."""
    entries = shards.list_entries(written)
    places = shards.lay_out(entries.values(), work.out, int(work.max_shard_gb * GB))
    for name, place in places.items():
        shards.copy(entries[name].place, place, entries[name].num_bytes)
    config = json.loads((work.model / "config.json").read_text())
    config["quantization_config"] = json.loads((written / "config.json").read_text())["quantization_config"]
    (work.out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
