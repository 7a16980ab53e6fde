"""`detbalance bag`: train the members of an ensemble, each an ordinary run."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from detbalance.annotations import load_annotations
from detbalance.annotations.files import replace_file
from detbalance.cli.quickstart import finished
from detbalance.ensembling.bagging import balanced_bags
from detbalance.losses import LOSSES
from detbalance.operating.cross_fitting import image_folds
from detbalance.training.checkpoint import LAST
from detbalance.training.config import Config, load_config

logger = logging.getLogger(__name__)


def bag_command(
    *,
    config: Path,
    overrides: tuple[str, ...],
    data_root: Path | None,
    output: Path,
    by: str,
    members: int,
    losses: tuple[str, ...],
    target: int | None,
    backbone: Path | None,
    only: tuple[int, ...],
    prepare_only: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Write a configuration for each member, train those that are not there, say what is next."""
    _check(by, members, losses, only)
    frozen = _frozen(backbone)
    base = load_config(config, [*overrides, *frozen], data_root=data_root)
    output.mkdir(parents=True, exist_ok=True)
    number = len(losses) if by == "losses" else members
    changes = _changes(base, by, number, losses, target, seed, output)
    files = []
    for member, own in enumerate(changes):
        place = output / f"member-{member}"
        made = load_config(
            config,
            [*overrides, *frozen, *own, f"seed={seed + member}", f"output={place}"],
            data_root=data_root,
        )
        files.append(_written(output / f"member-{member}.yaml", made, overwrite))
    chosen = [m for m in range(number) if not only or m in only]
    console = Console()
    if prepare_only:
        _say(console, "Train each with:")
        for member in chosen:
            _say(console, f"  detbalance train --config {files[member]}")
        return
    dead = [m for m in chosen if not _trained(files[m], overwrite)]
    if dead:
        names = ", ".join(str(files[m]) for m in dead)
        raise ValueError(
            f"{output}: {len(dead)} of {len(chosen)} members did not finish ({names}). All are"
            " expected to. See what they said above; the same command goes on with them alone."
        )
    runs = " ".join(str(output / f"member-{m}") for m in range(number))
    _say(console, f"Members trained: {', '.join(str(m) for m in chosen)}. Make one of them with:")
    _say(console, f"  detbalance fuse {runs} --annotations {base.data.path('val')}"
         f" --output {output / 'fused.json'}")  # fmt: skip


def _changes(
    base: Config,
    by: str,
    members: int,
    losses: Sequence[str],
    target: int | None,
    seed: int,
    output: Path,
) -> list[list[str]]:
    """What tells each member from the configuration, beside its seed."""
    if by == "seeds":
        return [[] for _ in range(members)]
    if by == "losses":
        # Options of one loss mean nothing to another.
        return [[f"loss={{name: {name}}}"] for name in losses]
    train = base.data.path("train")
    truth = load_annotations(train, segmentations=True, drop_invalid=base.data.drop_invalid)
    if by == "folds":
        fold = image_folds(truth, members, seed)
        parts = [(fold != member).nonzero()[0] for member in range(members)]
    else:
        parts = balanced_bags(truth, members, target=target, seed=seed)
    changes = []
    for member, rows in enumerate(parts):
        file = (output / f"member-{member}.json").resolve()
        truth.subset(rows).save(file)
        logger.info("member %d: %d of %d images", member, len(rows), truth.num_images)
        changes.append([f"data.train={file}"])
    return changes


def _written(file: Path, config: Config, overwrite: bool) -> Path:
    text = config.to_yaml()
    if file.exists() and not overwrite and file.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{file}: is of another ensemble than the one asked for now. The same options are"
            " expected, to go on with it. Give another --output, or --overwrite."
        )
    with replace_file(file) as target:
        target.write(text.encode())
    return file


def _trained(file: Path, overwrite: bool) -> bool:
    """Train a member in a process of its own; if it dies, once more from its last checkpoint."""
    config = load_config(file)
    if finished(config) and not overwrite:
        logger.info("%s: is there already", config.output)
        return True
    for attempt in range(2):
        goes_on = (config.output / LAST).is_file() and (attempt > 0 or not overwrite)
        words = ["train", "--config", str(file), "--resume" if goes_on else "--overwrite"]
        script = "import sys; from detbalance.cli import main; main(sys.argv[1:])"
        done = subprocess.run([sys.executable, "-c", script, *words], check=False)
        if done.returncode == 0:
            return True
        if done.returncode in (2, 130):
            # What a user can cause, or asked for, would only happen again.
            if done.returncode == 130:
                raise KeyboardInterrupt(f"interrupted in {file}. Run the same command to go on.")
            return False
        logger.warning("%s: ended with status %d", file, done.returncode)
    return False


def _frozen(backbone: Path | None) -> list[str]:
    """Overrides that let members share the backbone of a trained detector, which stays as it is."""
    if backbone is None:
        return []
    if not backbone.is_file():
        raise ValueError(
            f"{backbone}: no such file. A checkpoint of a detector of the same architecture is"
            " expected. Correct --backbone."
        )
    return [f"model.weights={backbone}", "model.frozen_norm=true", "train.backbone_rate=0"]


def _check(by: str, members: int, losses: Sequence[str], only: Sequence[int]) -> None:
    if (by == "losses") != bool(losses):
        raise ValueError(
            "--by, --losses: belong together. --by losses with at least one --losses NAME is"
            " expected, or neither. Correct one of them."
        )
    unknown = [name for name in losses if name not in LOSSES and name != "torchvision"]
    if unknown:
        raise ValueError(
            f'--losses: "{unknown[0]}" is unknown. Known: {", ".join(LOSSES)}, torchvision. Choose'
            " of them."
        )
    number = len(losses) if by == "losses" else members
    wrong = [member for member in only if member >= number]
    if wrong:
        raise ValueError(
            f"--member: {wrong[0]} does not exist. Members are 0 to {number - 1}. Choose of them."
        )


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)
