"""The commands around ensembles, declared; the work of each is in a module of its name."""

from __future__ import annotations

import click

from detbalance.cli.options import (
    CONFIG,
    DATA_ROOT,
    DROP_INVALID,
    FILE,
    OVERRIDES,
    RULES,
    SEED,
    Real,
    Whole,
)
from detbalance.cli.outputs import BAG, OUTPUT_FILE, Command, overwrite


@click.command("fuse", cls=Command)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="RESULTS.JSON...")
@click.option("--annotations", required=True, type=FILE, help="COCO file that lists the images.")
@click.option("--output", required=True, type=OUTPUT_FILE, help="COCO results file to write.")
@click.option(
    "--method",
    default="wbf",
    show_default=True,
    type=click.Choice(["wbf", "nms", "soft_nms"]),
    help="Weighted boxes fusion, NMS, soft-NMS.",
)
@click.option(
    "--iou",
    "iou_thresholds",
    multiple=True,
    default=(0.55,),
    show_default=True,
    type=Real(0, 1, max_open=True),
    help="Boxes of a class that overlap more are one object. Repeatable with --calibrate-on: the"
    " best is chosen, the first unless another is clearly better.",
)
@click.option(
    "--fused-score",
    "confidence",
    default="box_and_model_avg",
    show_default=True,
    type=click.Choice(["box_and_model_avg", "avg", "max", "absent_model_aware_avg"]),
    help="How wbf makes one score of several.",
)
@click.option(
    "--sigma",
    default=0.5,
    show_default=True,
    type=Real(0, min_open=True),
    help="Of soft_nms: the larger, the less scores are lowered.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=Real(max=1e9),
    help="Weight of a results file, once for each, in their order. Default: equal, or chosen by"
    " --calibrate-on.",
)
@click.option(
    "--calibrate-on",
    type=FILE,
    help="COCO file, not training data, to make scores comparable and to choose weights on. That of"
    " --annotations will do: then each part of it is fused by what the others say.",
)
@click.option(
    "--calibration-predictions",
    multiple=True,
    type=FILE,
    help="Results on --calibrate-on, once for each results file, in their order.",
)
@click.option(
    "--train",
    "train_file",
    type=FILE,
    help="COCO file of the training data, to say what fusion does to rare and frequent classes.",
)
@click.option(
    "--score-threshold",
    default=0.0,
    show_default=True,
    type=Real(0, 1),
    help="Leave out detections with a lower score before they are fused.",
)
@click.option(
    "--min-fused-score",
    default=0.0,
    show_default=True,
    type=Real(0, 1),
    help="Leave out fused detections with a lower score.",
)
@click.option(
    "--max-detections",
    type=Whole(1),
    help="Detections of an image that stay. Default: 100, by LVIS's rules 300.",
)
@RULES
@click.option(
    "--folds",
    default=5,
    show_default=True,
    type=Whole(3),
    help="Parts of the calibration images; each is judged by what the others say.",
)
@SEED
@DROP_INVALID
@overwrite("Replace the output file.")
def fuse(**options: object) -> None:
    """Make one set of detections of those of several detectors."""
    from detbalance.cli.fuse import fuse_command

    fuse_command(**options)  # type: ignore[arg-type]


@click.command("bag", cls=Command)
@CONFIG
@OVERRIDES
@DATA_ROOT
@click.option("--output", required=True, type=BAG, help="Folder of the members.")
@click.option(
    "--by",
    default="bags",
    show_default=True,
    type=click.Choice(["bags", "seeds", "folds", "losses"]),
    help="What members differ in, beside their seed: balanced bags of the training images, nothing"
    " else, the fold of images that each leaves out, the classification loss.",
)
@click.option("--members", default=3, show_default=True, type=Whole(1, 1000))
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
def bag(**options: object) -> None:
    """Train several detectors to be fused; members that are finished are not trained again."""
    from detbalance.cli.bag import bag_command

    bag_command(**options)  # type: ignore[arg-type]
