"""The commands, as `detbalance <command>` and as `python tools/<command>.py`.

Options are declared here; the work is in one module a command, imported when it runs, so that
`detbalance report` needs neither torch nor any other part of the training stack.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from detbalance.cli.calibration_options import calibration_options

_FILE = click.Path(path_type=Path)

# Options that several commands have.
_DROP_INVALID = click.option(
    "--drop-invalid", is_flag=True, help="Leave out invalid annotations and say how many."
)
_SCORE_FLOOR = click.option(
    "--score-floor",
    default=0.3,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Recall and precision count detections with at least this score.",
)
_SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
_RARE = click.option(
    "--rare",
    type=click.IntRange(1),
    help="Classes in at most this many training images are rare.",
)
_COMMON = click.option(
    "--common",
    type=click.IntRange(1),
    help="Classes in at most this many training images are common.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="detbalance")
def cli() -> None:
    """Make object detectors find the classes that their training data shows too rarely."""


@cli.command("train")
@click.option("--config", required=True, type=_FILE, help="YAML file; examples are in configs/.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a field, for example train.iterations=500. Repeatable.",
)
@click.option(
    "--data-root",
    type=_FILE,
    help="Start of the relative paths in the config's data section. Default: the environment"
    " variable DETBALANCE_DATA.",
)
@click.option("--output", type=_FILE, help="The run's folder, instead of the config's output.")
@_DROP_INVALID
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the folder holds.")
def _train(**options: object) -> None:
    """Train a detector, and report AP and recall per class."""
    from detbalance.cli.train import train_command

    train_command(**options)  # type: ignore[arg-type]


@cli.command("evaluate")
@click.option("--checkpoint", required=True, type=_FILE, help="best.pt or last.pt of a run.")
@click.option("--annotations", required=True, type=_FILE, help="COCO file to evaluate on.")
@click.option("--images", required=True, type=_FILE, help="Folder of its images.")
@click.option(
    "--output", type=_FILE, help="Folder for predictions.json and the report. Default: print only."
)
@click.option(
    "--train",
    "train_file",
    type=_FILE,
    help="COCO file to count class frequencies in, instead of the counts in the checkpoint.",
)
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1))
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Loader processes. Default: none without a GPU, else one a core up to 8.",
)
@_SCORE_FLOOR
@click.option("--device", help="For example cuda, cuda:1, cpu. Default: a GPU where there is one.")
@click.option("--autocast", is_flag=True, help="Mixed precision, on a GPU.")
@_DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace results that the folder holds.")
def _evaluate(**options: object) -> None:
    """Run a trained detector over a data set, and report AP and recall per class."""
    from detbalance.cli.evaluate import evaluate_command

    evaluate_command(**options)  # type: ignore[arg-type]


@cli.command("report")
@click.option("--annotations", required=True, type=_FILE, help="COCO file with the ground truth.")
@click.option("--predictions", required=True, type=_FILE, help="COCO results file.")
@click.option(
    "--train",
    "train_file",
    type=_FILE,
    help="COCO file of the training data: frequencies and groups come from it.",
)
@click.option(
    "--output", type=_FILE, help="Folder for report.json and report.csv. Default: print only."
)
@_SCORE_FLOOR
@_RARE
@_COMMON
@_DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace a report that the folder holds.")
def _report(**options: object) -> None:
    """Report AP and recall per class from two JSON files."""
    from detbalance.cli.report import report_command

    report_command(**options)  # type: ignore[arg-type]


@cli.command("thresholds")
@calibration_options
@click.option(
    "--train", "train_file", type=_FILE, help="COCO file of the training data, to show groups by."
)
@click.option("--output", type=_FILE, help="File for the thresholds. Default: print only.")
@click.option(
    "--per-class",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "always", "never"]),
    help="Thresholds that differ: auto has them only where they help on held-out images.",
)
def _thresholds(**options: object) -> None:
    """Fit a score threshold for each class, and judge them on held-out images."""
    from detbalance.cli.thresholds import thresholds_command

    thresholds_command(**options)  # type: ignore[arg-type]


@cli.command("rescore")
@calibration_options
@click.option(
    "--train",
    "train_file",
    required=True,
    type=_FILE,
    help="COCO file of the training data: scores are rebalanced by its counts.",
)
@click.option(
    "--output", type=_FILE, help="COCO results file for the new scores. Default: print only."
)
@click.option(
    "--apply-to", type=_FILE, help="COCO results file to rescore, instead of --predictions."
)
@click.option(
    "--apply-annotations",
    type=_FILE,
    help="COCO file with the images of --apply-to, instead of --annotations.",
)
def _rescore(**options: object) -> None:
    """Rebalance scores by the training frequencies, as far as it helps on held-out images."""
    from detbalance.cli.rescore import rescore_command

    rescore_command(**options)  # type: ignore[arg-type]


@cli.command("plan")
@click.argument("train_file", metavar="TRAIN.JSON", type=_FILE)
@click.option("--val", "val_file", type=_FILE, help="COCO file of the validation data.")
@click.option(
    "--images", type=_FILE, help="Folder of the training images, to find images that occur twice."
)
@click.option(
    "--val-images", type=_FILE, help="Folder of the validation images, to find those in training."
)
@click.option(
    "--output",
    type=_FILE,
    help="Folder for plan.json, plan.csv, plan.png and plan.svg. Default: print only.",
)
@click.option(
    "--target-length",
    type=click.IntRange(1),
    help="Images per epoch to compare settings at. Default: chosen from the data.",
)
@click.option(
    "--images-per-second",
    type=click.FloatRange(0, min_open=True),
    help="Speed of your training, to show how long an epoch takes.",
)
@_RARE
@_COMMON
@click.option("--overwrite", is_flag=True, help="Replace a plan that the folder holds.")
def _plan(**options: object) -> None:
    """Say how imbalanced a training set is, what to do about it, and what that costs."""
    from detbalance.cli.plan import plan_command

    plan_command(**options)  # type: ignore[arg-type]


@cli.command("split")
@click.argument("annotations", type=_FILE)
@click.option("--output", required=True, type=_FILE, help="Folder for train.json and val.json.")
@click.option(
    "--val-share",
    default=0.2,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the images and boxes for validation.",
)
@click.option(
    "--group-key",
    metavar="KEY",
    help="Key of the image entries whose value images of one source share: they stay together.",
)
@click.option(
    "--group-regex",
    metavar="REGEX",
    help="The same, as a regular expression on file names; its first group names the source.",
)
@_SEED
@_DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace files that the folder holds.")
def _split(**options: object) -> None:
    """Split one annotation file so that both parts show every class and share no source."""
    from detbalance.cli.split import split_command

    split_command(**options)  # type: ignore[arg-type]


@cli.command("digits")
@click.option(
    "--output",
    default=Path("runs/quickstart/data"),
    show_default=True,
    type=_FILE,
    help="Folder for the data set.",
)
@_SEED
def _digits(**options: object) -> None:
    """Make the embedded data set: handwritten digits in scenes, most of them rare."""
    from detbalance.cli.quickstart import digits_command

    digits_command(**options)  # type: ignore[arg-type]


@cli.command("quickstart")
@click.option(
    "--output",
    default=Path("runs/quickstart"),
    show_default=True,
    type=_FILE,
    help="Folder for the data set and both runs.",
)
@click.option(
    "--config",
    default=Path("configs/digits.yaml"),
    show_default=True,
    type=_FILE,
    help="The balanced configuration.",
)
@_SEED
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of both runs."
)
def _quickstart(**options: object) -> None:
    """Train a plain and a balanced detector on the embedded data, and compare them per class."""
    from detbalance.cli.quickstart import quickstart_command

    quickstart_command(**options)  # type: ignore[arg-type]


class _StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at the moment, which a progress bar puts itself in front of."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


# Which extra brings the libraries of a command.
_EXTRA = {
    "train": "train",
    "evaluate": "train",
    "report": "report",
    "plan": "plan",
    "split": "report",
    "thresholds": "report",
    "rescore": "report",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever a user can cause ends in one line and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_StderrHandler()])
    for noisy in ("timm", "httpx", "matplotlib", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = next((a for a in arguments if not a.startswith("-")), "")
    try:
        sys.exit(cli.main(arguments, prog_name="detbalance", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(f"{error.format_message()} See: detbalance {command} --help".replace("\n", " "))
    except (click.Abort, KeyboardInterrupt) as error:
        _fail(str(error) or "interrupted", status=130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("detbalance"):
            raise
        extra = _EXTRA.get(command, "quickstart")
        _fail(f'{command} needs {error.name}. Install it with: pip install "detbalance[{extra}]"')
    except ImportError as error:
        if "pip install" not in str(error):  # the line that our own modules write
            raise
        _fail(str(error))
    except (ValueError, OSError) as error:
        _fail(_own_words(str(error)))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(
            f"{command}: the device is out of memory. A batch must fit. Lower train.batch_size,"
            " raise train.accumulation, or lower model.min_size and model.max_size."
        )


def _own_words(message: str) -> str:
    """The message itself, where a loader's worker has put its traceback around it."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]


def _fail(line: str, status: int = 2) -> None:
    click.secho("error: ", fg="red", nl=False, err=True)
    click.echo(" ".join(line.split()), err=True)
    sys.exit(status)
