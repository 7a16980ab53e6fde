"""The commands that repair a trained detector, declared; the work of each is in its own module."""

from __future__ import annotations

import click

from detbalance.cli.options import DROP_INVALID, FILE, SEED


@click.command("refit")
@click.option("--checkpoint", required=True, type=FILE, help="best.pt or last.pt of a run.")
@click.option("--annotations", required=True, type=FILE, help="COCO file of the training images.")
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
@click.option("--output", required=True, type=FILE, help="Folder for refit.pt and refit.json.")
@click.option(
    "--features",
    type=FILE,
    help="Folder of the region features, made if it is not there: several methods can share it."
    " Default: features/ in the output.",
)
@click.option("--val", type=FILE, help="COCO file to compare before and after on.")
@click.option("--val-images", type=FILE, help="Folder of its images.")
@click.option(
    "--boxes-per-class",
    default=2000,
    show_default=True,
    type=click.IntRange(1),
    help="Boxes of a class whose regions are kept, drawn at random where there are more.",
)
@click.option(
    "--negatives",
    default=64,
    show_default=True,
    type=click.IntRange(2),
    help="Background regions of an image that are kept: half of them those with the highest"
    " scores, half drawn from the rest.",
)
@click.option(
    "--repeats",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="At most so many further looks at an image of rare classes, augmented.",
)
@click.option(
    "--iterations",
    default=400,
    show_default=True,
    type=click.IntRange(1),
    help="Steps of each fit.",
)
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1))
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Loader processes. Default: none without a GPU, else one a core up to 8.",
)
@click.option("--device", help="For example cuda, cuda:1, cpu. Default: a GPU where there is one.")
@click.option(
    "--max-loss",
    default=0.02,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="A group that loses more AP50 or recall on --val is named at the end.",
)
@SEED
@DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace the refit that the folder holds.")
def refit(**options: object) -> None:
    """Refit the classifier of a trained detector on rebalanced region features, in minutes."""
    from detbalance.cli.refit import refit_command

    refit_command(**options)  # type: ignore[arg-type]
