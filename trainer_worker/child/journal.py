"""What a training leaves for people beside its model, in the files of LLaMA Factory: trainer_log.jsonl, train_results,
eval_results and all_results.json, trainer_state.json, and with plot_loss its curves as PNG and SVG.

All of it is made of what the Trainer remembers, which goes into every checkpoint: after a resume it is whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shared import curves
from shared.advice import overfitting
from trainer_worker.child.context import Context

#: In an entry of the Trainer's history: seconds since the job's first step, of all attempts.
ELAPSED = "elapsed_seconds"
#: What LF calls them.
NAMES = {
    "loss": "loss", "eval_loss": "eval_loss", "reward": "reward", "rewards/accuracies": "accuracy",
    "accuracy": "accuracy", "learning_rate": "lr", "epoch": "epoch", "num_tokens": "total_tokens",
    "tokens_per_second": "throughput",
}  # fmt: skip


class Journal(TrainerCallback):
    """Writes down when each measure was taken, and tells when they show that the model over-fits."""

    def __init__(self, context: Context):
        self._context, self._began = context, 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        before = max((entry.get(ELAPSED, 0.0) for entry in state.log_history), default=0.0)
        self._began = time.monotonic() - before

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        state.log_history[-1][ELAPSED] = round(time.monotonic() - self._began, 3)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        keeps_best = self._context.spec.loop.load_best_model_at_end
        if (found := overfitting.remark(state.log_history, keeps_best=keeps_best)) is not None:
            said = found.as_dict()
            message, level = said.pop("message"), said.pop("severity")
            self._context.emit("finding", message, level, **said, step=state.global_step)


def write(folder: Path, state: TrainerState, metrics: Mapping[str, Any], *, num_rows: int, plotted: str | None) -> None:
    """`metrics` are the job's; `plotted` is the title of its curves, None: none are wanted."""
    lines = (json.dumps(line) for line in log_lines(state.log_history, state.max_steps))
    (folder / "trainer_log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    state.save_to_json(str(folder / "trainer_state.json"))
    trained = train_results(state, metrics, num_rows)
    validated = {name: value for name, value in metrics.items() if name.startswith("eval_")}
    _write(folder / "train_results.json", trained)
    if validated:
        _write(folder / "eval_results.json", {"epoch": state.epoch, **validated})
    _write(folder / "all_results.json", {**trained, **validated})
    if plotted is not None:
        (folder / "training_loss.svg").write_text(curves.svg(state.log_history, plotted))
        draw(folder / "training_loss.png", state.log_history, plotted)


def train_results(state: TrainerState, metrics: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    seconds = max((entry.get(ELAPSED, 0.0) for entry in state.log_history), default=0.0)
    rates = {"train_samples_per_second": num_rows * (state.epoch or 0), "train_steps_per_second": state.global_step}
    return {
        "epoch": state.epoch,
        "num_input_tokens_seen": state.num_input_tokens_seen,
        "train_loss": metrics["train_loss"],
        "train_runtime": seconds,
        **{name: count / seconds for name, count in rates.items() if seconds},
    }


def log_lines(history: Sequence[Mapping[str, Any]], total_steps: int) -> Iterator[dict[str, Any]]:
    for entry in history:
        told = {name: entry[measure] for measure, name in NAMES.items() if entry.get(measure) is not None}
        if not told.keys() & {"loss", "eval_loss"}:
            continue
        step, elapsed = int(entry["step"]), float(entry.get(ELAPSED, 0.0))
        left = elapsed / step * (total_steps - step) if step else 0.0
        yield {
            "current_steps": step,
            "total_steps": total_steps,
            **told,
            "percentage": round(100 * step / total_steps, 2) if total_steps else 100.0,
            "elapsed_time": str(timedelta(seconds=int(elapsed))),
            "remaining_time": str(timedelta(seconds=int(left))),
        }


def draw(path: Path, history: Sequence[Mapping[str, Any]], title: str) -> None:
    """The panels of shared/curves.py as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second, and few jobs draw
    from matplotlib.figure import Figure

    panels = curves.panels(history)
    figure = Figure(figsize=(8, 4 + 1.4 * (len(panels) - 1)), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [curves.HIGH, *[curves.LOW] * (len(panels) - 1)]
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        for line in panel.lines:
            steps, values = zip(*line.points, strict=True)
            axes.plot(steps, values, color=line.colour, label=line.name, marker="o" if line.marked else None)
        axes.set_ylabel(panel.title)
        axes.grid(alpha=0.3)
        if panel.lines:
            axes.legend()
    figure.suptitle(title)
    grid[-1, 0].set_xlabel("step")
    figure.savefig(path, dpi=120)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n")
