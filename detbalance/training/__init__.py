"""Configuration, training loop, checkpoints.

- `config`: the YAML file as validated, typed sections
- `setup`: data, model and optimizer built from a configuration
- `stream`: the endless, resumable stream of batches
- `loop`: the training loop
- `checkpoint`: what a run saves; `load_detector`
- `metrics`: what a run logs
"""

from detbalance.training.checkpoint import load_detector

__all__ = ["load_detector"]
