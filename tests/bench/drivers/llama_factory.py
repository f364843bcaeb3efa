"""`python llama_factory.py CONFIG.yaml STEPS.json`: LLaMA Factory's own training of its own YAML, its steps watched."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from counting import watched
    from llamafactory.train.tuner import run_exp
    from omegaconf import OmegaConf

    run_exp(args=dict(OmegaConf.load(sys.argv[1])), callbacks=[watched(Path(sys.argv[2]))])
