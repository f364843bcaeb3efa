"""How a training is spread over devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.deepspeed import OFFLOADED, DeepSpeedConfig
from shared.param import param
from shared.rayinit import RayOptions
from shared.rules import rule
from shared.tongues import Text


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
    zero_offload: str = param(
        "none",
        "What DeepSpeed keeps in the host's memory with `zero_stage`: the optimizer's state, with 3 also the weights.",
        choices=tuple(OFFLOADED),
        source="ours",
        advice="The last resort: slower by far, and what it moves takes memory of the host.",
        picture="Books that do not fit the desk stand in the next room: each look costs a walk.",
        since=3,
    )
    use_ray: bool = param(
        False,
        "Start the processes through Ray Train instead of torchrun: in the server's Ray cluster, where it has none in "
        "a Ray of the job's own.",
        advice="Only where a Ray cluster has the devices: it learns the same, and starts later.",
    )
    ray_num_workers: int = param(
        1,
        "Processes of a training that starts through Ray, a device each; only with `use_ray`.",
        minimum=1,
        maximum=1024,
        since=2,
    )
    ray_init_kwargs: dict[str, Any] | None = param(
        None,
        "Options of ray.init for a Ray of the job's own, an object or its JSON: num_cpus, object_store_memory, "
        "log_to_driver, logging_level.",
        type=dict,
        field_class=RayOptions,
        since=3,
    )

    @property
    def processes(self) -> int | None:
        """Processes on each node, whoever starts them; None: left out."""
        return max(self.ray_num_workers, self.num_processes or 1) if self.use_ray else self.num_processes

    @property
    def counted_by(self) -> str:
        """The parameter that says `processes`."""
        return "ray_num_workers" if self.use_ray and self.num_processes is None else "num_processes"

    def num_ranks(self, num_devices: int = 1) -> int:
        """Processes of all nodes together; `num_devices` of all nodes count where the spec does not say."""
        return self.processes * self.num_nodes if self.processes else max(num_devices, self.num_nodes)

    @rule("num_nodes")
    def ray_spreads_by_itself(self) -> str | None:
        several = self.num_nodes > 1 and self.use_ray
        return "cannot be given together with use_ray: set ray_num_workers, Ray spreads them" if several else None

    @rule("zero_stage")
    def one_way_to_say_deepspeed(self) -> str | None:
        both = self.zero_stage is not None and self.deepspeed is not None
        return "cannot be given together with deepspeed: the preset names its stage" if both else None

    @rule("zero_offload")
    def offloading_is_said_once(self) -> str | None:
        both = self.zero_offload != "none" and self.deepspeed is not None
        return "cannot be given together with deepspeed: say it there, or use zero_stage" if both else None

    @rule("zero_offload")
    def offloading_needs_a_stage_that_shares(self) -> str | None:
        needed = {"none": (self.zero_stage,), "optimizer": (1, 2, 3), "optimizer+params": (3,)}[self.zero_offload]
        fits = self.deepspeed is not None or self.zero_stage in needed
        told = {"given": self.zero_offload, "allowed": ", ".join(str(stage) for stage in needed)}
        return None if fits else Text("is {given}: needs zero_stage {allowed}", **told)

    @rule("ray_num_workers")
    def processes_are_counted_once(self) -> str | None:
        theirs, ours = self.ray_num_workers, self.num_processes
        differ = self.use_ray and theirs != 1 and ours is not None and ours != theirs
        text = "is {theirs}, and num_processes is {ours}: leave one of them out"
        return Text(text, theirs=theirs, ours=ours) if differ else None

    @rule("ray_init_kwargs")
    def ray_has_enough_for_every_process(self) -> str | None:
        given = self.ray_init_kwargs or {}
        for name in ("num_cpus", "num_gpus"):
            if self.use_ray and given.get(name) is not None and given[name] < (self.processes or 1):
                text = "has {name} {given}, which is less than the {count} processes: they would wait for ever"
                return Text(text, name=name, given=given[name], count=self.processes)
        return None
