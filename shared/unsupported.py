"""LF's arguments that we know and do not take: what each is, and what to use instead. Nothing of LF is ever "unknown".

An argument may always be given with the value that switches it off (`use_galore: false`), so that files that write
everything out still post as they are. WITHOUT_EFFECT names those whose value cannot change a result here: accepted,
checked no further. An argument moves from here to `shared/spec` in the change that implements it. Names of LF's
experimental v1 configs and names of years before are in files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared import unsupported_former, unsupported_v1
from shared.refused import Refused, is_off
from shared.refused import entries as _all

__all__ = ["LF_DEFAULTS", "UNSUPPORTED", "WITHOUT_EFFECT", "Refused", "is_off"]

DERIVED = "LF derives it and does not let it be set"
LESS_MEMORY = "use finetuning_type lora, quantization_bit 4, optim paged_adamw_8bit, or zero_stage 3 with offload"
TEXT_ONLY = "models and data are text here; images, video and audio would need a processor in training and preview"
MEGATRON = "it belongs to Megatron, whose own model code and checkpoints the trainer does not carry"
EXPERTS = "it belongs to KTransformers, which computes experts on CPUs with AMX by kernels built for one machine"
SGLANG = "it belongs to SGLang; models are served by vLLM only"
UNSLOTH = "Unsloth replaces the model's code when it is imported, for the versions of transformers that it names"
FSDP = "weights are sharded by DeepSpeed here, not by FSDP"

UNSUPPORTED: Mapping[str, Refused] = dict([
    # Model
    *_all("it names a folder inside a repository", "register the adapter under a name of its own", adapter_folder=None),
    *_all(
        "LongLoRA's shifted attention rewrites the attention of Llama alone, for transformers of 2023; no kernel here "
        "has it", "use flash_attn auto, whose memory grows with the length and not with its square", shift_attn=False,
    ),
    *_all(
        "Mixture-of-Depths rewrites the layers by the package MoD, which knows no model since 2024 and no server loads",
        "train the model as it is, or use a model with mixture of experts", mixture_of_depths=None,
    ),
    *_all(
        UNSLOTH, "use enable_liger_kernel for fused kernels; activations are checkpointed unless "
        "disable_gradient_checkpointing is true", use_unsloth=False, use_unsloth_gc=False,
    ),
    *_all(
        "models are served by vLLM, whatever it says", "use engine transformers of a deployment where vLLM cannot load "
        "the model", infer_backend=("huggingface", "vllm"),
    ),
    *_all(
        "models come from the Hugging Face Hub, the catalog or the import roots, not from ModelScope or Modelers",
        "download the model into an import root and register it, or use hf_hub_token",
        ms_hub_token=None, om_hub_token=None,
    ),
    *_all(
        "in training every process holds its own device; LF refuses it there too",
        "use num_processes, or tensor_parallel_size of a deployment", quantization_device_map=None, device_map=None,
    ),
    *_all(
        TEXT_ONLY, "use text-only data and a text-only model",
        image_max_pixels=589824, image_min_pixels=1024, image_do_pan_and_scan=False, crop_to_patches=False,
        video_max_pixels=65536, video_min_pixels=256, video_fps=2.0, video_maxlen=128, use_audio_in_video=False,
        audio_sampling_rate=16000, media_dir=None, freeze_vision_tower=True, freeze_multi_modal_projector=True,
        freeze_language_model=False,
    ),
    *_all(
        SGLANG, "use max_model_len, gpu_memory_utilization and tensor_parallel_size of a deployment",
        sglang_maxlen=4096, sglang_mem_fraction=0.7, sglang_tp_size=-1, sglang_config=None,
        sglang_lora_backend="triton",
    ),
    *_all(
        EXPERTS, "use quantization_bit 4, or more devices with zero_stage 3 and ds_z3_offload_config.json",
        use_kt=False, kt_config=None, kt_cpu_activation=None, kt_weight_path=None, kt_non_expert_weight_path=None,
        kt_expert_checkpoint_path=None, kt_use_lora_experts=False, kt_lora_expert_num=None,
        kt_lora_expert_intermediate_size=None,
    ),
    *_all(DERIVED, "use bf16 or fp16", compute_dtype=None),
    *_all(DERIVED, "use cutoff_len", model_max_length=None),
    *_all(DERIVED, "use neat_packing", block_diag_attn=False),
    # Data
    *_all("padding is never learned", "leave it out", ignore_pad_token_for_loss=True),
    # Method and loss
    *_all(
        "the package adam-mini tells layers apart by names that it knows of few models",
        "use optim adamw_8bit, which saves more, or adafactor", use_adam_mini=False,
    ),
    *_all(
        MEGATRON, "use zero_stage 3 with num_processes; liger kernels fuse what Megatron fuses",
        use_mca=False, use_megatron_bridge=False, megatron_bridge_args=None, use_hyper_parallel=False,
        hyper_parallel_args=None, hyper_parallel_cp_size=1, tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1, expert_model_parallel_size=1, context_parallel_size=1,
        virtual_pipeline_model_parallel_size=None, sequence_parallel=False, recompute_granularity=None,
        recompute_method=None, recompute_num_layers=None, account_for_embedding_in_pipeline_split=None,
        account_for_loss_in_pipeline_split=None, bias_activation_fusion=None, apply_rope_fusion=None,
        masked_softmax_fusion=None, cross_entropy_loss_fusion=None, moe_grouped_gemm=None,
        moe_token_dispatcher_type=None, calculate_per_token_loss=None, use_distributed_optimizer=True,
        overlap_param_gather=True, overlap_grad_reduce=True, use_packed_sequences=False, mixed_precision="bf16_mixed",
        megatron_pretrained_checkpoint=None, export_hf_on_finish=False, extra_config=None,
    ),
    *_all(
        "it belongs to orthogonal fine-tuning (oft), whose adapters vLLM does not serve",
        "use finetuning_type lora with lora_rank, lora_target and lora_dropout",
        module_dropout=0.0, oft_rank=0, oft_block_size=32, oft_target="all",
    ),
    *_all(
        "the only release of GaLore's package galore-torch is of March 2024; it works with neither DeepSpeed nor, by "
        "layer, several processes",
        LESS_MEMORY, use_galore=False, galore_target="all", galore_rank=16, galore_update_interval=200,
        galore_scale=2.0, galore_proj_type="std", galore_layerwise=False,
    ),
    *_all(
        "APOLLO's package apollo-torch has had no release since January 2025; it works with neither DeepSpeed nor "
        "accumulation by layer", LESS_MEMORY,
        use_apollo=False, apollo_target="all", apollo_rank=16, apollo_update_interval=200, apollo_scale=32.0,
        apollo_proj="random", apollo_proj_type="std", apollo_scale_type="channel", apollo_layerwise=False,
        apollo_scale_front=False,
    ),
    *_all(
        "BAdam's package badam has had no release since March 2025; it trains one block of layers after another, on "
        "one process unless ZeRO-3 holds them", LESS_MEMORY,
        use_badam=False, badam_mode="layer", badam_start_block=None, badam_switch_mode="ascending",
        badam_switch_interval=50, badam_update_ratio=0.05, badam_mask_mode="adjacent", badam_verbose=0,
    ),
    # Tracking
    *_all(
        "a copy of the Space that no longer changes is made when all runs of a project are done, not after each",
        "use trackio_space_id, and `trackio freeze` in the end", trackio_static_space_id=None,
    ),
    *_all(
        "traces of torch.profiler are files for developers, gigabytes for some steps, and no artifact of a job",
        "leave it out; seconds per step and tokens per second are always reported",
        enable_torch_profiler=False, profiler_output_dir=None, profiler_wait_steps=1, profiler_warmup_steps=1,
        profiler_active_steps=1, profiler_repeat=1, profiler_record_shapes=True, profiler_profile_memory=True,
        profiler_with_stack=True, profile_modules=None,
    ),
    # Distributed and precision
    *_all(
        "processes meet on an address that the worker chooses", "use num_processes and num_nodes", master_addr=None,
        master_port=None,
    ),
    *_all("devices and their backend are the worker's", "use num_processes", ddp_backend=None, use_cpu=False),
    *_all(
        FSDP, "use zero_stage 3 (what full_shard does), 2 (shard_grad_op), or ds_z3_offload_config.json for offload",
        fsdp=(False, "", []), fsdp_config=None, fsdp_transformer_layer_cls_to_wrap=None,
    ),
    *_all(
        "accelerate is configured by the trainer", "use zero_stage, num_processes, gradient_accumulation_steps and "
        "dataloader_num_workers", accelerator_config=None, parallelism_config=None,
    ),
    *_all(
        "8-bit floating point matrices need cards since Hopper and packages of their own (torchao, Transformer Engine)",
        "use bf16", fp8=False, fp8_backend="auto", fp8_enable_fsdp_float8_all_gather=False,
    ),
    *_all("compiling takes minutes, again at each new length of a batch, of which a training has many",
          "use enable_liger_kernel", torch_compile=False, torch_compile_backend=None, torch_compile_mode=None),
    *_all("validation computes in the precision of the training", "use bf16, fp16 or pure_bf16",
          bf16_full_eval=False, fp16_full_eval=False),
    *_all("it is given in fields of its own", "use use_reentrant_gc", gradient_checkpointing_kwargs=None),
    *_all("LF names it otherwise", "use enable_liger_kernel", use_liger_kernel=False),
    *_all("which kernels fit the stage is known to the trainer", "use enable_liger_kernel", liger_kernel_config=None),
    # Training loop
    *_all("it names the matrices of GaLore, APOLLO and LOMO, whose packages are not part of the trainer", LESS_MEMORY,
          optim_target_modules=None),
    *_all("losses and accuracies are added up batch by batch: no outputs are gathered", "leave it out",
          eval_accumulation_steps=None, prediction_loss_only=False, batch_eval_metrics=False, include_for_metrics=[]),
    *_all("trained models go to the catalog; a training does not publish them", "use then: [{kind: push, "
          "export_hub_model_id: owner/name}] and hf_hub_token", push_to_hub=False, hub_model_id=None,
          hub_token=None, hub_private_repo=None, hub_strategy="every_save", hub_always_push=False, hub_revision=None),
    # Generation and evaluation
    *_all("it counts the prompt too", "use max_new_tokens", generation_max_length=None),
    *_all("it names a file of the server", "use do_sample, temperature, top_p, top_k, num_beams and max_new_tokens",
          generation_config=None),
    *_all("tasks and their data lie where the administrator put them", "leave it out; tasks are named by tasks",
          task_dir="evaluation", download_mode="reuse_dataset_if_exists"),
    *unsupported_v1.UNSUPPORTED.items(),
    *unsupported_former.UNSUPPORTED.items(),
])  # fmt: skip

#: LF's defaults where ours are others: a file that writes everything out says nothing by them.
LF_DEFAULTS: Mapping[str, object] = {"batch_size": 4, "n_shot": 5, "max_length": 1024}

#: Accepted with any value: here it cannot change a result.
WITHOUT_EFFECT: Mapping[str, str] = {
    "upcast_lmhead_output": "logits are turned to float32 before the loss, a slice at a time",
    "use_v1_kernels": "it changes speed, not results; enable_liger_kernel gives fused kernels",
    "gradient_checkpointing": "disable_gradient_checkpointing decides, as in LF",
    "cache_dir": "the server has one cache",
    "use_fast_tokenizer": "the fast tokenizer is always used where there is one",
    "low_cpu_mem_usage": "weights are always loaded lazily",
    "offload_folder": "nothing is offloaded to disk",
    "use_kv_cache": "the cache is on when generating and off when training",
    "use_cache": "the cache is on when generating and off when training",
    "print_param_status": "numbers of trained parameters are always reported",
    "tokenized_path": "tokenized data is kept by the server and found again by all that it depends on; where LF would "
    "only prepare the data, this job trains",
    "data_shared_file_system": "data is prepared once, before the ranks start",
    "preprocessing_batch_size": "chosen by the trainer",
    "dataloader_pin_memory": "chosen by device",
    "dataloader_persistent_workers": "chosen by the trainer",
    "dataloader_prefetch_factor": "chosen by the trainer",
    "dataloader_multiprocessing_context": "chosen by the trainer",
    "dataloader_in_order": "always in order",
    "dataloader_drop_last": "the last batch is always used",
    "ddp_find_unused_parameters": "chosen by method",
    "ddp_bucket_cap_mb": "chosen by the trainer",
    "ddp_broadcast_buffers": "chosen by the trainer",
    "ddp_static_graph": "chosen by the trainer",
    "average_tokens_across_devices": "losses are always averaged over tokens of all devices",
    "remove_unused_columns": "only the columns of the stage are read",
    "label_names": "chosen by stage",
    "local_rank": "given by torchrun",
    "disable_tqdm": "progress is reported as events",
    "log_level": "set by the server",
    "log_level_replica": "set by the server",
    "log_on_each_node": "rank 0 reports",
    "logging_nan_inf_filter": "losses are reported as they are",
    "skip_memory_metrics": "memory is reported by the worker",
    "save_on_each_node": "checkpoints are uploaded to the artifact store",
    "enable_jit_checkpoint": "a stopped job always writes a checkpoint",
    "ignore_data_skip": "a resumed job goes on where it was in the data",
    "restore_callback_states_from_checkpoint": "a resumed job goes on where it was",
    "torch_empty_cache_steps": "chosen by the trainer",
    "eval_do_concat_batches": "chosen by the trainer",
    "eval_use_gather_object": "chosen by the trainer",
    "length_column_name": "lengths are known from the tokenized data",
    "sortish_sampler": "use group_by_length",
    "debug": "set by the server",
    "lang": "a task of lm-evaluation-harness is asked in its own language",
    "skip_special_tokens": "drawn answers are scored as tokens",
    **unsupported_former.WITHOUT_EFFECT,
}
