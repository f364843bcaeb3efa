"""Public ids: a prefix that says what the record is, and a ULID in lower case. Knows nothing of the records."""

from __future__ import annotations

import secrets
import time

#: Crockford's base 32: no i, l, o or u, which people misread.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
TIME_BITS, RANDOM_BITS = 48, 80
NUM_CHARACTERS = 26


def new_id(prefix: str) -> str:
    """`prefix` and 26 characters: 48 bits of Unix milliseconds, then 80 random bits, so that ids sort by their age."""
    milliseconds = time.time_ns() // 1_000_000 & ((1 << TIME_BITS) - 1)
    number = milliseconds << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
    return prefix + "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (NUM_CHARACTERS - 1), -1, -5))
