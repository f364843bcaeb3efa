"""How a training is spread over devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.deepspeed import DeepSpeedConfig
from shared.param import param
from shared.rules import rule


@dataclass(frozen=True, kw_only=True)
class Distributed:
    num_processes: int | None = param(
        None,
        "Devices that the job takes, one process each; of every node where `num_nodes` is above 1. Left out: 1.",
        type=int,
        minimum=1,
        maximum=1024,
        source="ours",
        aliases=("num_gpus", "nproc_per_node"),
    )
    num_nodes: int = param(
        1,
        "Training workers that train together, with `num_processes` each; they are claimed all at once or not at all.",
        minimum=1,
        maximum=1024,
        source="ours",
        advice="Only when one machine has too few devices: the network between machines is slower.",
        picture="A choir on two stages that must keep the same beat.",
        aliases=("nnodes",),
        since=3,
    )
    deepspeed: dict[str, Any] | None = param(
        None,
        "DeepSpeed configuration: an object, or the name of a preset such as ds_z3_config.json.",
        type=dict,
        kind="deepspeed",
        source="HF",
        field_class=DeepSpeedConfig,
    )
    zero_stage: int | None = param(
        None,
        "Shard over the devices with DeepSpeed: 1 optimizer, 2 also gradients, 3 also weights.",
        type=int,
        choices=(0, 1, 2, 3),
        source="ours",
        advice="3 when the model does not fit one card, else 2: it gathers less.",
        picture="Friends who carry one tent in parts instead of each a whole one.",
    )
    use_ray: bool = param(False, "Start the processes through Ray instead of torchrun.")
    ray_num_workers: int = param(
        1, "Processes of a training that starts through Ray; only with `use_ray`.", minimum=1, maximum=1024, since=2
    )

    def num_ranks(self, num_devices: int = 1) -> int:
        """Processes of all nodes together; `num_devices` of all nodes count where the spec does not say."""
        return self.num_processes * self.num_nodes if self.num_processes else max(num_devices, self.num_nodes)

    @rule("num_nodes")
    def ray_spreads_by_itself(self) -> str | None:
        several = self.num_nodes > 1 and self.use_ray
        return "cannot be given together with use_ray: set ray_num_workers, Ray spreads them" if several else None

    @rule("zero_stage")
    def one_way_to_say_deepspeed(self) -> str | None:
        both = self.zero_stage is not None and self.deepspeed is not None
        return "cannot be given together with deepspeed: the preset names its stage" if both else None

    @rule("use_ray", code="unsupported")
    def no_ray_yet(self) -> str | None:
        return "is not supported yet: leave it out, jobs start through torchrun" if self.use_ray else None
