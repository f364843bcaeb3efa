"""What the plug-ins declare: a training stage, a method, an export format. Values only; tables are in their folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A highest compute capability that no card has: all of now and later.
ANY_NEWER = 99.0
#: A function of the spec, marked with `@rule`.
Rule = Callable[[Any], str | None]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates of one method: the usual range, the white paper's start where it says one, and LF's examples'."""

    low: float
    high: float
    paper: float | None = None
    lf: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    doc: str
    #: What a row of its datasets is: "messages" (a conversation), "pair" (with a rejected answer), "labelled" (with a
    #: verdict on its answer) or "text".
    rows: str
    #: By method.
    rates: Mapping[str, Rates]
    #: What its model makes of a text: "token" (which comes next), or "score" (one number, read at its last token).
    predicts: str = "token"
    #: Group of parameters that only this stage reads, a frozen dataclass; in a spec at `spec.plugged[name]`.
    params: type | None = None
    rules: tuple[Rule, ...] = ()
    #: Of a conversation only what comes before its last answer is read: the model answers itself.
    asks: bool = False

    @property
    def samples(self) -> str:
        """What the encoder makes of a row."""
        return "prompt" if self.asks else self.rows


@dataclass(frozen=True, kw_only=True)
class Method:
    name: str
    doc: str
    #: What a finished training is in the catalog: "adapter" or "merged".
    makes: str
    #: Group of parameters that only this method reads, a frozen dataclass; in a spec at `spec.plugged[name]`.
    params: type | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Served:
    """Machines on which vLLM answers from a format's files."""

    #: Compute capability of NVIDIA cards, lowest and highest; None: on none.
    cuda: tuple[float, float] | None
    cpu: bool
    #: Package that reads the files for vLLM; empty: vLLM does.
    package: str = ""


@dataclass(frozen=True, kw_only=True)
class Format:
    name: str
    doc: str
    #: Bits that a weight may have, the one taken where `export_quantization_bit` says nothing first; empty: as the
    #: model has them.
    bits: tuple[int, ...] = ()
    #: Values of `export_quantization_bit` that mean this format where `export_format` says nothing; None: not given.
    default_for: tuple[int | None, ...] = ()
    #: Whether texts are run through the model to choose the quantized weights.
    calibrated: bool = False
    #: Whether its weights go from file to file one by one, whatever the size of the model.
    streamed: bool = False
    #: Whether the rounding of its weights is learned from them, in steps.
    learned: bool = False
    #: What the catalog calls the result: "merged" or "quantized".
    makes: str = "quantized"
    #: Programs that load it where vLLM does not.
    programs: tuple[str, ...] = ()
    #: Whether it is one file for such a program: converted first, then quantized with its embeddings.
    converted: bool = False
    #: Where vLLM serves it; None: nowhere.
    served: Served | None = Served(cuda=(7.0, ANY_NEWER), cpu=True)
    #: The same for widths that are served elsewhere than the others.
    served_at: Mapping[int, Served | None] = field(default_factory=dict)

    def where(self, num_bits: int | None) -> Served | None:
        """Where vLLM serves files of this width; None: nowhere."""
        return self.served if num_bits is None else self.served_at.get(num_bits, self.served)
