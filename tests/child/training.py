"""A tiny model, a tiny dataset and an attempt folder, and the child run on them exactly as the worker starts it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shared import schema
from shared.settings import Settings
from shared.spec import TrainSpec
from trainer_worker import raytrain, torchrun

#: As SmolLM2's: a system prompt for conversations without one, and a newline after each turn.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
#: A first process of DeepSpeed compiles its op, which takes minutes on a busy machine.
TIMEOUT_SECONDS = 560
#: Where run.json says that a reward model lies.
REWARD = ("model_path", "adapter_path")
QUESTIONS = ("Who are you?", "What is two plus two?", "Name a colour that is not red.", "Say it again, please.", "Why?")
ANSWERS = ("I am a test.", "Four.", "Blue is a colour, and so is green.", "It again, please.", "Because nobody knows.")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, learned from our own few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*QUESTIONS, *ANSWERS, "system user assistant You help."] * 4, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[2]
    )
    made.chat_template = CHATML
    return made


def make_model(folder: Path, dtype: torch.dtype = torch.float32, vocab_size: int | None = None) -> Path:
    """Two layers, hidden size 64, tied embeddings as in SmolLM2; the same weights every time."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=vocab_size or len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_dataset(path: Path, num_rows: int = 24) -> Path:
    """Alpaca rows of different lengths; no two alike."""
    rows = [
        {
            "instruction": QUESTIONS[i % len(QUESTIONS)],
            "input": f"Number {i}." if i % 2 else "",
            "output": " ".join(ANSWERS[(i + k) % len(ANSWERS)] for k in range(1 + i % 3)),
        }
        for i in range(num_rows)
    ]
    path.write_text(json.dumps(rows))
    return path


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt folder as the worker makes it, and what became of it."""

    folder: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]

    def of(self, type: str) -> list[dict[str, Any]]:
        return [event["data"] for event in self.events if event["type"] == type]

    def told(self, name: str) -> Any:
        """What the last message that says it says."""
        return next(data[name] for data in reversed(self.of("message")) if name in data)

    @property
    def losses(self) -> list[float]:
        return [data["loss"] for data in self.of("metrics") if "loss" in data]

    @property
    def outcome(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def output(self) -> Path:
        return self.folder / "output"


def make_attempt(
    folder: Path, model: Path, dataset: Path, *, num_processes: int = 1, resume_from: Path | None = None,
    eval_dataset: Path | None = None, adapter: Path | None = None, merged: Sequence[Path] = (),
    reward: dict[str, Path] | None = None,
    inputs: Mapping[str, Path] | None = None, **spec: Any,
) -> Attempt:  # fmt: skip
    given = {
        "model_name_or_path": "tiny", "dataset": ["rows"], "learning_rate": 1e-2, "num_train_epochs": 2,
        "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no", "cutoff_len": 128,
    }  # fmt: skip
    if eval_dataset:
        given["eval_dataset"] = ["held out"]
    loaded = schema.load(TrainSpec, given | spec)
    wire = schema.to_wire(loaded)
    for name in ("output", "scratch", "logs"):
        (folder / name).mkdir(parents=True)
    run = {
        "schema_version": 1, "job_id": "ftjob-test", "attempt": 1, "kind": "train", "spec": wire, "devices": ["cpu"],
        "num_processes": num_processes, "output_dir": str(folder / "output"), "scratch_dir": str(folder / "scratch"),
        "cache_dir": str(folder.parent / "cache"), "resume_from": str(resume_from) if resume_from else None,
        "model_path": str(model), "adapter_path": str(adapter) if adapter else None, "base_name": "tiny-base",
        "makes": "merged" if loaded.changes_base() or merged else "adapter",
        "merged_paths": [str(path) for path in merged],
        "reward": {name: str(reward[name]) if name in reward else None for name in REWARD} if reward else None,
        "datasets": [as_dataset(dataset)], "eval_datasets": [as_dataset(eval_dataset)] if eval_dataset else [],
        **{name: str(path) for name, path in (inputs or {}).items()},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    return Attempt(folder=folder)


def as_dataset(path: Path) -> dict[str, Any]:
    return {"path": str(path), "format": None, "columns": None, "digest": None, "name": path.stem}


def environment(num_processes: int) -> dict[str, str]:
    """As the worker's; one thread a rank, so that numbers are the same on every machine."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TORCH_EXTENSIONS_DIR") if name in os.environ}
    settings = Settings.from_env({"TUNESMITH_HUB": "0"})
    made = torchrun.environment(settings, num_processes=num_processes, num_cores=num_processes)
    return kept | made | {"PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": ""}


def prepare(attempt: Attempt, *, expect: int = 0) -> None:
    _call(torchrun.prepare_argv(sys.executable, str(attempt.folder)), attempt, 1, expect)


def train(attempt: Attempt, num_processes: int = 1, *, expect: int = 0) -> Attempt:
    """Both phases."""
    prepare(attempt)
    run = json.loads((attempt.folder / "run.json").read_text())
    grouped = torchrun.needs_group(schema.from_stored(TrainSpec, run["spec"]), run["devices"])
    argv = torchrun.train_argv(
        sys.executable, str(attempt.folder), num_processes=num_processes, port=free_port(), grouped=grouped
    )
    _call(argv, attempt, num_processes, expect)
    return attempt


def train_with_ray(attempt: Attempt, num_processes: int, *, expect: int = 0) -> Attempt:
    """Both phases, the second one's ranks in a Ray of its own."""
    prepare(attempt)
    argv = raytrain.train_argv(sys.executable, str(attempt.folder), "")
    _call(argv, attempt, num_processes, expect, raytrain.environment("", secrets.token_hex(32)))
    return attempt


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _call(
    argv: list[str], attempt: Attempt, num_processes: int, expect: int, more: Mapping[str, str] | None = None
) -> None:
    env = environment(num_processes) | dict(more or {})
    log = attempt.folder / "logs" / "launcher.log"
    with log.open("ab") as output:
        child = psutil.Popen(argv, cwd=attempt.folder, env=env, stdout=output, stderr=output)
        try:
            code = child.wait(TIMEOUT_SECONDS)
        finally:
            end(child)
    if code != expect:
        logs = "\n".join(path.read_text()[-4000:] for path in sorted((attempt.folder / "logs").glob("*.log")))
        raise AssertionError(f"exit code {code}\n{logs}")


def end(child: psutil.Popen) -> None:
    """torchrun puts each rank in a session of its own: the tree is ended from its leaves."""
    if child.is_running():
        for process in [*child.children(recursive=True), child]:
            process.kill()


def train_here(attempt: Attempt) -> Attempt:
    """Both phases in this process: no libraries to load again. For a single process without DeepSpeed."""
    from trainer_worker.child import __main__ as child
    from trainer_worker.child import prepare as preparation

    told = child.Attempt(attempt.folder)
    preparation.prepare(told)
    outcome = child.train(told, 0)
    told.emit(outcome.pop("type"), **outcome)
    return attempt
