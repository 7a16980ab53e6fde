"""The commands that repair a trained detector, declared; the work of each is in its own module."""

from __future__ import annotations

import click

from detbalance.cli.options import (
    BATCH_SIZE,
    CHECKPOINT,
    DEVICE,
    DROP_INVALID,
    FILE,
    SEED,
    WORKERS,
    Real,
    Whole,
)
from detbalance.cli.outputs import Command, Output, overwrite

_COMPARED = ("predictions.json", "predictions_before.json", "comparison/*")
_STORED = Output("features.f16", "regions.bin", "state.json", lock="")

_ANNOTATIONS = click.option(
    "--annotations", required=True, type=FILE, help="COCO file of the training images."
)
_FEATURES = click.option(
    "--features",
    type=_STORED,
    help="Folder of the region features, for example one that refit made; made if it is not there."
    " Default: features/ in the output.",
)
_BEFORE = click.option(
    "--before",
    type=FILE,
    help="COCO results of the detector as it was on the images to compare on, for example the"
    " predictions.json of its run. Default: it is asked anew.",
)
_FLOOR = click.option(
    "--score-threshold",
    "floor",
    default=0.3,
    show_default=True,
    type=Real(0, 1, min_open=True, max_open=True),
    help="Score from which a detection is shown.",
)


@click.command("refit", cls=Command)
@CHECKPOINT
@_ANNOTATIONS
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--method",
    default="crt",
    show_default=True,
    metavar="NAME",
    help="crt, lws, tau, ncm, fasa, or any sampler of imbalanced-learn: SMOTE, BorderlineSMOTE,"
    " ADASYN, RandomOverSampler, RandomUnderSampler, NearMiss, SMOTEENN ...",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the method, for example k_neighbors=3 or balance=0.5. Repeatable.",
)
@click.option(
    "--output",
    required=True,
    type=Output("refit.pt", "refit.json", *_COMPARED, holds="a refit"),
    help="Folder for refit.pt and refit.json.",
)
@click.option(
    "--features",
    type=_STORED,
    help="Folder of the region features, made if it is not there: several methods can share it."
    " Default: features/ in the output.",
)
@click.option("--val", type=FILE, help="COCO file to compare before and after on.")
@click.option("--val-images", type=FILE, help="Folder of its images.")
@_BEFORE
@click.option(
    "--boxes-per-class",
    default=2000,
    show_default=True,
    type=Whole(1),
    help="Boxes of a class whose regions are kept, drawn at random where there are more.",
)
@click.option(
    "--negatives",
    default=64,
    show_default=True,
    type=Whole(2),
    help="Background regions of an image that are kept: half of them those with the highest"
    " scores, half drawn from the rest.",
)
@click.option(
    "--max-boxes",
    default=100_000,
    show_default=True,
    type=Whole(1),
    help="Boxes of all classes together whose regions are kept; where there are more, fewer of the"
    " largest classes are.",
)
@click.option(
    "--max-negatives",
    default=400_000,
    show_default=True,
    type=Whole(1),
    help="Background regions of all images together that are kept; where there would be more, fewer"
    " of each image are.",
)
@click.option(
    "--repeats",
    default=3,
    show_default=True,
    type=Whole(0),
    help="At most so many further looks at an image of rare classes, augmented.",
)
@click.option(
    "--iterations",
    default=400,
    show_default=True,
    type=Whole(1),
    help="Steps of each fit.",
)
@BATCH_SIZE
@WORKERS
@DEVICE
@click.option(
    "--max-loss",
    default=0.02,
    show_default=True,
    type=Real(0, 1),
    help="A group that loses more AP50 or recall on --val is named at the end.",
)
@SEED
@DROP_INVALID
@overwrite("Replace the refit that the folder holds.")
def refit(**options: object) -> None:
    """Refit the classifier of a trained detector on rebalanced region features, in minutes."""
    from detbalance.cli.refit import refit_command

    refit_command(**options)  # type: ignore[arg-type]


@click.command("opinion", cls=Command)
@CHECKPOINT
@_ANNOTATIONS
@click.option("--images", type=FILE, help="Folder of its images.")
@click.option(
    "--method",
    default="LogisticRegression",
    show_default=True,
    metavar="NAME",
    help="A classifier of scikit-learn or imbalanced-learn (BalancedBaggingClassifier,"
    " EasyEnsembleClassifier, RUSBoostClassifier, BalancedRandomForestClassifier,"
    " HistGradientBoostingClassifier ...), or one-class models of rare classes: Mahalanobis,"
    " OneClassSVM, IsolationForest, LocalOutlierFactor, or a detector of PyOD.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the method, for example n_estimators=50. Repeatable.",
)
@click.option(
    "--output",
    required=True,
    type=Output("opinion.json", *_COMPARED, holds="an opinion"),
    help="Folder for opinion.skops and more.",
)
@_FEATURES
@click.option(
    "--opinion",
    type=FILE,
    help="opinion.skops of an earlier call, to predict with; none is fitted.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="Class to lift by a one-class model. Repeatable. Default: the rare ones.",
)
@click.option(
    "--max-fppi",
    default=0.02,
    show_default=True,
    type=Real(0),
    help="Wrong boxes per image that lifting may bring to a class.",
)
@_FLOOR
@click.option("--predict", type=FILE, help="COCO file to compare before and after on.")
@click.option("--predict-images", type=FILE, help="Folder of its images.")
@_BEFORE
@click.option(
    "--candidates",
    default=300,
    show_default=True,
    type=Whole(1),
    help="Regions of an image that the opinion is asked about, those with the highest scores.",
)
@click.option(
    "--max-background",
    default=10_000,
    show_default=True,
    type=Whole(1),
    help="Background regions that are learned from.",
)
@BATCH_SIZE
@WORKERS
@DEVICE
@click.option(
    "--max-loss",
    default=0.02,
    show_default=True,
    type=Real(0, 1),
    help="A group that loses more AP50 or recall on --predict is named at the end.",
)
@SEED
@DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace the opinion that the folder holds.")
def opinion(**options: object) -> None:
    """Put a classifier or one-class models beside a detector's own scores."""
    from detbalance.cli.opinion import opinion_command

    opinion_command(**options)  # type: ignore[arg-type]


@click.command("suspects", cls=Command)
@CHECKPOINT
@_ANNOTATIONS
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--output",
    required=True,
    type=Output("suspects.json", "suspects.csv", "suspects.png", holds="suspects"),
    help="Folder for suspects.json, suspects.csv and a sheet.",
)
@_FEATURES
@click.option(
    "--judge",
    default="combined",
    show_default=True,
    type=click.Choice(["combined", "classifier", "detector", "one-class"]),
    help="A classifier that has not seen the image, the detector, the mean of both, or how typical"
    " a box is of its own class.",
)
@_FLOOR
@click.option(
    "--sheet",
    default=48,
    show_default=True,
    type=Whole(0),
    help="Boxes on the sheet of pictures; 0 for none.",
)
@BATCH_SIZE
@WORKERS
@DEVICE
@SEED
@DROP_INVALID
@overwrite("Replace the suspects that the folder holds.")
def suspects(**options: object) -> None:
    """Rank annotated boxes by how wrong their labels look, and images by strange objects."""
    from detbalance.cli.suspects import suspects_command

    suspects_command(**options)  # type: ignore[arg-type]
