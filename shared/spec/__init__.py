"""What a job is told to do, as frozen values: every hyper-parameter of training, export, generation and serving.

A spec is a frozen dataclass of groups, a group a frozen dataclass of params (`spec.lora.rank`), each with one flat
wire name, LLaMA Factory's where it has one. `shared.schema` is the only door through which outside data becomes one.
"""

from shared.spec.data import Data
from shared.spec.deploy import DeploySpec
from shared.spec.distributed import Distributed
from shared.spec.drawing import Drawing
from shared.spec.evaluate import EvaluateSpec
from shared.spec.export import Export, ExportSpec, Source
from shared.spec.generate import GenerateSpec, Sampling
from shared.spec.loop import Loop
from shared.spec.lora import Lora
from shared.spec.model import Model
from shared.spec.optimizer import Train
from shared.spec.optimizer_options import OptimizerOptions
from shared.spec.output import Output
from shared.spec.preference import Preference
from shared.spec.push import PushSpec, Repository
from shared.spec.train import TrainSpec
from shared.spec.tuning import Freeze, Tuning

#: The spec of each kind of job, and of a deployment.
SPECS: dict[str, type] = {
    "train": TrainSpec,
    "export": ExportSpec,
    "generate": GenerateSpec,
    "evaluate": EvaluateSpec,
    "push": PushSpec,
    "deploy": DeploySpec,
}

__all__ = [
    "SPECS", "Data", "DeploySpec", "Distributed", "Drawing", "EvaluateSpec", "Export", "ExportSpec", "Freeze",
    "GenerateSpec", "Loop", "Lora", "Model", "OptimizerOptions", "Output", "Preference", "PushSpec", "Repository",
    "Sampling", "Source", "Train", "TrainSpec", "Tuning",
]  # fmt: skip
