"""What a run saves, and how it is read again.

A checkpoint is a dict written by `torch.save` that `torch.load(weights_only=True)` reads:

    format        "detbalance.checkpoint/1"
    iteration     optimizer steps done
    model, ema    state dicts (ema null when off)
    optimizer, scaler, sampler, rng
    best          the best value of the chosen metric so far
    push          gradient per class so far, `PushTotals.state_dict()`
    exposure      boxes per class shown and pasted so far, `ExposureTotals.state_dict()`
    config        the resolved configuration
    categories    `Categories.to_dict()`
    frequency     image_counts, instance_counts, num_images and source of the training file
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detbalance.annotations import Categories
from detbalance.annotations.files import replace_file
from detbalance.frequency import Frequency
from detbalance.training.config import Config, parse_config
from detbalance.training.metrics import METRICS_FILE
from detbalance.training.setup import build_model

FORMAT = "detbalance.checkpoint/1"
CONFIG_FILE = "config.yaml"
LAST, BEST = "last.pt", "best.pt"


def snapshot_name(cycle: int) -> str:
    """The file name of the checkpoint at the end of a cycle, counted from 0."""
    return f"snapshot-{cycle}.pt"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one, whole."""
    with replace_file(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        ValueError: if the file is missing, damaged or not one of ours.
    """
    remedy = f"A checkpoint written by detbalance train is expected. Give a run's {BEST} or {LAST}."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: is no readable checkpoint. {remedy}") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: has the format {found!r}, not {FORMAT!r}. {remedy}")
    return state  # type: ignore[no-any-return]


def model_from_checkpoint(state: Mapping[str, Any], where: str) -> nn.Module:
    """The trained model of a loaded checkpoint (the averaged weights where the run kept them)."""
    config = parse_config(state["config"], where)
    categories = Categories.from_dict(state["categories"])
    model = build_model(config, categories, frequency_from_checkpoint(state), pretrained=False)
    try:
        model.load_state_dict(state["ema"] or state["model"])
    except RuntimeError as error:
        raise ValueError(
            f"{where}: its weights are not those of the model that its configuration describes"
            f" ({' '.join(str(error).split())[:200]}). A checkpoint of this version is expected."
            " Train again, or use the version that wrote it."
        ) from error
    model.categories = categories  # type: ignore[assignment]
    model.class_names = ["background", *categories.names]  # type: ignore[assignment]
    return model.eval()


def load_detector(path: str | Path) -> nn.Module:
    """Load a trained detector as a plain torchvision model, on the CPU, in eval mode.

    Args:
        path: a checkpoint of a run (best.pt, last.pt or a snapshot). It carries all that is needed.

    Returns:
        The model. It takes a list of float images [3, H, W] in 0..1 and returns a list of dicts
        with `boxes` [n, 4] (xyxy, pixels), `labels` [n] and `scores` [n]. Two attributes are added:
        `class_names`, indexed by label (0 is the background), and `categories`.

    Raises:
        ValueError: if the file is missing, damaged or not one of ours.

    Example:
        model = load_detector("runs/bccd/best.pt")
        detections = model([image])[0]
        names = [model.class_names[label] for label in detections["labels"]]
    """
    return model_from_checkpoint(load_checkpoint(path), str(path))


def frequency_from_checkpoint(state: Mapping[str, Any]) -> Frequency:
    """The class counts of the training file that a checkpoint was trained on."""
    saved = state["frequency"]
    return Frequency(
        categories=Categories.from_dict(state["categories"]),
        num_images=saved["num_images"],
        image_counts=saved["image_counts"].numpy(),
        instance_counts=saved["instance_counts"].numpy(),
        source=saved["source"],
    )


def check_folder(folder: Path, config: Config, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that a run must not be written to; nothing is changed.

    Raises:
        ValueError: if the folder holds a run and neither `resume` nor `overwrite` is set, if there
            is nothing to resume, or if the run to resume had another configuration.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file. A folder for the run is expected. Change output.")
    if resume:
        _check_same_run(folder, config)
    elif _holds_run(folder) and not overwrite:
        raise ValueError(
            f"{folder}: already holds a run. An empty or new folder is expected. Pass --resume to"
            " go on with it, --overwrite to replace it, or --set output=DIR."
        )


def prepare_folder(folder: Path, config: Config, *, resume: bool) -> None:
    """Make the folder, without the run that it held unless that goes on, and save the config."""
    if not resume and _holds_run(folder):
        remove_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / CONFIG_FILE) as file:
        file.write(config.to_yaml().encode())


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG_FILE, LAST, METRICS_FILE))


# Settings that may differ when a run is taken up again: they do not change what is computed.
_MAY_CHANGE = {
    "output",
    "data.root",
    "train.workers",
    "train.log_every",
    "train.checkpoint_every",
    "train.push_limit",
}


def _check_same_run(folder: Path, config: Config) -> None:
    last = folder / LAST
    if not last.is_file():
        raise ValueError(
            f"{folder}: has no {LAST} to resume from. A run that saved a checkpoint is expected."
            " Start it without --resume."
        )
    # Parsed: a field that an earlier version did not have is its default.
    started = parse_config(load_checkpoint(last)["config"], str(last))
    before, now = _flat(started.to_dict()), _flat(config.to_dict())
    for key in {**now, **before}:
        if key not in _MAY_CHANGE and before.get(key) != now.get(key):
            raise ValueError(
                f"{folder}: the run was started with {key} {before.get(key)!r}, now it is"
                f" {now.get(key)!r}. The same configuration is expected. Restore it, or start a new"
                " run with --set output=DIR."
            )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def remove_run(folder: Path) -> None:
    """Remove what a run writes, and nothing else that may lie in the folder."""
    names = [LAST, BEST, CONFIG_FILE, METRICS_FILE, "predictions.json", "report.json", "report.csv"]
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("snapshot-*.pt"):
        if path.stem.removeprefix("snapshot-").isdecimal():
            path.unlink()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
