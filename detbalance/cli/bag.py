"""`detbalance bag`: train the members of an ensemble, each an ordinary run."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import detbalance
from detbalance.calibration.bagging import balanced_bags
from detbalance.calibration.cross_fitting import image_folds
from detbalance.cli.options import CONFIG, DATA_ROOT, FILE, OVERRIDES, SEED, Whole, command
from detbalance.cli.outputs import BAG, refuse_configured
from detbalance.data import load_annotations
from detbalance.data.files import replace_file
from detbalance.data.messages import counted
from detbalance.reporting.terminal import Console

if TYPE_CHECKING:
    from detbalance.training.config import Config


logger = logging.getLogger(__name__)


@command("bag", "detbalance bag --config configs/bccd.yaml --output bags --members 3")
@CONFIG
@OVERRIDES
@DATA_ROOT
@click.option("--output", required=True, type=BAG, help="Folder of the members.")
@click.option(
    "--by",
    default="bags",
    type=click.Choice(["bags", "seeds", "folds", "losses"]),
    help="What members differ in, beside their seed: balanced bags of the training images, nothing"
    " else, the fold of images that each leaves out, the classification loss.",
)
@click.option("--members", default=3, type=Whole(1, 1000))
@click.option("--losses", multiple=True, metavar="NAME", help="One for each member. Repeatable.")
@click.option(
    "--target",
    type=Whole(1),
    help="Boxes of a class that are enough for a bag. Default: the geometric mean of the smallest"
    " and the largest class.",
)
@click.option(
    "--backbone",
    type=FILE,
    help="Checkpoint of a detector of the same architecture: members start from it, and share its"
    " backbone, which is not trained.",
)
@click.option(
    "--member",
    "only",
    multiple=True,
    type=Whole(0),
    help="Train this member alone, for example on another machine. Repeatable.",
)
@click.option("--prepare-only", is_flag=True, help="Write the configurations, and train nothing.")
@SEED
@click.option("--overwrite", is_flag=True, help="Replace members that the folder holds.")
def bag_command(
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
    """Train several detectors to be fused; members that are finished are not trained again."""
    from detbalance.training.config import load_config

    _check(by, members, losses, target, only)
    frozen = _frozen(backbone)
    base = load_config(config, [*overrides, *frozen], data_root=data_root)
    refuse_configured(output, BAG, base.to_dict())
    output.mkdir(parents=True, exist_ok=True)
    number = len(losses) if by == "losses" else members
    changes = _changes(base, by, number, losses, target, seed, output)
    files = []
    for i, own in enumerate(changes):
        place = output / f"member-{i}"
        made = load_config(
            config,
            [*overrides, *frozen, *own, f"seed={seed + i}", f"output={place}"],
            data_root=data_root,
        )
        files.append(_written(place.with_suffix(".yaml"), made, overwrite))
    chosen = [file for i, file in enumerate(files) if not only or i in only]
    console = Console()
    if prepare_only:
        _say(console, "Train each with:")
        for file in chosen:
            _say(console, f"  detbalance train --config {file}")
        return
    dead = [file for file in chosen if not _trained(file, overwrite)]
    if dead:
        raise ValueError(
            f"{output}: {len(dead)} of {counted(len(chosen), 'run')} did not finish"
            f" ({', '.join(map(str, dead))}). All are expected to. See what they said above; the"
            " same command goes on with them alone."
        )
    done = [m for m in range(number) if not only or m in only]
    folders = " ".join(str(output / f"member-{m}") for m in range(number))
    _say(console, f"Members trained: {', '.join(map(str, done))}. Make one of them with:")
    _say(console, f"  detbalance fuse {folders} --annotations {base.data.path('val')}"
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
    same = file.exists() and config.is_written_in(file.read_bytes())
    if file.exists() and not same and not overwrite:
        raise _another_ensemble(file)
    with replace_file(file) as target:
        target.write(config.to_yaml().encode())
    return file


def _another_ensemble(file: Path) -> ValueError:
    return ValueError(
        f"{file}: is of another ensemble than the one asked for now. The same options are"
        " expected, to go on with it. Give another --output, or --overwrite."
    )


def _trained(file: Path, overwrite: bool) -> bool:
    """Train a member in a process of its own; if it dies, once more from its last checkpoint."""
    from detbalance.cli.runs import finished
    from detbalance.training.checkpoint import LAST
    from detbalance.training.config import load_config

    config = load_config(file)
    if finished(config) and not overwrite:
        logger.info("%s: is there already", config.output)
        return True
    for attempt in range(2):
        goes_on = (config.output / LAST).is_file() and (attempt > 0 or not overwrite)
        status = _run("train", "--config", str(file), "--resume" if goes_on else "--overwrite")
        if status == 0:
            return True
        if status in (2, 130, 143):
            # What a user can cause, or asked for, would only happen again.
            if status != 2:
                raise KeyboardInterrupt(f"interrupted in {file}. Run the same command to go on.")
            return False
        logger.warning("%s: ended with status %d", file, status)
    return False


def _run(*words: str) -> int:
    """Run a command in a process of its own, and wait for it also when this one is to stop."""
    place = str(Path(detbalance.__file__).resolve().parents[1])
    script = f"import sys; sys.path[:] = [p for p in sys.path if p] + [{place!r}]\n"
    script += "from detbalance.cli import main; main(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", script, *words]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # which saves what it has; Ctrl-C it has had as well
            process.wait()
            raise


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


def _check(
    by: str, members: int, losses: Sequence[str], target: int | None, only: Sequence[int]
) -> None:
    from detbalance.losses import LOSSES

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
    if target is not None and by != "bags":
        raise ValueError(
            f"--by, --target: {target} boxes are enough for a bag, and members differ by {by}."
            " --by bags is expected with it. Correct one of them."
        )
    number = len(losses) if by == "losses" else members
    wrong = [member for member in only if member >= number]
    if wrong:
        raise ValueError(
            f"--member: {wrong[0]} does not exist. Members are 0 to {number - 1}. Choose of them."
        )


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)
