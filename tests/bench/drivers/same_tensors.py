"""`python same_tensors.py ONE OTHER`: whether two checkpoints are equal to the last bit, else which tensor is not."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from export_worker.child import shards

if __name__ == "__main__":
    one, other = (shards.list_entries(Path(folder)) for folder in sys.argv[1:])
    names = sorted(one.keys() ^ other.keys())
    names += [
        name
        for name in sorted(one.keys() & other.keys())
        if not torch.equal(shards.read(one[name]), shards.read(other[name]))
    ]
    sys.exit(f"{len(names)} of {len(one)} tensors differ, the first is {names[0]}" if names else 0)
