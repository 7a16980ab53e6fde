"""A checkpoint without a training: a detector with first weights, for commands that need one."""

from __future__ import annotations

from pathlib import Path

import torch

from detbalance.data import load_annotations
from detbalance.data.frequency import class_frequency
from detbalance.training.checkpoint import save_checkpoint
from detbalance.training.config import load_config
from detbalance.training.setup import build_model


def untrained_checkpoint(config_file: Path, annotations: Path, path: Path, seed: int = 0) -> Path:
    """Write a checkpoint of what a configuration describes, before its first step."""
    config, truth = load_config(config_file), load_annotations(annotations)
    counts = class_frequency(truth)
    torch.manual_seed(seed)
    model = build_model(config, truth.categories, counts, pretrained=False)
    frequency = {
        "image_counts": torch.from_numpy(counts.image_counts.copy()),
        "instance_counts": torch.from_numpy(counts.instance_counts.copy()),
        "num_images": counts.num_images,
        "source": counts.source,
    }
    state = {
        "iteration": 0,
        "config": config.to_dict(),
        "categories": truth.categories.to_dict(),
        "frequency": frequency,
        "model": model.state_dict(),
        "ema": None,
    }
    save_checkpoint(path, state)
    return path
