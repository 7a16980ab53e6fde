"""What a run saves, and how it is read again.

A checkpoint is a dict written by `torch.save` that `torch.load(weights_only=True)` reads:

    format        "detbalance.checkpoint/1"
    iteration     optimizer steps done
    model, ema    state dicts (ema null when off)
    optimizer, scaler, sampler, rng
    tally         losses since the last log record, of each process
    evaluated     the iteration of the last evaluation
    best          the best value of the chosen metric so far
    push          gradient per class so far, `GradientTotals.state_dict()`
    exposure      boxes per class shown and pasted so far, `ExposureTotals.state_dict()`
    config        the resolved configuration
    categories    `Categories.to_dict()`
    frequency     image_counts, instance_counts, num_images and source of the training file
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detbalance.data import Categories
from detbalance.data.files import replace_file
from detbalance.data.frequency import Frequency
from detbalance.detection.weights import is_plain
from detbalance.training.config import Config, parse_config
from detbalance.training.config_errors import with_new_names
from detbalance.training.metrics import METRICS_FILE
from detbalance.training.setup import build_model


def misfit(saved: Any, expected: Any, name: str) -> str | None:
    """Say what is wrong with a saved value."""
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(expected, Mapping):
        if not isinstance(saved, Mapping):
            return _unlike(saved, "a mapping", name)
        for key, value in expected.items():
            inner = f"{name}.{key}" if name else str(key)
            if key not in saved:
                return f"{inner} is missing"
            parts.append((saved[key], value, inner))
    elif isinstance(expected, list):
        if not isinstance(saved, (list, tuple)) or len(saved) != len(expected):
            return _unlike(saved, f"a list of {len(expected)}", name)
        parts = [
            (f, w, f"{name}.{i}") for i, (f, w) in enumerate(zip(saved, expected, strict=True))
        ]
    elif isinstance(expected, Tensor):
        if not is_plain(saved) or (saved.dtype, saved.shape) != (expected.dtype, expected.shape):
            return _unlike(saved, _kind(expected), name)
    else:
        kinds = expected if isinstance(expected, tuple) else (expected,)
        kinds = tuple(kind if isinstance(kind, type) else type(kind) for kind in kinds)
        if not isinstance(saved, kinds) or (isinstance(saved, bool) and bool not in kinds):
            return _unlike(saved, " or ".join(kind.__name__ for kind in kinds), name)
    return next((fault for part in parts if (fault := misfit(*part))), None)


def _unlike(saved: Any, expected: str, name: str) -> str:
    return f"{name} is {_kind(saved)}, not {expected}"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return type(value).__name__


logger = logging.getLogger(__name__)

FORMAT = "detbalance.checkpoint/1"
CONFIG_FILE = "config.yaml"
CURVE_FILE = "curve.png"
LAST, BEST = "last.pt", "best.pt"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one, whole."""
    with replace_file(path) as file:
        torch.save({"format": FORMAT, **state}, file)


_REMEDY = f"A checkpoint written by detbalance train is expected. Give a run's {BEST} or {LAST}."


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; what evaluating it needs is there and fits together.

    Args:
        path: best.pt or last.pt of a run.

    Returns:
        The parts that the text of this file lists.

    Raises:
        ValueError: if the file is missing, damaged or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error
    # What a damaged file raises depends on where it is damaged. Torch's advice is to load it
    # without weights_only, which would run what is in it.
    except Exception as error:
        raise ValueError(f"{path}: is no readable checkpoint. {_REMEDY}") from error
    written = state.get("format") if isinstance(state, dict) else None
    if not isinstance(written, str) or written != FORMAT:
        shown = repr(written[:80]) if isinstance(written, str) else type(written).__name__
        raise ValueError(f"{path}: has the format {shown}, not {FORMAT!r}. {_REMEDY}")
    refuse_misfit(state, _PARTS, path)
    refuse_misfit(state, _parts_by_class(state, path), path)
    for key in ("model", "ema"):
        weights = {} if state[key] is None else state[key]
        for name, value in weights.items():
            if not _is_weight(name, value):
                raise damaged(path, f"{key}.{name} is no tensor of that name")
    return state  # type: ignore[no-any-return]


_PARTS = {
    "config": dict,
    "model": dict,
    "ema": (dict, type(None)),
    "categories": {"ids": list, "names": list, "frequency": (list, type(None))},
}


def _parts_by_class(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """What a checkpoint of these classes holds of each."""
    saved = state["categories"]
    kinds = {"ids": int, "names": str, **({"frequency": str} if saved["frequency"] else {})}
    lists = {key: [kind] * len(saved[key]) for key, kind in kinds.items()}
    refuse_misfit(state, {"categories": lists}, path)
    try:
        number = Categories.from_dict(saved).num_classes
        np.array(saved["ids"], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise damaged(path, str(error).rstrip(".")) from error
    counts = torch.zeros(number, dtype=torch.int64)
    by_class = {"image_counts": counts, "instance_counts": counts}
    parts: dict[str, Any] = {"frequency": {**by_class, "num_images": int, "source": str}}
    if "push" in state:  # earlier versions did not count it
        parts["push"] = {"run": torch.zeros(2, number, dtype=torch.float64)}
    return parts


def _is_weight(name: Any, value: Any) -> bool:
    """Whether an entry of a state_dict is a tensor; in old files a loss has its name there."""
    if isinstance(value, dict) and str(name).endswith("_extra_state"):
        value = torch.zeros(0) if isinstance(value.get("loss"), str) else None
    return isinstance(name, str) and is_plain(value)


def refuse_misfit(saved: Any, expected: Any, where: str | Path, name: str = "") -> None:
    """Refuse a saved value that is not as expected, see `misfit`."""
    if fault := misfit(saved, expected, name):
        raise damaged(where, fault)


def damaged(where: str | Path, fault: str) -> ValueError:
    """The error of a checkpoint that does not hold what it has to."""
    return ValueError(f"{where}: is damaged ({fault}). {_REMEDY}")


def load_weights(model: nn.Module, weights: Mapping[str, Any], where: str | Path) -> None:
    """Load the weights of a checkpoint into the model that its configuration describes."""
    try:
        model.load_state_dict(weights)
    # The second is a loss's, about the name of another.
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{where}: its weights are not those of the model that its configuration describes"
            f" ({' '.join(str(error).split())[:200]}). A checkpoint of this version is expected."
            " Train again, or use the version that wrote it."
        ) from error


def model_from_checkpoint(state: Mapping[str, Any], where: str) -> nn.Module:
    """The trained model of a loaded checkpoint (the averaged weights where the run kept them)."""
    config = config_from_checkpoint(state, where)
    categories = Categories.from_dict(state["categories"])
    frequency = frequency_from_checkpoint(state)
    try:
        model = build_model(config, categories, frequency, pretrained=False)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    load_weights(model, state["model"] if state["ema"] is None else state["ema"], where)
    model.categories = categories  # type: ignore[assignment]
    model.class_names = ["background", *categories.names]  # type: ignore[assignment]
    return model.eval()


def load_detector(path: str | Path) -> nn.Module:
    """Load a trained detector as a plain torchvision model, on the CPU, in eval mode.

    Args:
        path: a checkpoint of a run (best.pt or last.pt). It carries all that is needed.

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


def config_from_checkpoint(state: Mapping[str, Any], where: str) -> Config:
    """The configuration of a run; a field that an earlier version did not have is its default."""
    return parse_config(with_new_names(state["config"]), where)


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


def check_folder(
    folder: Path, config: Config, *, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Refuse a folder that a run must not be written to; nothing is changed."""
    if resume and (folder / LAST).exists():
        return _same_run(folder / LAST, config)
    trained = (folder / BEST).exists()
    if resume and trained:
        raise ValueError(
            f"{folder}: has no {LAST} to resume from, but {BEST}. A run's last checkpoint is"
            " expected. Put it back, or pass --overwrite to replace the run."
        )
    if resume:
        logger.info("%s: has no checkpoint to resume from; the run starts anew", folder)
    elif (trained or _holds_run(folder)) and not overwrite:
        raise ValueError(
            f"{folder}: already holds a run. An empty or new folder is expected. Pass --resume to"
            " go on with it, --overwrite to replace it, or --set output=DIR."
        )
    return None


def prepare_folder(folder: Path, config: Config, *, resume: bool) -> None:
    """Empty the folder of the run that it held, unless that goes on, and save the config."""
    if not resume and _holds_run(folder):
        remove_run(folder)
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
    "train.gradient_ratio_limit",
    "train.trackers",
}


def _same_run(last: Path, config: Config) -> dict[str, Any]:
    """The last checkpoint of a run, if it is of this configuration."""
    state = load_checkpoint(last)
    started = config_from_checkpoint(state, str(last))
    before, now = _flat(started.to_dict()), _flat(config.to_dict())
    for key in {**now, **before}:
        longer = key == "train.iterations" and now[key] > before[key]
        if key not in _MAY_CHANGE and before.get(key) != now.get(key) and not longer:
            raise ValueError(
                f"{last.parent}: the run was started with {key} {before.get(key)!r}, now it is"
                f" {now.get(key)!r}. The same configuration is expected. Restore it, or start a new"
                " run with --set output=DIR."
            )
    return state


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
    names = [LAST, BEST, CONFIG_FILE, METRICS_FILE, CURVE_FILE]
    names += ["predictions.json", "report.json", "report.csv"]
    for name in names:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
