"""One file per quantized format, paired by name with its declaration in shared/formats.

Each has `quantize(work: Quantization) -> dict`: it reads the merged model's folder, writes weights and config.json into
the empty folder `work.out`, reports progress and raises Stopped through `work.watch`, and returns what it did for the
result and the model card. Tokenizer, chat template and generation config are carried over by the caller.

Before they are published the files are read back and compared with the merged model. transformers does that, unless
the format's file has a `read(back: ReadBack) -> Reading` of its own: one that another library loads (llama.cpp) fills
the losses of the first samples and the greedy answers, and logits where it can give them.

A format's file that knows at once that it cannot hold a model has a `check(source: Source)` that raises CannotExport.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export_worker.child.asked import Sample
from export_worker.child.reading import ReadBack, Reading, read_folder
from export_worker.child.source import CannotExport, Source
from export_worker.child.watch import Watch
from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class Quantization:
    #: How models of this export are loaded.
    source: Source
    #: Folder of the merged model, with its tokenizer.
    model: Path
    out: Path
    #: Of a weight, as the spec says; None: the format has one width only, or none.
    num_bits: int | None = None
    #: Of a GGUF file, as the spec says.
    gguf_type: str | None = None
    #: Of the exported model in the catalog.
    name: str = ""
    #: Texts like those the model will see; empty when none are known.
    samples: Sequence[Sample]
    #: Of what learns the rounding, per block; None: what the device allows.
    num_steps: int | None = None
    #: Largest file of the output, decimal gigabytes.
    max_shard_gb: float
    watch: Watch
    #: Of memory for the weights of a model that is gone through layer by layer; None: half of what is free.
    room_bytes: int | None = None

    def say_uncalibrated(self) -> None:
        text = Text("No calibration texts are known: weights are rounded to nearest, which costs quality.")
        self.watch.say(text, level="warning")


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def quantize(format_name: str, work: Quantization) -> dict[str, Any]:
    """Run the quantizer of this name; it is imported only now, because the libraries take seconds."""
    if format_name not in names():
        raise CannotExport(
            f"this export worker cannot write {format_name!r}; it can write merged, {', '.join(names())}",
            field="export_format",
        )
    return _module(format_name).quantize(work)


def check(format_name: str, source: Source) -> None:
    """Raises CannotExport where the format cannot hold this model."""
    if format_name in names() and hasattr(module := _module(format_name), "check"):
        module.check(source)


def reads(format_name: str) -> bool:
    """Whether the format brings its own reading."""
    return hasattr(_module(format_name), "read")


def read(format_name: str, back: ReadBack) -> Reading:
    """What the written files say, by whoever loads this format."""
    reading: Reading = getattr(_module(format_name), "read", read_folder)(back)
    return reading


def _module(format_name: str) -> Any:
    return importlib.import_module(f"{__name__}.{format_name}")
