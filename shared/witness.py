"""Rows of a training known again by their token ids, without keeping them: short digests.

A training leaves those of some rows that it held out. An export that finds rows with the same digests has the same
rows, and writes them with the very tokens that were trained on.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

#: How many rows a training tells.
NUM_TOLD = 64
#: Hexadecimal digits of a digest.
LENGTH = 16


def digest(ids: Sequence[int]) -> str:
    # 32 bits, as the trainer's token store has them.
    return hashlib.sha256(array("i", ids).tobytes()).hexdigest()[:LENGTH]
