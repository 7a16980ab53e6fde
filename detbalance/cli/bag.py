"""`detbalance bag`: train the members of an ensemble, ordinary runs or the snapshots of one."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import detbalance
from detbalance.calibration.bagging import balanced_bags
from detbalance.calibration.cross_fitting import image_folds
from detbalance.cli.evaluate import chosen_device
from detbalance.cli.outputs import BAG, refuse_configured
from detbalance.cli.quickstart import finished
from detbalance.cli.train import evaluate_run
from detbalance.data import load_annotations
from detbalance.data.files import replace_file
from detbalance.data.messages import counted
from detbalance.losses import LOSSES
from detbalance.reporting.terminal import Console
from detbalance.training.checkpoint import (
    LAST,
    load_checkpoint,
    model_from_checkpoint,
    remove_run,
    snapshot_name,
)
from detbalance.training.config import Config, load_config
from detbalance.training.push import positive_share
from detbalance.training.setup import load_data

logger = logging.getLogger(__name__)

# Name of the run whose snapshots are members.
_RUN = "run"


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
    """Write a configuration for each run, train those that are not there, say what is next."""
    _check(by, members, losses, target, only)
    one_run = by == "snapshots"
    frozen = _frozen(backbone)
    cycles = [f"train.cycles={members}"] if one_run else []
    base = load_config(config, [*overrides, *frozen, *cycles], data_root=data_root)
    refuse_configured(output, BAG, base.to_dict())
    output.mkdir(parents=True, exist_ok=True)
    _check_kind(output, one_run, overwrite)
    number = len(losses) if by == "losses" else members
    changes = [cycles] if one_run else _changes(base, by, number, losses, target, seed, output)
    files = []
    for i, own in enumerate(changes):
        place = output / (_RUN if one_run else f"member-{i}")
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
        if one_run:
            _say(console, "This command without --prepare-only then predicts with its snapshots.")
        return
    dead = [file for file in chosen if not _trained(file, overwrite)]
    if dead:
        raise ValueError(
            f"{output}: {len(dead)} of {counted(len(chosen), 'run')} did not finish"
            f" ({', '.join(map(str, dead))}). All are expected to. See what they said above; the"
            " same command goes on with them alone."
        )
    if one_run:
        _predict(load_config(files[0]), output, members)
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


def _check_kind(output: Path, one_run: bool, overwrite: bool) -> None:
    """Refuse, or remove to overwrite them, runs of which members are made in the other way."""
    others = output.glob("member-*.yaml" if one_run else f"{_RUN}.yaml")
    for file in sorted(others):
        if not overwrite:
            raise _another_ensemble(file)
        remove_run(file.with_suffix(""))
        file.unlink()


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


def _predict(config: Config, output: Path, members: int) -> None:
    """Give each snapshot of a run a member's folder, with what a run leaves of its evaluation."""
    snapshots = [config.output / snapshot_name(member) for member in range(members)]
    places = [output / f"member-{member}" for member in range(members)]
    missing = [pair for pair in zip(snapshots, places, strict=True) if not _is_predicted(*pair)]
    if not missing:
        return
    lost = [snapshot for snapshot, _ in missing if not snapshot.exists()]
    if lost:
        raise ValueError(
            f"{lost[0]}: is not there, nor are its member's predictions ({len(lost)} such"
            " snapshots). Those of a finished run are expected. Put them back, or train again with"
            " --overwrite."
        )
    data, device = load_data(config), chosen_device(None)
    for snapshot, place in missing:
        logger.info("%s: predicting with %s", place, snapshot)
        state = load_checkpoint(snapshot)
        # As in training, so that the last snapshot's results are the run's to the bit.
        model = model_from_checkpoint(state, str(snapshot)).to(memory_format=torch.channels_last)
        place.mkdir(exist_ok=True)
        own = config.model_copy(update={"output": place})
        evaluate_run(own, model.to(device), data, positive_share(state["push"]["run"]))


def _is_predicted(snapshot: Path, place: Path) -> bool:
    """Whether a member's results are there, and of this snapshot, not of one that it replaced."""
    results = [place / "predictions.json", place / "report.json"]
    if not all(file.exists() for file in results):
        return False
    # The results of a snapshot that was removed to save space stay good.
    made = snapshot.stat().st_mtime_ns if snapshot.exists() else 0
    return all(file.stat().st_mtime_ns >= made for file in results)


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
    if by == "snapshots" and only:
        raise ValueError(
            f"--member: is {only[0]}, and snapshots are of one run, which makes all members. It is"
            " expected with members that are runs of their own. Leave it out."
        )
    if by == "snapshots" and members < 2:
        raise ValueError(
            f"--members: is {members}. At least 2 snapshots are expected of a run. Raise it, or use"
            " detbalance train."
        )
    number = len(losses) if by == "losses" else members
    wrong = [member for member in only if member >= number]
    if wrong:
        raise ValueError(
            f"--member: {wrong[0]} does not exist. Members are 0 to {number - 1}. Choose of them."
        )


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)
