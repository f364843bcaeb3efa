"""What an export proves of prompts, ends of answers, rows and limits, and that it fails where one of them is broken."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from export_worker.child import __main__ as child
from export_worker.child import answers, loading, served, verify
from export_worker.child.answers import Answer
from export_worker.child.asked import Prompt, Sample
from export_worker.child.failed import VerificationFailed
from export_worker.child.held_out import Known, gather
from export_worker.child.publish import Found, publish
from export_worker.child.reading import Questions, Reading
from export_worker.child.serving import Served, Serving
from export_worker.child.watch import Watch
from shared import schema, witness
from shared.spec import TrainSpec
from shared.spec.parity import Parity
from tests.child.export_fixtures import Recorder, llama, lora, write_rows
from tests.child.test_export_run import attempt_folder, left_behind, run_here

QUICK = {"export_verify_answers": 1, "export_verify_answer_tokens": 8, "export_verify_rows": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "base", tied=True)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return lora(base, base.parent / "adapter")


def trained(folder: Path, base: Path, *adapters: Path, spec: dict[str, Any] | None = None, **run: Any) -> Path:
    """An export of what a training made: its spec and its datasets are known."""
    training = schema.load(TrainSpec, {"model_name_or_path": "tiny", "dataset": "facts", "eval_dataset": "more"})
    rows = write_rows(folder.with_suffix(".json"), 12)
    held_out = [{"path": str(rows), "format": "alpaca", "columns": {}, "name": "more"}]
    members = {"training": schema.to_wire(training), "held_out": held_out} | run
    return attempt_folder(folder, base, *adapters, spec=QUICK | (spec or {}), **members)


class Saboteur(Recorder):
    """Changes one of the written JSON files before it is verified."""

    def __init__(self, folder: Path, name: str, **members: Any):
        super().__init__()
        self._file = folder / "scratch" / "output" / name
        self._members = members

    def emit(self, type: str, message: str = "", level: str = "info", **data: Any) -> None:
        if type == "phase" and data["phase"] == "verify":
            told = json.loads(self._file.read_text()) if self._file.is_file() else {}
            self._file.write_text(json.dumps(told | self._members))
        super().emit(type, message, level, **data)


def test_prompts_and_ends_are_those_of_the_training(base: Path, adapter: Path, tmp_path: Path) -> None:
    found = run_here(trained(tmp_path / "a", base, adapter))["verification"]
    prompted = found["prompts"]
    assert (prompted["num_prompts"], prompted["num_same"], prompted["compared_with"]) == (12, 12, "the training")
    assert (prompted["ends"], prompted["stops"]) == ([1], [1])
    assert (found["num_rows"], found["rows_from"]) == (4, "the evaluation data of the training")
    assert found["weights"]["compared"] and found["weights"]["num_changed"] == 8
    assert found["merge"]["answers"]["num_answers"] == 1
    assert found["vllm"] == {"proven": False, "why": ""}


def test_the_very_rows_that_the_training_held_out_are_known_again(base: Path, adapter: Path, tmp_path: Path) -> None:
    training = schema.load(TrainSpec, {"model_name_or_path": "tiny", "dataset": "facts", "val_size": 2})
    rows = str(write_rows(tmp_path / "a.json", 12))
    known = Known(
        spec=training,
        evaluated=[],
        trained=[{"path": rows, "format": "alpaca", "columns": {}, "name": "facts"}],
        calibration=[],
        tokenizer=base,
    )
    spoken = "<|im_start|>user\nQuestion 7?<|im_end|>\n<|im_start|>assistant\nAnswer number 7.<|im_end|>"
    ids = AutoTokenizer.from_pretrained(base)(spoken).input_ids
    told = {"from": "val_size", "digests": [witness.digest(ids), "0" * 16]}
    found = gather(replace(known, witnesses=told), 4)
    assert [sample.input_ids for sample in found.samples] == [ids]
    assert (found.rows_from, found.recognized) == ("the rows that the training held out (val_size)", (1, 2))
    assert gather(replace(known, witnesses=told | {"digests": ["0" * 16]}), 4).recognized == (0, 1)


def test_another_template_than_that_of_the_training_fails_unless_it_is_wanted(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = trained(tmp_path / "a", base, adapter, template="llama3")
    with pytest.raises(VerificationFailed, match="12 of 12 prompts are other tokens") as raised:
        run_here(folder)
    assert (raised.value.field, raised.value.figures["num_same"]) == ("template", 0)
    assert left_behind(folder) == []
    wanted = trained(tmp_path / "b", base, adapter, template="llama3", spec={"export_verify_prompt": False})
    assert run_here(wanted)["verification"]["prompts"]["num_same"] == 0


def test_a_lost_end_fails(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / "a", base, adapter)
    with pytest.raises(VerificationFailed, match=r"answers would not end: .*'<\|im_end\|>'"):
        run_here(folder, Saboteur(folder, "generation_config.json", eos_token_id=7))
    assert left_behind(folder) == []


def test_an_end_that_the_bases_files_lack_is_completed_and_told(base: Path, adapter: Path, tmp_path: Path) -> None:
    forgetful = shutil.copytree(base, tmp_path / "base")
    (forgetful / "generation_config.json").write_text('{"eos_token_id": 7, "top_p": 0.8}')
    recorder = Recorder()
    folder = trained(tmp_path / "a", forgetful, adapter)
    run_here(folder, recorder)
    told = json.loads((folder / "output" / "generation_config.json").read_text())
    assert told == {"eos_token_id": [1, 7], "top_p": 0.8}
    assert [event["data"]["tokens"] for event in recorder.of_type("message") if "tokens" in event["data"]] == [[1]]


def test_a_limit_that_is_crossed_fails_the_job_with_code_and_figures(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / "a", base, adapter, spec={"export_max_logit_difference": 0.0})
    with pytest.raises(VerificationFailed):
        child.main(folder)
    error = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])["data"]["error"]
    assert (error["code"], error["class"]) == ("verification_failed", "VerificationFailed")
    assert 0 < error["details"]["relative_difference"] < 0.05 and "(limit 0.0)" in error["message"]
    assert left_behind(folder) == []


def test_nothing_is_published_before_vllm_was_asked_where_it_is_there(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = trained(tmp_path / "a", base, adapter, serves=True)
    assert child.main(folder) == 0
    assert json.loads((folder / "events.jsonl").read_text().splitlines()[-1])["type"] == "phase_done"
    assert not any((folder / "output").iterdir())
    told, found = Serving.load(folder / "scratch"), Found.load(folder / "scratch")
    assert (len(told.samples), len(told.prompts), told.models[0].name) == (4, 12, "merged")
    assert told.models[0].loss == found.verification["merge"]["loss"] and len(told.models[0].answers) == 1

    done = publish(found.with_vllm({"proven": True}), Watch(Recorder()))

    assert done["verification"]["vllm"] == {"proven": True} and {"merge", "verify", "publish"} <= done["seconds"].keys()
    card = (folder / "output" / "README.md").read_text()
    assert "12 of 12 are the same tokens as in the training; generation stops at tokens 1" in card


def reading(logits: torch.Tensor, loss: float = 1.0, **answer: Any) -> Reading:
    said = Answer(**({"ids": [5, 6, 1], "text": "", "ended": True, "rivals": [{5: 0.0}, {6: 0.0}, {1: 0.0}]} | answer))
    return Reading(logits=[logits], row_losses=[loss * len(logits)], row_tokens=[len(logits)], answers=[said])


@pytest.mark.parametrize(
    ("moved", "effect", "answer", "text"),
    [
        (0.3, None, {}, "logits differ"),
        (0.04, 0.05, {}, "of what the adapter does is lost"),
        (math.nan, 1.0, {}, "logits differ by nan"),
        (0.0, 1.0, {"ids": [5, 6, 1, 9], "ended": False}, "answer 1 goes on after 3 tokens"),
        (0.0, 1.0, {"ids": [5, 6], "ended": True}, "answer 1 ends after 2 tokens"),
        (0.0, 1.0, {"ids": [5, 9, 1]}, "answer 1 parts after 1 tokens"),
    ],
)
def test_a_merged_model_that_answers_otherwise_fails(
    moved: float, effect: float | None, answer: dict[str, Any], text: str
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 40)
    noise = torch.randn(50, 40)
    with pytest.raises(VerificationFailed, match=text):
        verify.check_merge(reading(logits), reading(logits + moved * noise, **answer), effect, Parity())
    verify.check_merge(reading(logits), reading(logits + 0.001 * noise), 1.0, Parity())


def test_a_quantized_model_fails_by_its_perplexity_and_where_it_forgot_to_end() -> None:
    logits = torch.eye(3, 4)
    found = verify.check_quantized(reading(logits, 1.0), reading(logits, 1.3), Parity())
    assert found["perplexity_ratio"] == pytest.approx(math.exp(0.3))
    with pytest.raises(VerificationFailed, match=r"2\.01 times the merged model's \(limit 1\.5\)"):
        verify.check_quantized(reading(logits, 1.0), reading(logits, 1.7), Parity())
    # Another answer is what rounding may cost; the same one that does not end is not.
    verify.check_quantized(reading(logits), reading(logits, ids=[5, 9, 9, 9], ended=False), Parity())
    with pytest.raises(VerificationFailed, match="goes on after 3 tokens, where it should end"):
        verify.check_quantized(reading(logits), reading(logits, ids=[5, 6, 1, 9], ended=False), Parity())


class FakeServer:
    """Answers as told, with the routes of a vLLM server's client."""

    def __init__(self, *, prompt: Sequence[int] = (3, 4), loss: float = 1.0, answer: Sequence[int] = (5, 1)):
        self._prompt, self._loss, self._answer = list(prompt), loss, list(answer)

    def tokens(self, messages: Any, tools: Any) -> list[int]:
        return self._prompt

    def chat(self, messages: Any) -> list[int]:
        return self._prompt

    def losses(self, ids: Sequence[int], score_from: int) -> list[float]:
        return [self._loss] * (len(ids) - score_from)

    def answer(self, prompt: Sequence[int]) -> Answer:
        return Answer(ids=self._answer, text="", ended=self._answer[-1] == 1)


@pytest.mark.parametrize(
    ("server", "text"),
    [
        (FakeServer(prompt=(3, 9)), "vLLM writes prompts otherwise"),
        (FakeServer(loss=1.2), r"its loss is 1\.200 instead of 1\.000"),
        (FakeServer(loss=math.nan), "its loss is nan"),
        (FakeServer(answer=(5, 1, 8)), "goes on after 2 tokens, where it should end"),
        (FakeServer(answer=(8, 1)), "parts after 0 tokens"),
    ],
)
def test_files_that_vllm_answers_otherwise_fail(server: FakeServer, text: str) -> None:
    said = Answer(ids=[5, 1], text="", ended=True, rivals=[{5: 0.0, 7: 0.4}, {1: 0.0}])
    model = Served(name="merged", folder="", loss=1.0, answers=[said])
    told = Serving(
        models=[model], samples=[Sample(input_ids=[3, 4, 5, 1], score_from=2, answer_from=2)],
        prompts=[Prompt(messages=[], tools=None, ids=[3, 4])], answer_tokens=3, trust_remote_code=False,
        max_answer_gap=1.0, max_difference=0.1, max_perplexity_ratio=1.5, is_required=False,
    )  # fmt: skip
    watch = Watch(Recorder())
    with pytest.raises(VerificationFailed, match=text):
        served.ask(server, told, model, watch)
    # A token nearly as likely is no other answer.
    found = served.ask(FakeServer(answer=(7, 1)), told, model, watch)
    assert (found["num_same_prompts"], found["answers"]["largest_gap"]) == (1, 0.4)


def test_answers_keep_their_rivals_through_json() -> None:
    said = Answer(ids=[5], text="x", ended=False, rivals=[{5: 0.0, 9: 1.5}])
    again = Answer.from_dict(json.loads(json.dumps(said.as_dict())))
    assert again == said
    assert answers.parting(again, replace(said, ids=[9])) == answers.Parting(num_common=0, gap=1.5)


def test_a_model_larger_than_memory_is_compared_on_few_rows_and_that_is_told(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(10**13)
    how = loading.choose(tmp_path, "cpu")
    rows = [Sample(input_ids=[1, 2], score_from=1, answer_from=1)] * 9
    asked = how.limited(Questions(samples=rows, num_answers=4, answer_tokens=8))
    assert (len(asked.samples), asked.num_answers) == (loading.FEW_ROWS, 0)
    assert "10000.0 GB of weights" in how.left_out and "without answers" in how.left_out
