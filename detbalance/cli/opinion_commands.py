"""The commands that ask others about a detector's regions, declared; each has its own module."""

from __future__ import annotations

import click

from detbalance.cli.options import DROP_INVALID, FILE, SEED

_CHECKPOINT = click.option(
    "--checkpoint", required=True, type=FILE, help="best.pt or last.pt of a run."
)
_ANNOTATIONS = click.option(
    "--annotations", required=True, type=FILE, help="COCO file of the training images."
)
_FEATURES = click.option(
    "--features",
    type=FILE,
    help="Folder of the region features, for example one that refit made; made if it is not there."
    " Default: features/ in the output.",
)
_BATCH_SIZE = click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1))
_WORKERS = click.option(
    "--workers",
    type=click.IntRange(0),
    help="Loader processes. Default: none without a GPU, else one a core up to 8.",
)
_DEVICE = click.option(
    "--device", help="For example cuda, cuda:1, cpu. Default: a GPU where there is one."
)
_FLOOR = click.option(
    "--score-floor",
    "floor",
    default=0.3,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Score from which a detection is shown.",
)


@click.command("opinion")
@_CHECKPOINT
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
@click.option("--output", required=True, type=FILE, help="Folder for opinion.skops and more.")
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
    type=click.FloatRange(0),
    help="Wrong boxes per image that lifting may bring to a class.",
)
@_FLOOR
@click.option("--predict", type=FILE, help="COCO file to compare before and after on.")
@click.option("--predict-images", type=FILE, help="Folder of its images.")
@click.option(
    "--candidates",
    default=300,
    show_default=True,
    type=click.IntRange(1),
    help="Regions of an image that the opinion is asked about, those with the highest scores.",
)
@click.option(
    "--max-background",
    default=10_000,
    show_default=True,
    type=click.IntRange(1),
    help="Background regions that are learned from.",
)
@_BATCH_SIZE
@_WORKERS
@_DEVICE
@click.option(
    "--max-loss",
    default=0.02,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="A group that loses more AP50 or recall on --predict is named at the end.",
)
@SEED
@DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace the opinion that the folder holds.")
def opinion(**options: object) -> None:
    """Put a classifier or one-class models beside a detector's own scores."""
    from detbalance.cli.opinion import opinion_command

    opinion_command(**options)  # type: ignore[arg-type]


@click.command("suspects")
@_CHECKPOINT
@_ANNOTATIONS
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--output", required=True, type=FILE, help="Folder for suspects.json, suspects.csv and a sheet."
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
    type=click.IntRange(0),
    help="Boxes on the sheet of pictures; 0 for none.",
)
@_BATCH_SIZE
@_WORKERS
@_DEVICE
@SEED
@DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace the suspects that the folder holds.")
def suspects(**options: object) -> None:
    """Rank annotated boxes by how wrong their labels look, and images by strange objects."""
    from detbalance.cli.suspects import suspects_command

    suspects_command(**options)  # type: ignore[arg-type]
