"""What a process was at when something failed, told with the error. Light: the preparation imports it, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared import failures
from shared.errors import ModelNotLoaded
from shared.ladder import LOADING


@contextmanager
def at(what: str) -> Iterator[None]:
    """Note on an error what was being done."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


@contextmanager
def loading(name: str) -> Iterator[None]:
    """What goes wrong with a model's files says so. Raises ModelNotLoaded, and what has a reason of its own."""
    try:
        with at(LOADING):
            yield
    except Exception as error:
        if failures.code_of(error) != failures.UNKNOWN:
            raise
        text = f"{name} cannot be loaded: {type(error).__name__}: {error}"
        raise ModelNotLoaded(text, field="model_name_or_path") from error
