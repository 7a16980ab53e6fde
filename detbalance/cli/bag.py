"""`detbalance bag`: train the members of an ensemble, each an ordinary run."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import detbalance
from detbalance.calibration.cross_fitting import image_folds
from detbalance.calibration.fusion_members import balanced_bags
from detbalance.cli.options import Configured, Seed, Whole, command
from detbalance.cli.outputs import BAG, refuse_configured
from detbalance.cli.printing import say
from detbalance.data import load_annotations
from detbalance.data.files import replace_file
from detbalance.data.messages import counted

if TYPE_CHECKING:
    from detbalance.training.config import Config


logger = logging.getLogger(__name__)


@command("bag", "detbalance bag --config configs/bccd.yaml --output bags --members 3")
def bag_command(
    *,
    options: Configured,
    output: Annotated[Path, BAG, "Folder of the members."],
    by: Annotated[
        Literal["bags", "seeds", "folds", "losses"],
        "What members differ in, beside their seed: balanced bags of the training images, nothing"
        " else, the fold of images that each leaves out, the classification loss.",
    ] = "bags",
    members: Annotated[int, Whole(1, 1000), "Detectors to train."] = 3,
    losses: Annotated[tuple[str, ...], "--losses NAME", "One for each member. Repeatable."] = (),
    target: Annotated[
        int | None,
        Whole(1),
        "Boxes of a class that are enough for a bag. Default: the geometric mean of the smallest"
        " and the largest class.",
    ] = None,
    backbone: Annotated[
        Path | None,
        "Checkpoint of a detector of the same architecture: members start from it, and share its"
        " backbone, which is not trained.",
    ] = None,
    only: Annotated[
        tuple[int, ...],
        "--member",
        Whole(0),
        "Train this member alone, for example on another machine. Repeatable.",
    ] = (),
    prepare_only: Annotated[bool, "Write the configurations, and train nothing."] = False,
    seed: Seed = 0,
    overwrite: Annotated[bool, "Replace members that the folder holds."] = False,
) -> None:
    """Train several detectors to be fused; members that are finished are not trained again."""
    number = len(losses) if by == "losses" else members
    _check(by, number, losses, target, only)
    shared = _shared_backbone(backbone)
    base = options.load(*shared)
    refuse_configured(output, BAG, base.to_dict())
    output.mkdir(parents=True, exist_ok=True)
    if by == "seeds":
        changes = [""] * number
    elif by == "losses":
        # Options of one loss mean nothing to another.
        changes = [f"loss={{name: {name}}}" for name in losses]
    else:
        changes = [f"data.train={file}" for file in _parts(base, by, number, target, seed, output)]
    folders = [output / f"member-{i}" for i in range(number)]
    configs = {}
    for i, (folder, change) in enumerate(zip(folders, changes, strict=True)):
        own = [change] if change else []
        config = options.load(*shared, *own, f"seed={seed + i}", f"output={folder}")
        _write(folder.with_suffix(".yaml"), config, overwrite)
        if not only or i in only:
            configs[folder.with_suffix(".yaml")] = config
    if prepare_only:
        say("Train each with:", *(f"  detbalance train --config {file}" for file in configs))
        return
    failed = [str(f) for f, config in configs.items() if not _trained(f, config, overwrite)]
    if failed:
        raise ValueError(
            f"{output}: {len(failed)} of {counted(len(configs), 'run')} did not finish"
            f" ({', '.join(failed)}). All are expected to. See what they said above; the"
            " same command goes on with them alone."
        )
    trained = [str(i) for i in range(number) if not only or i in only]
    say(
        f"Members trained: {', '.join(trained)}. Make one of them with:",
        f"  detbalance fuse {' '.join(map(str, folders))} --annotations {base.data.path('val')}"
        f" --output {output / 'fused.json'}",
    )


def _parts(
    base: Config, by: str, number: int, target: int | None, seed: int, output: Path
) -> list[Path]:
    """Write the training file of each member."""
    train = base.data.path("train")
    truth = load_annotations(train, segmentations=True, drop_invalid=base.data.drop_invalid)
    if by == "folds":
        fold = image_folds(truth, number, seed)
        parts = [(fold != member).nonzero()[0] for member in range(number)]
    else:
        parts = balanced_bags(truth, number, target=target, seed=seed)
    files = []
    for member, rows in enumerate(parts):
        files.append((output / f"member-{member}.json").resolve())
        truth.subset(rows).save(files[-1])
        logger.info("member %d: %d of %d images", member, len(rows), truth.num_images)
    return files


def _write(file: Path, config: Config, overwrite: bool) -> None:
    same = file.exists() and config.is_written_in(file.read_bytes())
    if file.exists() and not same and not overwrite:
        raise ValueError(
            f"{file}: is of another ensemble than the one asked for now. The same options are"
            " expected, to go on with it. Give another --output, or --overwrite."
        )
    with replace_file(file) as target:
        target.write(config.to_yaml().encode())


def _trained(file: Path, config: Config, overwrite: bool) -> bool:
    """Train a member in a process of its own; if it dies, once more from its last checkpoint."""
    from detbalance.cli.runs import is_finished
    from detbalance.training.checkpoint import LAST

    if is_finished(config) and not overwrite:
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


def _shared_backbone(backbone: Path | None) -> list[str]:
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
    by: str, number: int, losses: Sequence[str], target: int | None, only: Sequence[int]
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
    wrong = [member for member in only if member >= number]
    if wrong:
        raise ValueError(
            f"--member: {wrong[0]} does not exist. Members are 0 to {number - 1}. Choose of them."
        )
