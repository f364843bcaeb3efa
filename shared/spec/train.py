"""The spec of a training job: its groups, and the rules between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared import methods, stages
from shared.param import group, plugged
from shared.rules import rule
from shared.spec.architecture import Architecture
from shared.spec.data import Data
from shared.spec.distributed import Distributed
from shared.spec.drawing import Drawing
from shared.spec.loop import Loop
from shared.spec.lora import Lora
from shared.spec.losses import Losses
from shared.spec.model import Model
from shared.spec.new_tokens import NewTokens
from shared.spec.optimizer import Train
from shared.spec.optimizer_options import OptimizerOptions
from shared.spec.output import Output
from shared.spec.preference import Preference
from shared.spec.tracking import Tracking
from shared.spec.tuning import Freeze, Tuning
from shared.tongues import Text

NO_VALIDATION = "there is nothing to validate on: give val_size or eval_dataset"


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    model: Model = group(Model)
    architecture: Architecture = group(Architecture)
    new_tokens: NewTokens = group(NewTokens)
    data: Data = group(Data)
    tuning: Tuning = group(Tuning)
    lora: Lora = group(Lora, prefix="lora_")
    freeze: Freeze = group(Freeze, prefix="freeze_")
    train: Train = group(Train)
    loss: Losses = group(Losses)
    optimizer: OptimizerOptions = group(OptimizerOptions)
    loop: Loop = group(Loop)
    preference: Preference = group(Preference)
    distributed: Distributed = group(Distributed)
    #: Of the rollouts of stage ppo; other stages draw nothing.
    drawing: Drawing = group(Drawing)
    output: Output = group(Output)
    tracking: Tracking = group(Tracking)
    #: What stages and methods with files of their own declare; those above are of the product's first day.
    plugged: Mapping[str, Any] = plugged(stages.TABLE, methods.TABLE)

    @rule("eval_strategy")
    def validation_data_is_given(self) -> str | None:
        wanted = self.train.eval_strategy != "no" and not self.validates()
        given, nothing = self.train.eval_strategy, Text(NO_VALIDATION)
        return Text("is {given!r}, but {nothing}", given=given, nothing=nothing) if wanted else None

    @rule("do_eval")
    def final_validation_has_data(self) -> str | None:
        wanted = self.tuning.do_eval and not self.validates()
        return Text("is true, but {nothing}", nothing=Text(NO_VALIDATION)) if wanted else None

    @rule("pure_bf16")
    def pure_bf16_is_not_float16(self) -> str | None:
        return "cannot be true together with fp16: choose one" if self.tuning.pure_bf16 and self.train.fp16 else None

    @rule("pure_bf16")
    def pure_bf16_without_zero3(self) -> str | None:
        both = self.tuning.pure_bf16 and self.zero_stage() == 3
        return "cannot be true with ZeRO-3, which keeps float32 copies itself: set bf16 instead" if both else None

    @rule("quantization_bit")
    def quantized_without_zero3(self) -> str | None:
        both = self.model.quantization_bit is not None and self.zero_stage() == 3
        return "cannot be shared by ZeRO-3: use zero_stage 2, or leave quantization_bit out" if both else None

    @rule("create_new_adapter")
    def quantized_base_cannot_be_merged_into(self) -> str | None:
        both = self.lora.create_new_adapter and self.model.quantization_bit is not None
        return "cannot merge the given adapter into a quantized base: leave quantization_bit out" if both else None

    @rule("quantization_bit")
    def only_adapters_train_a_quantized_base(self) -> str | None:
        wrong = self.model.quantization_bit is not None and not self.trains_adapter()
        method = self.tuning.finetuning_type
        return Text("cannot be given with finetuning_type {method}: set it to lora", method=method) if wrong else None

    @rule("adapter_name_or_path")
    def only_adapters_go_on_from_an_adapter(self) -> str | None:
        wrong = self.model.adapter_name_or_path is not None and not self.trains_adapter()
        method = self.tuning.finetuning_type
        return Text("cannot be given with finetuning_type {method}: export it merged", method=method) if wrong else None

    def trains_adapter(self) -> bool:
        return methods.get(self.tuning.finetuning_type).makes == "adapter"

    def changes_base(self) -> bool:
        """Whether an adapter is trained beside another base than the catalog's: then it is published merged."""
        given = self.architecture.rope_scaling is not None or self.new_tokens.grows
        merges = bool(self.model.adapters[1:]) or (bool(self.model.adapters) and self.lora.create_new_adapter)
        return self.trains_adapter() and (given or merges)

    def validates(self) -> bool:
        return self.data.val_size > 0 or bool(self.data.eval_dataset)

    def uses_deepspeed(self) -> bool:
        return self.distributed.deepspeed is not None or self.distributed.zero_stage is not None

    def zero_stage(self) -> int:
        """DeepSpeed's stage, 0 without it."""
        given, config = self.distributed.zero_stage, self.distributed.deepspeed
        return given if given is not None else int((config or {}).get("zero_optimization", {}).get("stage", 0))

    def resolved(self) -> TrainSpec:
        """The same spec with every default that depends on another value written out."""
        return replace(
            self,
            data=self.data.resolved(self.tuning.stage),
            lora=replace(self.lora, alpha=self.lora.alpha or 2 * self.lora.rank),
            train=self.train.resolved(validates=self.validates()),
        )
