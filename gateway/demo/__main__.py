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
    # A file or pipe has no width of its own: wide enough for the columns of answers.
    screen = Screen(console=Console(highlight=False, width=None if sys.stdout.isatty() else 120))
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
        quantized = demo.export(adapter, "quantize", export_quantization_bit=4)
        models = [base.NAME, merged, quantized]
        try:
            demo.deploy(models)
            answers = demo.ask(models, ["base model", "trained model", "trained model, 4-bit"])
        finally:
            if not args.keep:
                demo.remove_deployments()
        seconds = time.monotonic() - began
        return conclude(screen, client.url, answers, seconds, platform.left_running() if args.keep else "")


def get_base(settings: Settings, screen: Screen) -> None:
    import_dir = settings.home / "import"
    if base.is_there(import_dir):
        return
    with screen.step("base model", "download and convert") as step, base.workplace(settings.home) as folder:
        work = Path(folder)
        base.convert(base.download(work), work, import_dir, interpreters.trainer(settings))
        step.outcome = f"{base.NAME} -> {import_dir / base.NAME}"


def conclude(screen: Screen, url: str, answers: list[list[str]], seconds: float, kept: str) -> int:
    """The check, the numbers and where to look next; `kept` says how to stop what was left running."""
    counts = [f"{questions.num_answered(column)} of {len(column)}" for column in answers]
    lines = [
        f"Taught facts in the answers: base {counts[0]}, trained {counts[1]}, trained 4-bit {counts[2]}. "
        "The questions are worded near the training set; none stands in it.",
        f"All steps together: [bold]{seconds:.0f} s[/]",
        f"API docs {url}/docs   metrics {url}/metrics   console {url}/",
        kept or "The platform is stopped now; `make up` starts it again with all models and jobs.",
    ]
    for line in lines:
        screen.console.print(line, soft_wrap=True)
    wrong = questions.shortcoming(*answers)
    if wrong:
        show.refusal(screen.console, wrong, [])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
