"""The page on LLaMA Factory's files, generated: `python -m tests.lf_examples.page > docs/llama-factory.md`.

What is told is what the gateway answers: every example is posted as it is, every argument with a value of its own.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.lf_examples import arguments, posting
from tests.platform import Platform

STATUSES = ("supported", "without effect", "refused")
INTRODUCTION = """# LLaMA Factory's files

A YAML of LLaMA Factory (LF) posts as it is: `POST /v1/jobs` takes those of training and export, `POST /v1/deployments`
those of inference. A field that we cannot honour is refused by name, with the reason and what to use instead; nothing
is ignored in silence. What the names in such a file mean here:

- `model_name_or_path`, `adapter_name_or_path`: a model of the catalog, the `output_dir` or `export_dir` of the job that
  made it, a Hub id, or a path below an import root.
- `dataset`, `eval_dataset`: names of datasets in the catalog.
- `output_dir`, `export_dir`: labels; a client never chooses where the server writes.
- `deepspeed`: LF's path counts by its file name, or the object itself.
- `trust_remote_code`: stays true only for models that the administrator listed; else the model loads without, and the
  job says so. A model that is known to bring code of its own is refused.

This page is generated from the answers of the gateway: `python -m tests.lf_examples.page`.
"""


def page(home: Path) -> str:
    """The whole page as Markdown; the gateway that answers lives in `home`."""
    platform = posting.furnished(home)
    return "\n".join([INTRODUCTION, _arguments(platform), _examples(platform)])


def _arguments(platform: Platform) -> str:
    outcomes = {
        group: {name: arguments.outcome(platform, name, other) for name, (_, other) in members.items()}
        for group, members in arguments.groups().items()
    }
    rows = [(group, *_counts(found.values())) for group, found in outcomes.items()]
    total = _counts(outcome for found in outcomes.values() for outcome in found.values())
    refused = [
        (group, ", ".join(f"`{name}`" for name, outcome in found.items() if outcome.status == "refused"))
        for group, found in outcomes.items()
    ]
    head = "## Arguments\n\nEvery argument of LF 0.9.5 and of the transformers that it stands on, counted by what "
    head += (
        "becomes of it when it\nasks for something. With the value that LF has by default each is accepted. Why each "
    )
    head += "is refused, and what to use\ninstead: [parameters.md](parameters.md).\n\n"
    counts = _table(("group", *STATUSES), [*rows, ("all", *total)])
    named = _table(("group", "refused"), [row for row in refused if row[1]])
    return f"{head}{counts}\n{named}"


def _counts(outcomes: Iterable[arguments.Outcome]) -> tuple[str, ...]:
    count = Counter(outcome.status for outcome in outcomes)
    return tuple(str(count[status]) for status in STATUSES)


def _examples(platform: Platform) -> str:
    answers = {file: posting.post(platform, file) for file in posting.files()}
    runs = [(f"`{file}`", str(found.kind)) for file, found in answers.items() if found.kind]
    refused = [(f"`{file}`", _why(found.refused)) for file, found in answers.items() if not found.kind]
    told = f"Of LF's {len(answers)} example configs {len(runs)} run as they are and {len(refused)} are refused."
    head = f"## Examples\n\n{told}"
    return (
        f"{head}\n\n### They run\n\n{_table(('file', 'becomes'), runs)}\n"
        f"### They are refused\n\n{_table(('file', 'why'), refused)}"
    )


def _why(refused: Mapping[str, str]) -> str:
    """One line for each reason, with the fields that it is given for."""
    fields: dict[str, list[str]] = {}
    for field, message in refused.items():
        fields.setdefault(message, []).append(f"`{field}`")
    return "<br>".join(f"{', '.join(names)} {message}" for message, names in fields.items())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "".join(f"{line}\n" for line in _lines(head, rows))


def _lines(head: list[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(page(Path(folder)))
