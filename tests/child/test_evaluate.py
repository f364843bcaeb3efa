"""An evaluation's numbers against loops written without our code, the libraries called directly, and after a stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import evaluate_here, make_evaluation
from preferring import make_pairs
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from training import make_attempt, make_dataset, train_here
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared import statistics
from shared.errors import InvalidDataset, InvalidSpec
from trainer_worker.child.evaluation import similarity
from trainer_worker.child.evaluation.records import Stopped


def chats(path: Path) -> list[list[dict[str, str]]]:
    rows = json.loads(path.read_text())
    asked = ("\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows)
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
        for question, row in zip(asked, rows, strict=True)
    ]


def losses(folder: Path, data: Path) -> tuple[float, float, int]:
    """Mean loss and accuracy over the tokens of all answers, and their number: one conversation after another."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    total, right, count = 0.0, 0, 0
    for chat in chats(data):
        prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
        answer = chat[1]["content"] + "<|im_end|>"
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer)]
        whole = torch.tensor([ids[0] + ids[1]])
        with torch.no_grad():
            logits = model(whole).logits[0, len(ids[0]) - 1 : -1].double()
        target = whole[0, len(ids[0]) :]
        total += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
        right += int((logits.argmax(dim=1) == target).sum())
        count += len(target)
    return total / count, right / count, count


def test_likelihood_is_that_of_a_plain_loop_for_each_dataset_and_for_all(
    tmp_path: Path, tiny: Path, rows: Path
) -> None:
    few = make_dataset(tmp_path / "few.json", num_rows=5)
    done = evaluate_here(make_evaluation(tmp_path / "a", tiny, [rows, few], per_device_eval_batch_size=4))

    expected = {data.stem: losses(tiny, data) for data in (rows, few)}
    for name, (loss, accuracy, count) in expected.items():
        found = done["datasets"][name]["metrics"]
        assert found["eval_loss"] == pytest.approx(loss, rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        assert found["eval_accuracy"] == pytest.approx(accuracy, abs=1e-9)
        assert (found["num_tokens"], found["eval_loss_stderr"] > 0) == (count, True)
    assert done["datasets"]["few"]["num_samples"] == 5
    scores = [json.loads(line) for line in (tmp_path / "a" / "output" / "1.scores.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in scores] == [0, 1, 2, 3, 4]
    assert sum(line["loss"] for line in scores) == pytest.approx(expected["few"][0] * expected["few"][2], rel=1e-5)
    # By tokens, not a mean of means.
    total = sum(loss * count for loss, _, count in expected.values())
    assert done["metrics"]["eval_loss"] == pytest.approx(total / sum(one[2] for one in expected.values()), rel=1e-5)


def test_a_loss_is_that_of_the_trainings_own_validation(tmp_path: Path, tiny: Path, rows: Path) -> None:
    trained = train_here(
        make_attempt(tmp_path / "t", tiny, rows, eval_dataset=rows, do_eval=True, max_steps=3, compute_accuracy=True)
    )
    done = evaluate_here(make_evaluation(tmp_path / "e", tiny, [rows], adapters=[trained.output]))

    validated = trained.outcome["data"]["metrics"]
    assert done["metrics"]["eval_loss"] == pytest.approx(validated["eval_loss"], rel=1e-5)
    assert done["metrics"]["eval_accuracy"] == pytest.approx(validated["eval_accuracy"], abs=1e-9)


def test_answers_are_the_models_own_and_compared_as_the_libraries_do(tmp_path: Path, tiny: Path, rows: Path) -> None:
    spec = {"predict_with_generate": True, "max_new_tokens": 12, "metrics": ["bleu", "rouge", "exact_match"]}
    attempt = make_evaluation(tmp_path / "a", tiny, [rows], max_samples=6, per_device_eval_batch_size=4, **spec)
    done = evaluate_here(attempt)

    lines = [json.loads(line) for line in (attempt.output / "generated_predictions.jsonl").read_text().splitlines()]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    for line, chat in zip(lines, chats(rows), strict=False):
        prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        written = model.generate(**ids, do_sample=False, max_new_tokens=12, eos_token_id=[0, 1, 2])[0]
        answer = tokenizer.decode(written[ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert line == {"prompt": prompt, "predict": answer, "label": chat[1]["content"]}
    predictions, labels = [line["predict"] for line in lines], [line["label"] for line in lines]
    found = done["metrics"]
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(predictions, [labels]).score)
    scorer = RougeScorer(["rougeL"])
    found_by = [
        scorer.score(label, prediction)["rougeL"].fmeasure
        for label, prediction in zip(labels, predictions, strict=True)
    ]
    assert found["rougeL"] == pytest.approx(sum(found_by) / 6)
    assert found["predict_rouge-l"] == pytest.approx(100 * found["rougeL"])
    assert {"predict_bleu-4", "exact_match", "share_unfinished"} <= found.keys()
    assert "eval_loss" not in found


def test_chinese_answers_are_compared_by_characters() -> None:
    lines = [{"predict": "今天天气很好", "label": "今天天气真好"}, {"predict": "我是一个助手", "label": "我是一个助手"}]
    found = similarity.measure(lines, ["bleu", "rouge", "exact_match"])

    predictions, labels = [line["predict"] for line in lines], [line["label"] for line in lines]
    assert found["bleu"] == pytest.approx(BLEU(tokenize="zh").corpus_score(predictions, [labels]).score)
    assert found["rouge1"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["exact_match"] == 0.5
    assert found["predict_bleu-4"] > 50


def test_errors_of_means_are_those_of_the_textbook() -> None:
    assert statistics.mean([1.0, 0.0, 1.0, 0.0]) == (0.5, pytest.approx(math.sqrt(1 / 3) / 2))
    found, error = statistics.ratio([2.0, 4.0, 6.0], [1, 2, 3])
    assert (found, error) == (2.0, 0.0)
    assert statistics.ratio([1.0, 0.0, 1.0, 0.0], [1, 1, 1, 1]) == pytest.approx(statistics.mean([1.0, 0.0, 1.0, 0.0]))
    assert statistics.mean([3.0]) == (3.0, None)


def test_what_was_done_before_a_pause_is_not_done_again(tmp_path: Path, tiny: Path, rows: Path) -> None:
    spec: dict[str, Any] = {"predict_with_generate": True, "max_new_tokens": 4, "do_sample": True, "max_samples": 8}
    spec |= {"per_device_eval_batch_size": 2}
    whole = evaluate_here(make_evaluation(tmp_path / "whole", tiny, [rows], **spec))
    first = make_evaluation(tmp_path / "first", tiny, [rows], **spec)
    from shared.attempt import Attempt
    from trainer_worker.child.evaluation import prepare, run
    from trainer_worker.child.evaluation.records import Records

    class Paused(Attempt):
        """Asked to pause when ten lines are there."""

        def wanted(self) -> str:
            lines = sum(len(path.read_text().splitlines()) for path in self.folder.glob("scratch/records/*.jsonl"))
            return "pause" if lines >= 10 else "run"

    paused = Paused(first.folder)
    prepare.prepare(paused)
    with pytest.raises(Stopped) as stopped:
        run.evaluate(paused)
    (kept,) = first.of("checkpoint")
    assert stopped.value.step == kept["step"] == 10
    second = make_evaluation(tmp_path / "second", tiny, [rows], resume_from=Path(kept["path"]), **spec)
    assert Records(Attempt(second.folder), 16).num_done == 10
    done = evaluate_here(second)

    assert done == whole
    assert (second.output / "generated_predictions.jsonl").read_text() == (
        tmp_path / "whole" / "output" / "generated_predictions.jsonl"
    ).read_text()
    assert [data["done"] for data in second.of("progress") if data["unit"] == "samples"][-1] == 16


TASK = """task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_a_task_of_the_administrators_folder_is_asked(tmp_path: Path, tiny: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "colours.yaml").write_text(TASK)
    questions = [
        {"question": f"Colour {n}?", "choices": ["Blue.", "Four.", "Because."], "answer": n % 3} for n in range(9)
    ]
    (folder / "colours.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    done = evaluate_here(make_evaluation(tmp_path / "a", tiny, tasks_dir=folder, tasks=["colours"], limit=6))

    (found,) = done["tasks"]
    assert (found["task"], found["num_samples"]) == ("colours", 6)
    assert found["metrics"]["acc"] == pytest.approx(accuracy(tiny, questions[:6]))
    assert found["metrics"]["acc_stderr"] > 0
    with pytest.raises(InvalidSpec, match="did you mean 'colours'"):
        evaluate_here(make_evaluation(tmp_path / "b", tiny, tasks_dir=folder, tasks=["colour"]))
    (folder / "shapes.yaml").write_text(TASK.replace("colours", "shapes"))
    with pytest.raises(InvalidSpec, match="not at hand"):
        evaluate_here(make_evaluation(tmp_path / "c", tiny, tasks_dir=folder, tasks=["shapes"]))


def accuracy(folder: Path, questions: list[dict[str, Any]]) -> float:
    """Of the most probable choice, by a plain loop."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    right = 0
    for question in questions:
        scores = []
        for choice in question["choices"]:
            prompt = tokenizer.encode(question["question"], add_special_tokens=False)
            whole = tokenizer.encode(f"{question['question']} {choice}", add_special_tokens=False)
            with torch.no_grad():
                logps = model(torch.tensor([whole])).logits[0].log_softmax(dim=1)
            scores.append(sum(float(logps[at - 1, whole[at]]) for at in range(len(prompt), len(whole))))
        right += scores.index(max(scores)) == question["answer"]
    return right / len(questions)


def test_rows_that_cannot_be_asked_end_the_evaluation_with_the_reason(tmp_path: Path, tiny: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text('[{"instruction": "", "input": "", "output": ""}]')
    with pytest.raises(InvalidDataset):
        evaluate_here(make_evaluation(tmp_path / "a", tiny, [empty], predict_with_generate=True))


def test_pairs_are_told_apart_as_in_a_validation(tmp_path: Path, tiny: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs.json")
    spec: dict[str, Any] = {"stage": "rm", "eval_dataset": pairs, "do_eval": True, "num_train_epochs": 2}
    trained = train_here(make_attempt(tmp_path / "rm", tiny, pairs, **spec))
    found = evaluate_here(make_evaluation(tmp_path / "a", tiny, [pairs], adapters=[trained.output], stage="rm"))
    by_probability = evaluate_here(make_evaluation(tmp_path / "b", tiny, [pairs], stage="dpo"))

    validated = trained.outcome["data"]["metrics"]
    assert found["metrics"]["eval_accuracy"] == validated["eval_accuracy"]
    assert found["metrics"]["eval_loss"] == pytest.approx(validated["eval_loss"], rel=1e-5)
    assert found["metrics"]["eval_rewards/margins"] == pytest.approx(validated["eval_rewards/margins"], rel=1e-4)
    (one,) = by_probability["datasets"].values()
    assert one["num_samples"] == 16 and {"eval_accuracy_stderr", "eval_accuracy_by_token"} <= one["metrics"].keys()
    with pytest.raises(InvalidSpec, match="no score head"):
        evaluate_here(make_evaluation(tmp_path / "c", tiny, [pairs], stage="rm"))
