"""A real child that computes nothing: counts steps, writes checkpoints, obeys its control, as a training would.

Run by the supervision tests: `python child.py ATTEMPT_FOLDER PHASE`. Its spec says how many steps, how long each takes,
after how many a checkpoint is due, and how to misbehave.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from shared import logs
from shared.attempt import WAIT, Attempt

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


def main(attempt: Attempt, phase: str) -> None:
    spec = attempt.run["spec"]
    if phase == "prepare":
        time.sleep(spec.get("prepare_seconds", 0))
        attempt.emit("phase_done")
        return
    # As torchrun's ranks: in a session of its own, where no group kill reaches it.
    subprocess.Popen(SLEEP, start_new_session=True)
    if spec.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    step = resume(attempt.run["resume_from"])
    while step < spec["steps"]:
        step += 1
        time.sleep(spec.get("seconds", 0.05))
        attempt.emit("metrics", step=step, total_steps=spec["steps"], loss=1 / step)
        misbehave(attempt, spec, step)
        stopping = attempt.wanted() != "run" and not spec.get("deaf")
        if stopping or step % spec.get("save_steps", 10) == 0:
            checkpoint(attempt, step)
        if stopping:
            attempt.stopped(step)
            return
    (attempt.folder / "output" / "result.txt").write_text(f"counted to {step}")
    attempt.done(output="output", num_steps=step, pid=os.getpid())


def resume(checkpoint: str | None) -> int:
    return json.loads((Path(checkpoint) / "state.json").read_text())["step"] if checkpoint else 0


def checkpoint(attempt: Attempt, step: int) -> None:
    folder = attempt.folder / "output" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    attempt.emit("checkpoint", step=step, path=f"output/checkpoint-{step}", metrics={"loss": 1 / step})


def misbehave(attempt: Attempt, spec: dict, step: int) -> None:
    if step != spec.get("wrong_at") or not attempt.folder.name.endswith(spec.get("wrong_node", "")):
        return
    sys.stdout.write("about to go wrong\n")
    if spec["wrong"] in ("crash", "kill"):
        os.kill(os.getpid(), signal.SIGSEGV if spec["wrong"] == "crash" else signal.SIGKILL)
    if spec["wrong"] == "raise":
        attempt.fail(ValueError("the loss is not a number"), field="learning_rate")
        sys.exit(1)


if __name__ == "__main__":
    told = Attempt(sys.argv[1])
    logs.begin_child(told, sys.argv[2])
    if WAIT in sys.argv[3:]:
        told.await_turn()
    main(told, sys.argv[2])
