"""LoRA with peft: a new adapter, or one of the catalog that is trained on. QLoRA when the base was loaded quantized."""

from __future__ import annotations

from collections.abc import Iterable

from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from torch import float32, nn
from transformers import PreTrainedModel

from shared.errors import InvalidSpec
from shared.spec import TrainSpec
from trainer_worker import deepspeed
from trainer_worker.child import adapted as layers
from trainer_worker.child import norms, pissa, words
from trainer_worker.child.blocks import added_blocks
from trainer_worker.child.context import Context
from trainer_worker.child.model import HEAD, check_names, gives_scores, linear_names, set_trained, upcast_norms
from trainer_worker.child.precision import FULL, Precision


def apply(model: PreTrainedModel, context: Context, precision: Precision) -> nn.Module:
    for weight in model.parameters():
        weight.requires_grad_(False)
    if context.spec.model.upcast_layernorm and precision.compute is not None:
        upcast_norms(model)
    for path in context.run.get("merged_paths") or []:
        model = PeftModel.from_pretrained(model, path).merge_and_unload()
        model.requires_grad_(False)
        context.emit("message", "An adapter of before is merged into the base")
    if precision == FULL and context.device.type == "cpu" and not deepspeed.is_wanted(context.spec):
        norms.replace(model)
    make = continued if context.run.get("adapter_path") else new
    adapted = make(model, context, precision)
    set_trained(adapted, precision)
    if precision.compute is not None and not context.spec.lora.use_dora:
        keep_activations(adapted.modules())
    return adapted


def new(model: PreTrainedModel, context: Context, precision: Precision) -> PeftModel:
    spec = context.spec
    check_names(model, [name for name in spec.lora.target if name != "all"], "lora_target")
    check_names(model, spec.lora.additional_target, "additional_target")
    # Float32 adapters beside a half-precision base only where they are kept so: DeepSpeed wants one format.
    config = adapter_config(spec, model)
    fuse(config, context)
    adapted = get_peft_model(model, config, autocast_adapter_dtype=precision.trained == float32)
    if spec.lora.pissa_init and context.is_first:
        pissa.remember(adapted, context.scratch / pissa.FOLDER)
    return adapted


def continued(model: PreTrainedModel, context: Context, precision: Precision) -> PeftModel:
    """The adapter's own rank and targets hold; the spec's do not. Raises InvalidSpec for another kind of adapter."""
    path, in_float32 = context.run["adapter_path"], precision.trained == float32
    config = PeftConfig.from_pretrained(path)
    if not isinstance(config, LoraConfig):
        raise InvalidSpec(f"is no LoRA adapter but {config.peft_type}", field="adapter_name_or_path")
    fuse(config, context)
    if gives_scores(context.spec) and config.task_type != TaskType.SEQ_CLS:
        adapted = with_new_head(model, path, config, in_float32)
    else:
        adapted = PeftModel.from_pretrained(
            model, path, is_trainable=True, config=config, autocast_adapter_dtype=in_float32
        )
    if config.r != context.spec.lora.rank:
        text = f"Training goes on with the adapter's own rank {config.r}, not with lora_rank {context.spec.lora.rank}"
        context.emit("finding", text, "warning", field="lora_rank")
    return adapted


def fuse(config: LoraConfig, context: Context) -> None:
    """Layers that compute base and adapter in one go, where nobody else (bitsandbytes, ZeRO-3) keeps the weights."""
    if context.spec.model.quantization_bit is None and not deepspeed.is_wanted(context.spec):
        layers.enter(config)


def with_new_head(model: PreTrainedModel, path: str, config: LoraConfig, in_float32: bool) -> PeftModel:
    """An adapter of a stage that predicts tokens, as one that gives scores."""
    config.task_type, config.inference_mode = TaskType.SEQ_CLS, False
    adapted = get_peft_model(model, config, autocast_adapter_dtype=in_float32)
    head = {name: weight for name, weight in get_peft_model_state_dict(adapted).items() if HEAD in name.split(".")}
    set_peft_model_state_dict(adapted, load_peft_weights(path, device="cpu") | head)
    return adapted


def adapter_config(spec: TrainSpec, model: PreTrainedModel) -> LoraConfig:
    return LoraConfig(
        # peft trains and saves the head of SEQ_CLS with the adapter.
        task_type=TaskType.SEQ_CLS if gives_scores(spec) else TaskType.CAUSAL_LM,
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha or 2 * spec.lora.rank,
        lora_dropout=spec.lora.dropout,
        target_modules=linear_names(model) if "all" in spec.lora.target else list(spec.lora.target),
        layers_to_transform=expanded_layers(spec, model),
        modules_to_save=whole_modules(spec, model) or None,
        # The output reads new words by the rows that are trained for them.
        ensure_weight_tying=spec.new_tokens.grows,
        use_rslora=spec.lora.use_rslora,
        use_dora=spec.lora.use_dora,
        init_lora_weights=pissa.init_name(spec.lora.pissa_iter) if spec.lora.pissa_init else True,
    )


def whole_modules(spec: TrainSpec, model: PreTrainedModel) -> list[str]:
    """As LF: new tokens have rows that nobody has trained yet, so the embeddings are unless others are named."""
    if spec.new_tokens.grows and not spec.lora.additional_target:
        return words.embedding_names(model)
    return list(spec.lora.additional_target)


def expanded_layers(spec: TrainSpec, model: PreTrainedModel) -> list[int] | None:
    """With LLaMA Pro the added blocks; None: all."""
    if not spec.freeze.use_llama_pro:
        return None
    return list(added_blocks(model.config.get_text_config().num_hidden_layers, spec.freeze.trainable_layers))


def keep_activations(modules: Iterable[nn.Module]) -> None:
    """Let autocast turn the small matrices to bfloat16, not peft the large activations to float32 (10 % of a step)."""
    for module in modules:
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
