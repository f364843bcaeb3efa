"""The spec of an evaluation: which model is measured, on which datasets and benchmark tasks, and by what.

A dataset is read as a training reads it (`as_training`), so that the loss of an evaluation is that of a validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shared import templates
from shared.fields import Message, shown
from shared.nearest import did_you_mean
from shared.param import MISSING, group, param
from shared.rules import rule
from shared.spec.data import Data
from shared.spec.model import Model
from shared.spec.optimizer import Train
from shared.spec.train import TrainSpec
from shared.spec.tuning import Tuning
from shared.tongues import Text

#: How probable the model finds the answers of the data: their mean loss, its exponential, how often the likeliest
#: token is the right one.
LIKELIHOOD = ("loss", "perplexity", "accuracy")
#: How near answers that the model writes itself come to those of the data.
GENERATION = ("bleu", "rouge", "exact_match")
METRICS = (*LIKELIHOOD, *GENERATION)
#: What rows an evaluation can read, by the stage that learns from them.
STAGES = ("sft", "pt", "rm", "dpo")
#: LF's names of benchmarks -> lm-evaluation-harness's.
LF_TASKS: Mapping[str, str] = {
    "mmlu_test": "mmlu", "ceval_validation": "ceval-valid", "cmmlu_test": "cmmlu",
}  # fmt: skip
DTYPES = ("auto", "float16", "bfloat16", "float32")
MAX_TASKS = 256


def _metrics(value: list[str]) -> Message | None:
    wrong = [name for name in value if name not in METRICS]
    if not wrong:
        return None
    near = did_you_mean(wrong[0], METRICS)
    text = "has {name}: must be of {allowed}{near}"
    return Message(text, "invalid_choice", name=shown(wrong[0]), allowed=", ".join(METRICS), near=near)


def _tasks(value: list[str]) -> Message | None:
    if len(value) > MAX_TASKS:
        return Message("has {count} entries: at most {most}", count=len(value), most=MAX_TASKS)
    wrong = [name for name in value if not all(char.isalnum() or char in "-_.+:|" for char in name)]
    return Message("has {name}: must be a task's name", name=shown(wrong[0])) if wrong else None


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The model, and how it is loaded."""

    model_name_or_path: str = param(
        MISSING,
        "Model to evaluate: any name of the catalog (an adapter is put on its base), a hub id, or a path under the "
        "server's import roots.",
        type=str,
        kind="model",
        aliases=("model",),
        since=3,
    )
    adapter_name_or_path: str | None = param(
        None, "Adapter on top of the model; of several, with commas between, each is put on those before.", type=str,
        kind="model", since=3,
    )  # fmt: skip
    model_revision: str = param("main", "Branch, tag or commit when the model comes from the hub.", since=3)
    trust_remote_code: bool = param(False, "Whether the model may bring Python code of its own.", since=3)
    infer_dtype: str = param(
        "auto", "Number format in which the model computes; `auto`: that of its files where the device is fast at it.",
        choices=DTYPES, since=3,
    )  # fmt: skip
    quantization_bit: int | None = param(
        None, "Load the model in this many bits.", type=int, choices=(4, 8), unit="bits", since=3
    )
    hf_hub_token: str | None = param(
        None, "Hugging Face token for gated models; sealed apart from the job.", type=str, secret=True, since=3
    )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What of the data is read, and how it is written for the model."""

    eval_dataset: list[str] = param(
        [], "Datasets to evaluate on, each by itself: ids or names of uploaded datasets.", kind="dataset",
        aliases=("dataset",), since=3,
    )  # fmt: skip
    dataset_dir: str = param(
        "data", "Folder below an import root whose `dataset_info.json` describes datasets.", since=3
    )
    stage: str = param(
        "sft",
        "What is asked of a row: to answer (`sft`), to continue (`pt`), or to tell the better of two answers, by a "
        "reward model (`rm`) or by how probable each is (`dpo`).",
        choices=STAGES,
        since=3,
    )
    template: str | None = param(
        None, "Chat template. Left out: that of the model's training, else the model's own.", type=str,
        kind="template", choices=templates.names(), check=templates.complaint, since=3,
    )  # fmt: skip
    default_system: str | None = param(None, "System prompt of conversations that have none.", type=str, since=3)
    enable_thinking: bool | None = param(
        True, "For models that think: as in a training.", nullable=True, since=3
    )  # fmt: skip
    cutoff_len: int = param(
        2048, "Longest sample; what is longer is cut.", minimum=8, maximum=4_194_304, unit="tokens", since=3
    )
    mask_history: bool = param(False, "Count the last answer of a conversation only.", since=3)
    max_samples: int | None = param(
        None, "Rows taken of each dataset, the first of the file.", type=int, minimum=1, since=3,
        advice="Some hundreds: the standard error beside each number says whether that is enough.",
    )  # fmt: skip
    preprocessing_num_workers: int | None = param(
        None, "Processes that tokenize. Left out: one.", type=int, minimum=1, maximum=1024, since=3
    )
    overwrite_cache: bool = param(False, "Tokenize again even if the same data was tokenized before.", since=3)


@dataclass(frozen=True, kw_only=True)
class Measuring:
    metrics: list[str] = param(
        [],
        "What is measured on the datasets. Left out: `loss`, `perplexity` and `accuracy`, and with "
        "predict_with_generate also `bleu`, `rouge` and `exact_match`.",
        source="ours",
        check=_metrics,
        since=3,
    )
    predict_with_generate: bool = param(
        False, "Let the model answer, and compare its answers with the data's by bleu, rouge and exact match.",
        source="HF", aliases=("do_predict",), since=3,
    )  # fmt: skip
    per_device_eval_batch_size: int = param(
        8, "Samples or answers computed at once; halved by itself where the memory does not suffice.", minimum=1,
        maximum=4096, source="HF", aliases=("batch_size",), since=3,
    )  # fmt: skip
    seed: int = param(
        42, "Seed of drawn answers and of the examples of tasks.", minimum=0, maximum=2**32 - 1, source="HF", since=3
    )
    output_dir: str | None = param(
        None, "Label of the evaluation, kept with the job; no path of the server.", type=str, kind="output",
        source="HF", aliases=("save_dir",), since=3,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are written."""

    do_sample: bool = param(
        False, "Draw tokens at random; false takes the likeliest, which is the same every time.", since=3,
        advice="false: two models are compared by their answers and not by chance.",
    )  # fmt: skip
    temperature: float = param(
        0.95, "Randomness of drawn tokens.", minimum=0.0, exclusive_minimum=True, maximum=2.0, since=3
    )
    top_p: float = param(
        0.7, "Draw from the likeliest tokens that add up to this.", minimum=0.0, exclusive_minimum=True, maximum=1.0,
        since=3,
    )  # fmt: skip
    top_k: int = param(
        50, "Draw from this many likeliest tokens; -1 or 0: all.", minimum=-1, maximum=1_000_000, since=3
    )
    max_new_tokens: int = param(
        1024, "Longest answer.", minimum=1, maximum=1_048_576, unit="tokens",
        aliases=("max_tokens", "max_completion_tokens"), since=3,
    )  # fmt: skip
    repetition_penalty: float = param(
        1.0, "Above 1 makes repeated tokens less likely.", minimum=0.0, exclusive_minimum=True, maximum=2.0, since=3
    )
    num_beams: int = param(
        1, "Beams that are followed at once; 1: none.", minimum=1, maximum=64,
        aliases=("eval_num_beams", "generation_num_beams"), since=3,
    )  # fmt: skip
    length_penalty: float = param(
        1.0, "Of beams: above 0 favours longer answers.", minimum=-100.0, maximum=100.0, since=3
    )
    skip_special_tokens: bool = param(True, "Leave special tokens out of the answers.", since=3)


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    tasks: list[str] = param(
        [], "Tasks of lm-evaluation-harness: those of the administrator's folder, and where the Hub is on all that it "
        "ships.", source="lm-eval", aliases=("task",), check=_tasks, since=3,
    )  # fmt: skip
    n_shot: int | None = param(
        None, "Solved examples before each question of a task. Left out: as many as the task says.", type=int,
        minimum=0, maximum=100, aliases=("num_fewshot",), since=3,
    )  # fmt: skip
    limit: int | None = param(
        None, "Questions of each task, for trying out. Left out: all.", type=int, minimum=1, source="lm-eval", since=3
    )
    apply_chat_template: bool = param(
        False, "Ask the questions of tasks in the chat template.", source="lm-eval", since=3
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    model: Evaluated = group(Evaluated)
    data: Rows = group(Rows)
    measuring: Measuring = group(Measuring)
    decoding: Decoding = group(Decoding)
    benchmarks: Benchmarks = group(Benchmarks)

    @rule("eval_dataset", code="required")
    def something_to_evaluate_on(self) -> str | None:
        given = self.data.eval_dataset or self.benchmarks.tasks
        return None if given else "is required: name a dataset, or tasks"

    @rule("metrics")
    def metrics_are_of_datasets(self) -> str | None:
        wrong = self.measuring.metrics and not self.data.eval_dataset
        return "are measured on a dataset: give eval_dataset; tasks bring metrics of their own" if wrong else None

    @rule("predict_with_generate")
    def answers_are_written_from_conversations(self) -> str | None:
        wrong = self.data.stage != "sft" and self.generates()
        return Text("cannot be asked of stage {stage}: set it to sft", stage=self.data.stage) if wrong else None

    @rule("tasks")
    def tasks_are_answered_by_probabilities(self) -> str | None:
        wrong = self.data.stage == "rm" and self.benchmarks.tasks
        return "cannot be answered by a reward model: leave stage out" if wrong else None

    @rule("eval_dataset")
    def no_dataset_twice(self) -> str | None:
        names = self.data.eval_dataset
        twice = next((name for name in names if names.count(name) > 1), None)
        return None if twice is None else Text("names {name!r} twice", name=twice)

    def generates(self) -> bool:
        return self.measuring.predict_with_generate or any(name in GENERATION for name in self.measuring.metrics)

    def measures_likelihood(self) -> bool:
        """Whether the data's own answers are read; pairs always are."""
        return bool(self.data.eval_dataset) and any(name in LIKELIHOOD for name in self.measuring.metrics)

    @property
    def adapters(self) -> list[str]:
        return [name.strip() for name in (self.model.adapter_name_or_path or "").split(",") if name.strip()]

    def resolved(self) -> EvaluateSpec:
        """Metrics and tasks under the names that they have here, the template as it is."""
        given = self.measuring.metrics if self.data.eval_dataset else []
        if self.data.eval_dataset and not given:
            given = list(LIKELIHOOD)
        wanted = {*given, *(GENERATION if self.measuring.predict_with_generate and self.data.eval_dataset else ())}
        measuring = replace(self.measuring, metrics=[name for name in METRICS if name in wanted])
        tasks = list(dict.fromkeys(LF_TASKS.get(name, name) for name in self.benchmarks.tasks))
        return replace(
            self,
            data=replace(self.data, template=templates.settled(self.data.template)),
            measuring=replace(measuring, predict_with_generate=any(name in GENERATION for name in measuring.metrics)),
            benchmarks=replace(self.benchmarks, tasks=tasks),
        )

    def as_training(self) -> TrainSpec:
        """A training that would read the same rows in the same way."""
        given, model = self.data, self.model
        spec = TrainSpec(
            model=Model(
                model_name_or_path=model.model_name_or_path,
                model_revision=model.model_revision,
                trust_remote_code=model.trust_remote_code,
                quantization_bit=model.quantization_bit,
            ),
            data=Data(
                dataset=list(given.eval_dataset),
                template=given.template,
                default_system=given.default_system,
                enable_thinking=given.enable_thinking,
                cutoff_len=given.cutoff_len,
                mask_history=given.mask_history,
                max_samples=given.max_samples,
                preprocessing_num_workers=given.preprocessing_num_workers,
                overwrite_cache=given.overwrite_cache,
            ),
            tuning=Tuning(stage=given.stage),
            train=Train(
                per_device_eval_batch_size=self.measuring.per_device_eval_batch_size,
                seed=self.measuring.seed,
                bf16=model.infer_dtype == "bfloat16",
                fp16=model.infer_dtype == "float16",
            ),
        )
        return spec.resolved()
