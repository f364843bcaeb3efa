"""Names that LF and transformers had in years before and dropped: files from then still post, or are told the new name.

A name that only changed is not here but `deprecated` at its parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.refused import Refused, entries

UNSUPPORTED: Mapping[str, Refused] = dict([
    *entries("LF has replaced it", "use cutoff_len", max_source_length=None, max_target_length=None),
    *entries("LF's folder of tokenized data was called so; tokenized data is cached by the server", "leave it out",
             cache_path=None),
    *entries("models and data are text here, and LF has replaced it", "use text-only data and a text-only model",
             image_resolution=None, video_resolution=None),
    *entries("models with images are told by their config", "leave it out", visual_inputs=False),
    *entries("transformers has replaced it", "use optim adafactor", adafactor=False),
    *entries(
        "transformers has replaced it", "use per_device_train_batch_size and per_device_eval_batch_size",
        per_gpu_train_batch_size=None, per_gpu_eval_batch_size=None,
    ),
    *entries("devices are the worker's", "use num_processes", no_cuda=False, use_mps_device=False, tpu_num_cores=None),
    *entries("which results Ray keeps and where is the platform's", "leave it out", ray_run_name=None,
             ray_storage_path=None, ray_storage_filesystem=None, resources_per_worker=None, placement_strategy="PACK"),
    *entries("a training does not publish models", "export the model and push its files with the Hub's own client",
             push_to_hub_model_id=None, push_to_hub_organization=None, push_to_hub_token=None),
    *entries("pickled weights can run code: only safetensors are written", "leave it out", save_safetensors=True),
])  # fmt: skip

WITHOUT_EFFECT: Mapping[str, str] = {
    "logging_dir": "with report_to tensorboard its files lie with the model",
    "half_precision_backend": "mixed precision is torch's own",
    "fp16_backend": "mixed precision is torch's own",
    "fp16_opt_level": "mixed precision is torch's own",
    "dispatch_batches": "chosen by the trainer",
    "split_batches": "chosen by the trainer",
    "include_tokens_per_second": "tokens per second are always reported",
    "include_inputs_for_metrics": "chosen by stage",
    "use_ipex": "chosen by device",
    "jit_mode_eval": "chosen by the trainer",
    "past_index": "no model that is trained here has it",
    "ray_scope": "there is no search over hyper-parameters",
    "reserved_label_len": "prompt and answer share cutoff_len by their lengths",
}
