"""`make demo`: train, export, serve and ask a small model, all through the HTTP API. Exits 1 when it shows nothing."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from gateway.cli import show
from gateway.cli.client import ApiError, Unreachable
from gateway.demo import base, questions
from gateway.demo.platform import Platform
from gateway.demo.run import Demo
from gateway.demo.screen import Screen
from shared import interpreters
from shared.errors import TunesmithError
from shared.settings import Settings


def main() -> int:
    parser = ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the platform and the two deployments running")
    args = parser.parse_args()
    screen = Screen(console=Console(highlight=False))
    settings = Settings.from_env()
    platform = Platform(settings)
    try:
        return run(args, settings, platform, screen)
    except (TunesmithError, ApiError, Unreachable) as error:
        issues = [complaint.as_dict() for complaint in getattr(error, "complaints", ())] or getattr(error, "issues", [])
        show.refusal(screen.console, str(error), issues, advice=f"Logs: {settings.home / 'logs'}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if platform.is_ours and not args.keep:
            with screen.step("stop", "the platform"):
                platform.stop()


def run(args: Namespace, settings: Settings, platform: Platform, screen: Screen) -> int:
    began = time.monotonic()
    get_base(settings, screen)
    with screen.step("platform", "tunesmith up") as step:
        client = platform.ensure()
        step.outcome = f"tunesmith up: {client.url}" if platform.is_ours else f"already running: {client.url}"
    with client:
        demo = Demo(client=client, screen=screen)
        demo.add_base()
        demo.upload()
        adapter = demo.train()
        merged = demo.export(adapter, "merge")
        demo.export(adapter, "quantize", export_quantization_bit=4)
        try:
            demo.deploy([base.NAME, merged])
            answers = demo.ask([base.NAME, merged], ["base model", "trained model"])
        finally:
            if not args.keep:
                demo.remove_deployments()
        return conclude(screen, client.url, answers, time.monotonic() - began, args.keep)


def get_base(settings: Settings, screen: Screen) -> None:
    import_dir = settings.home / "import"
    if base.is_there(import_dir):
        return
    with screen.step("base model", "download and convert") as step, base.workplace(settings.home) as folder:
        work = Path(folder)
        base.convert(base.download(work), work, import_dir, interpreters.trainer(settings))
        step.outcome = f"{base.NAME} -> {import_dir / base.NAME}"


def conclude(screen: Screen, url: str, answers: list[list[str]], seconds: float, keep: bool) -> int:
    """The check, the numbers and where to look next."""
    asked, trained = len(questions.QUESTIONS), questions.num_answered(answers[1])
    screen.console.print(
        f"Right answers: base {questions.num_answered(answers[0])} of {asked}, trained {trained} of {asked}. "
        "The questions are worded near the training set, not taken from it."
    )
    screen.console.print(f"All steps took [bold]{seconds:.0f} s[/].")
    where = "still running" if keep else "with the platform running (`make up`)"
    screen.console.print(f"API docs {url}/docs, metrics {url}/metrics, console {url}/ : {where}.")
    wrong = questions.shortcoming(*answers)
    if wrong:
        show.refusal(screen.console, wrong, [])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
