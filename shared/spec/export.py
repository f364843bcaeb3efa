"""The spec of an export: which model becomes which files."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared import formats, templates
from shared.fields import Numbers
from shared.formats import gguf
from shared.param import MISSING, group, param
from shared.rules import rule
from shared.spec.parity import Parity
from shared.spec.push import Repository
from shared.tongues import Text

#: A larger share of an adapter's change is a slip of the pen.
MAX_WEIGHT = 10


@dataclass(frozen=True, kw_only=True)
class Source:
    model_name_or_path: str = param(
        MISSING,
        "Model to export: any name of the catalog (an adapter is merged into its base), a hub id, or a path under the "
        "server's import roots.",
        type=str,
        kind="model",
        aliases=("model",),
    )
    adapter_name_or_path: str | None = param(
        None, "Adapter to merge into the model, or several with commas between: in this order.", type=str, kind="model"
    )
    adapter_weights: list[float] | None = param(
        None,
        "How much of each adapter's change is merged, one number for each that adapter_name_or_path names. Left out: "
        "all of it.",
        type=list,
        field_class=Numbers,
        source="ours",
        since=4,
        advice="0.5,0.5 for two adapters that should both be heard; below 0 takes out what an adapter adds.",
    )
    template: str | None = param(
        None,
        "Chat template written into the export. Left out: the model's own.",
        type=str,
        kind="template",
        choices=templates.names(),
        check=templates.complaint,
    )
    finetuning_type: str = param("lora", "LF's switch; how a model was trained is read from its record and files.")
    trust_remote_code: bool = param(False, "Whether the model may bring Python code of its own.")
    infer_dtype: str = param(
        "auto",
        "Number format of the merged weights. `auto`: the base's.",
        choices=("auto", "float16", "bfloat16", "float32"),
        since=4,
        advice="float32 where what an adapter changes is too small for 16 bits; vLLM then needs dtype float32, too.",
    )
    hf_hub_token: str | None = param(
        None, "Hugging Face token for gated models; sealed apart from the job.", type=str, secret=True
    )

    @property
    def adapters(self) -> list[str]:
        """As LF has them: names with commas between, merged first to last."""
        return [name.strip() for name in (self.adapter_name_or_path or "").split(",") if name.strip()]

    @rule("adapter_weights")
    def one_weight_for_each(self) -> str | None:
        if self.adapter_weights is None or len(self.adapter_weights) == len(self.adapters):
            return None
        text = "has {given} numbers, adapter_name_or_path names {named}: give one for each"
        return Text(text, given=len(self.adapter_weights), named=len(self.adapters))

    @rule("adapter_weights")
    def finite_weights(self) -> str | None:
        wrong = [weight for weight in self.adapter_weights or () if not -MAX_WEIGHT <= weight <= MAX_WEIGHT]
        return (
            Text("has {weight}: must be between -{most} and {most}", weight=wrong[0], most=MAX_WEIGHT)
            if wrong
            else None
        )


@dataclass(frozen=True, kw_only=True)
class Export:
    export_dir: str | None = param(
        None, "Name of the exported model in the catalog; no path of the server. Left out: made from the source.",
        type=str, kind="output",
    )  # fmt: skip
    export_format: str | None = param(
        None,
        "What is written. Left out: `merged`, or the format of export_quantization_bit.",
        type=str,
        source="ours",
        choices=formats.names(),
        check=formats.complaint,
    )
    export_size: int = param(5, "Largest size of one file of weights.", minimum=1, maximum=1000, unit="GB")
    export_device: str = param("cpu", "Where the merge runs; `auto` takes an accelerator.", choices=("cpu", "auto"))
    export_quantization_bit: int | None = param(
        None, "Quantize to this many bits.", type=int, choices=formats.BITS, unit="bits", advice="4."
    )
    export_gguf_type: str | None = param(
        None,
        "How a GGUF file is quantized, in llama.cpp's words. Left out: `q4_k_m`, or what export_quantization_bit says.",
        type=str,
        source="ours",
        since=4,
        choices=(*gguf.QUANTIZED, *gguf.FLOATS),
        advice="q4_k_m; q8_0 where quality counts, f16 to quantize further elsewhere.",
    )
    export_quantization_dataset: str | None = param(
        None, "Dataset whose texts calibrate the quantization.", type=str, kind="dataset"
    )
    export_quantization_nsamples: int = param(128, "Samples used for calibration.", minimum=1, maximum=100_000)
    export_quantization_maxlen: int = param(
        1024, "Longest calibration sample.", minimum=8, maximum=131_072, unit="tokens"
    )
    export_quantization_steps: int | None = param(
        None,
        "Steps in which gptq and awq learn the rounding of a block of layers; 0 rounds to nearest. Left out: 200 on an "
        "accelerator, 20 on a CPU.",
        type=int, minimum=0, maximum=10_000, source="ours", since=4, advice="1000 for 2 and 3 bits.",
    )  # fmt: skip
    export_legacy_format: bool = param(False, "LF's switch for .bin files; only safetensors are written.")

    @rule("export_legacy_format", code="unsupported")
    def safetensors_only(self) -> str | None:
        return "is not supported: pickled weights can run code; leave it false" if self.export_legacy_format else None

    @rule("export_quantization_bit")
    def bits_of_the_format(self) -> str | None:
        bits, given = self.export_quantization_bit, self.chosen
        if bits is None or bits in formats.get(given).bits:
            return None
        return Text("contradicts export_format {given!r}", given=given)

    @rule("export_gguf_type")
    def type_of_a_gguf_file(self) -> str | None:
        given, bits = self.export_gguf_type, self.export_quantization_bit
        if given is None:
            return None
        if self.chosen != gguf.FORMAT.name:
            return Text("is for export_format 'gguf', not {given!r}", given=self.chosen)
        if bits is None or bits == gguf.QUANTIZED.get(given):
            return None
        return Text("contradicts export_quantization_bit {bits}", bits=bits)

    @property
    def chosen(self) -> str:
        """The format, as the spec says it in one way or another."""
        if self.export_format is None and self.export_gguf_type is not None:
            return gguf.FORMAT.name
        return self.export_format or formats.of_bits(self.export_quantization_bit)


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    source: Source = group(Source)
    export: Export = group(Export)
    parity: Parity = group(Parity)
    hub: Repository = group(Repository)

    def resolved(self) -> ExportSpec:
        """The same spec with its format written out."""
        chosen, bits = self.export.chosen, self.export.export_quantization_bit
        type_ = self.export.export_gguf_type
        if chosen == gguf.FORMAT.name:
            type_ = type_ or gguf.type_of_bits(bits)
            bits = gguf.QUANTIZED.get(type_)
        else:
            bits = bits or next(iter(formats.get(chosen).bits), None)
        return replace(
            self,
            source=replace(self.source, template=templates.replacing(self.source.template)),
            export=replace(self.export, export_format=chosen, export_quantization_bit=bits, export_gguf_type=type_),
        )
