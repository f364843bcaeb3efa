"""Rows of datasets as token ids, rendered with the model's own chat template: for calibration and for comparing models."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from shared.dataset import rows

#: Asked when no dataset is known. Plain questions that any instruction model has an opinion on.
PROBES = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "How many days are there in a week?",
)
#: Rows looked at for a choice; a prefix of a very large file is enough.
MAX_ROWS_READ = 50_000


@dataclass(frozen=True, kw_only=True)
class Sample:
    input_ids: list[int]
    #: Tokens before the first scored one, at least 1.
    prompt_length: int
