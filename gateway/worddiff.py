"""Where two answers part, word by word, for people who read them side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

#: A word with the space after it; a mark; a Chinese, Japanese or Korean character, which stand without spaces.
WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]|[^\W\u2e80-\u9fff\uac00-\ud7af]+\s*|\s+|.", re.DOTALL)
#: Words that are matched one by one between what both begin and end with; the time grows with the square.
MAX_WORDS = 1500


@dataclass(frozen=True, kw_only=True)
class Difference:
    is_same: bool
    #: Share of the words of both that stand in both, in order.
    similarity: float
    #: ("equal", "removed" or "added", text) in order: the first text is equal and removed, the second equal and added.
    changes: Sequence[tuple[str, str]]

    def as_dict(self) -> dict[str, Any]:
        changes = [{"op": op, "text": text} for op, text in self.changes]
        return {"is_same": self.is_same, "similarity": round(self.similarity, 4), "changes": changes}


def difference(first: str, second: str) -> Difference:
    left, right = WORD.findall(first), WORD.findall(second)
    start = _common(left, right)
    end = _common(left[start:][::-1], right[start:][::-1])
    changes = [("equal", "".join(left[:start]))] if start else []
    matched, num_equal = _between(left[start : len(left) - end], right[start : len(right) - end])
    changes += matched
    changes += [("equal", "".join(left[len(left) - end :]))] if end else []
    total = len(left) + len(right)
    similarity = 2 * (start + end + num_equal) / total if total else 1.0
    return Difference(is_same=first == second, similarity=similarity, changes=changes)


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """Words that both begin with."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def _between(left: Sequence[str], right: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    if max(len(left), len(right)) > MAX_WORDS:
        return [("removed", "".join(left)), ("added", "".join(right))], 0
    changes, num_equal = list[tuple[str, str]](), 0
    for op, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if op == "equal":
            changes.append(("equal", "".join(left[i1:i2])))
            num_equal += i2 - i1
            continue
        changes += [("removed", "".join(left[i1:i2]))] if i2 > i1 else []
        changes += [("added", "".join(right[j1:j2]))] if j2 > j1 else []
    return changes, num_equal
