"""Configuration, training loop, checkpoints.

- `load_config`, `Config`: the YAML file as validated, typed sections (`config.py`)
- `train`: a run from a configuration; everything that comes of it is in its folder (`loop.py`)
- `load_checkpoint`, `load_detector`: what a run saved, and the trained model (`checkpoint.py`)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detbalance.training.checkpoint import load_checkpoint, load_detector
    from detbalance.training.config import Config, load_config
    from detbalance.training.loop import train

__all__ = ["Config", "load_checkpoint", "load_config", "load_detector", "train"]

_HOME_OF = {
    "Config": "config",
    "load_checkpoint": "checkpoint",
    "load_config": "config",
    "load_detector": "checkpoint",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
