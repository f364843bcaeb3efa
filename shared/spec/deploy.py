"""The spec of a deployment: a model and the program that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared import engines, templates
from shared.param import MISSING, group, param
from shared.rules import rule
from shared.spec import deploy_generation, deploy_server
from shared.spec.deploy_adapters import AdapterServing
from shared.spec.deploy_generation import Answering
from shared.spec.deploy_hosting import Hosting
from shared.spec.deploy_queue import DeployQueue
from shared.spec.deploy_scaling import Scaling
from shared.spec.deploy_server import Server
from shared.tongues import Text


@dataclass(frozen=True, kw_only=True)
class DeploySpec:
    model: str = param(
        MISSING,
        "Model to serve: a name of the catalog.",
        type=str,
        kind="model",
        source="OpenAI",
        aliases=("model_name_or_path",),
    )
    adapter_name_or_path: str | None = param(
        None, "Adapter of the catalog to serve, one that was trained on the model.", type=str, kind="model", since=2
    )
    name: str | None = param(
        None, "Name under which requests ask for it. Left out: the model's.", type=str, kind="output", source="ours"
    )
    engine: str = param(
        engines.VLLM,
        "Program that answers: vllm; transformers for a model that vLLM cannot load, which is several times slower.",
        choices=tuple(engines.ENGINES),
        source="ours",
        since=5,
    )
    template: str | None = param(
        None,
        "Chat template. Left out: the model's own.",
        type=str,
        kind="template",
        choices=templates.names(),
        check=templates.complaint,
    )
    enable_thinking: bool | None = param(
        None,
        "Whether a model that thinks does so before it answers, where a request does not say. Left out: as trained.",
        type=bool,
        since=2,
    )
    preserve_thinking: bool | None = param(
        None,
        "Whether the thoughts of earlier answers are read, where a request does not say. Left out: as trained.",
        type=bool,
        since=2,
    )
    replicas: int = param(1, "vLLM processes that serve it.", minimum=1, maximum=64, source="ours")
    scaling: Scaling = group(Scaling)
    dtype: str = param(
        "auto",
        "Number format of weights and activations.",
        choices=("auto", "float16", "bfloat16", "float32"),
        aliases=("infer_dtype",),
        source="vLLM",
    )
    max_model_len: int = param(
        4096, "Longest prompt and answer together.", minimum=16, maximum=10_485_760, unit="tokens",
        aliases=("vllm_maxlen",), source="LF",
    )  # fmt: skip
    gpu_memory_utilization: float = param(
        0.7,
        "Share of a card's memory that vLLM takes.",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1.0,
        aliases=("vllm_gpu_util",),
    )
    enforce_eager: bool = param(
        False, "Start faster and answer slower: no CUDA graphs.", aliases=("vllm_enforce_eager",)
    )
    vllm_max_lora_rank: int = param(
        32,
        "Largest rank of an adapter that is served unmerged.",
        choices=(1, 8, 16, 32, 64, 128, 256, 320, 512),
        aliases=("max_lora_rank",),
    )
    adapters: AdapterServing = group(AdapterServing)
    answering: Answering = group(Answering)
    hosting: Hosting = group(Hosting)
    server: Server = group(Server)
    tensor_parallel_size: int = param(
        1, "Devices that share one copy of the model.", minimum=1, maximum=64, source="vLLM"
    )
    max_num_seqs: int | None = param(
        None, "Requests answered at once. Left out: vLLM's own.", type=int, minimum=1, maximum=65_536, source="vLLM"
    )
    seed: int = param(0, "Seed of the server.", minimum=0, maximum=2**32 - 1, source="vLLM")
    trust_remote_code: bool = param(False, "Whether the model may bring Python code of its own.")
    queue: DeployQueue = group(DeployQueue)

    @property
    def served(self) -> str:
        """The model of the catalog that answers: an adapter brings its base along."""
        return self.adapter_name_or_path or self.model

    @rule("engine")
    def arguments_of_vllm_need_vllm(self) -> str | None:
        said = self.server.said()
        if self.engine == engines.VLLM or not said:
            return None
        return Text("is {engine}, which has no {names}: leave it out", engine=self.engine, names=", ".join(said))

    @staticmethod
    def gathered(body: Mapping[str, Any]) -> dict[str, Any]:
        """The body with what LF writes flat in the fields that it belongs to."""
        return deploy_server.gathered(deploy_generation.gathered(body))

    @rule("replicas")
    def first_number_is_allowed(self) -> str | None:
        most = self.scaling.max_replicas
        return None if most is None or self.replicas <= most else Text("is above max_replicas {most}", most=most)

    def resolved(self) -> DeploySpec:
        return replace(self, template=templates.replacing(self.template))
