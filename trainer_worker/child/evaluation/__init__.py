"""An evaluation: what a model makes of datasets and benchmark tasks. No weights change."""
