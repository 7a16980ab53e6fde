"""The work below `report`, `compare` and all that end in them: plain functions, no commands."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from detbalance.cli.options import EvaluationOptions
from detbalance.cli.printing import rounded, say, waiting
from detbalance.data import Annotations, Predictions, load_annotations, load_predictions
from detbalance.data.frequency import Frequency, Groups, class_frequency, frequency_groups
from detbalance.evaluation import (
    Comparison,
    Evaluation,
    Matches,
    Report,
    build_report,
    compare,
    evaluate,
    with_bootstrap,
)
from detbalance.evaluation.bootstrap import drawn_bytes
from detbalance.evaluation.compare import check_room
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.sanity_checks import odd_scores
from detbalance.reporting.comparison_document import baselines_document, comparison_document
from detbalance.reporting.console import print_document
from detbalance.reporting.files import (
    baselines_dict,
    json_text,
    write_baselines,
    write_comparison,
    write_report,
)
from detbalance.reporting.report_document import report_document

if TYPE_CHECKING:
    from detbalance.reporting.gallery import Gallery
    from detbalance.reporting.label_issues import LabelIssuesSection

logger = logging.getLogger(__name__)

DRAWS = 1000
# What draws may take without being asked for, in seconds of one core and in bytes.
_PATIENCE = 10.0
_SMALL = 1e9


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Ground truth with what detections are evaluated by."""

    truth: Annotations
    frequency: Frequency | None = None
    limits: tuple[int, int] | None = None  # of the groups; None for the usual ones
    score_threshold: float | npt.NDArray[np.float64] = 0.3
    thresholds: Path | None = None
    rules: RulesChoice = "auto"
    confidence: float = 0.95
    seed: int = 0

    @classmethod
    def read(cls, annotations: Path, options: EvaluationOptions) -> Evaluator:
        """Read the files."""
        limits = group_limits(options.rare, options.common)
        if limits is not None and options.train_file is None:
            raise ValueError(
                "--rare, --common: are limits of training images, and --train is missing. A"
                " training file is expected. Add --train train.json."
            )
        truth = load_annotations(annotations, drop_invalid=options.drop_invalid)
        score_threshold: float | npt.NDArray[np.float64] = options.score_threshold
        if options.thresholds is not None:
            from detbalance.calibration.thresholds import load_thresholds

            score_threshold = load_thresholds(options.thresholds).by_label(truth.categories)
        frequency = None
        if options.train_file is not None:
            train = load_annotations(options.train_file, drop_invalid=options.drop_invalid)
            frequency = class_frequency(train)
        return cls(
            truth,
            frequency,
            limits,
            score_threshold,
            options.thresholds,
            options.rules,
            options.confidence,
            options.seed,
        )

    @cached_property
    def groups(self) -> Groups | None:
        """The groups of the classes, by how many training images show them."""
        if self.frequency is None:
            return None
        return frequency_groups(self.frequency, limits=self.limits)

    def evaluate(
        self, predictions: Path | Predictions, *, file: Path | None = None, **settings: Any
    ) -> Evaluation:
        """Evaluate detections, those of a results file or those that a file was made of."""
        if isinstance(predictions, Path):
            file, predictions = predictions, load_predictions(predictions, self.truth)
        return evaluate(
            self.truth,
            predictions,
            score_threshold=self.score_threshold,
            rules=self.rules,
            confidence=self.confidence,
            predictions_file=None if file is None else str(file),
            thresholds_file=None if self.thresholds is None else str(self.thresholds),
            **settings,
        )

    def report(
        self, evaluation: Evaluation, positive_share: npt.NDArray[np.float64] | None = None
    ) -> Report:
        """Set an evaluation beside the training counts."""
        return build_report(
            evaluation,
            self.truth,
            train_frequency=self.frequency,
            groups=self.groups,
            positive_share=positive_share,
        )


def compare_runs(
    evaluator: Evaluator,
    before: Sequence[Evaluation],
    after: Sequence[Evaluation],
    *,
    figure: str = "AP",
    num_bootstrap: int = DRAWS,
) -> tuple[Comparison, list[Evaluation], list[Evaluation]]:
    """Compare two detectors, one run or several a side; the runs come back with their draws."""
    runs = [*before, *after]
    check_room(len(runs), num_bootstrap, evaluator.truth.categories.num_classes)
    undrawn = [run for run in runs if run.settings.num_bootstrap != num_bootstrap]
    seconds = sum(drawing_seconds(run.matches, num_bootstrap) for run in undrawn)
    with waiting(f"drawing the images {num_bootstrap:,} times for {len(runs)} runs", seconds):
        runs = [
            with_bootstrap(run, num_bootstrap, seed=evaluator.seed) if run in undrawn else run
            for run in runs
        ]
        before, after = runs[: len(before)], runs[len(before) :]
        comparison = compare(
            before,
            after,
            train_frequency=evaluator.frequency,
            groups=evaluator.groups,
            figure=figure,
            num_bootstrap=num_bootstrap,
            seed=evaluator.seed,
        )
    return comparison, before, after


def with_draws(result: Evaluation, draws: int | None, seed: int) -> Evaluation:
    """Add the intervals of AP and AR; where no number of draws is given, if that is quick."""
    if draws is None:
        draws = 0 if why_no_draws(result) else DRAWS
    if draws == 0:
        return result
    with waiting(f"drawing the images {draws:,} times", drawing_seconds(result.matches, draws)):
        return with_bootstrap(result, draws, seed=seed)


def why_no_draws(result: Evaluation) -> str:
    """Why AP and AR get no intervals unasked, and how to get them; "" where they get them."""
    seconds = drawing_seconds(result.matches, DRAWS)
    needed = drawn_bytes(1, DRAWS, len(result.val_boxes))
    if seconds <= _PATIENCE and needed <= _SMALL:
        return ""
    room = f" and {needed / 1e9:.1f} GB of memory" if needed > _SMALL else ""
    return (
        f"AP and AR have no intervals: those take about {rounded(seconds)}{room}. Pass"
        f" --num-bootstrap {DRAWS} for them."
    )


def drawing_seconds(matches: Matches, draws: int) -> float:
    """About how long draws take on one core: every detection is counted, right ones cost more."""
    right = int(matches.is_true_positive.sum())
    return draws * (4e-9 * len(matches.order) + 2e-8 * right)


def show(
    report: Report,
    output: Path | None,
    *,
    baseline: Report | None = None,
    comparison: Comparison | None = None,
    gallery: Gallery | None = None,
    label_issues: LabelIssuesSection | None = None,
    hint: str = "",
    as_json: bool = False,
) -> None:
    """Print a report, and write it where a folder is given."""
    if as_json:
        click.echo(json_text(report.to_dict()))
    else:
        print_document(report_document(report))
        if comparison is not None:
            say("")
            print_document(comparison_document(comparison))
    if output is not None:
        written: list[Path] = [*write_report(report, output, label_issues=label_issues)]
        if comparison is not None:
            written += write_comparison(comparison, output)
        written += write_html(
            report,
            output / "report.html",
            baseline=baseline,
            comparison=comparison,
            gallery=gallery,
            label_issues=label_issues,
        )
        if not as_json:
            say(f"Written: {', '.join(map(str, written))}")
    if hint and not as_json:
        say(hint, style="dim")


def show_comparison(
    evaluator: Evaluator,
    comparison: Comparison,
    before: Evaluation,
    after: Evaluation,
    output: Path | None,
    images: Path | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print a comparison, and write it where a folder is given, with the page of its first runs."""
    if as_json:
        click.echo(json_text(comparison.to_dict()))
    else:
        print_document(comparison_document(comparison))
    if output is None:
        return
    report = evaluator.report(after)
    written = [
        *write_comparison(comparison, output),
        *write_html(
            report,
            output / "comparison.html",
            baseline=evaluator.report(before),
            comparison=comparison,
            gallery=None if images is None else pictures(after, report, images),
        ),
    ]
    if not as_json:
        say(f"Written: {', '.join(map(str, written))}")


def show_baselines(
    comparisons: Mapping[str, Comparison], output: Path | None, *, as_json: bool = False
) -> None:
    """Print one detector against several baselines, and write it where a folder is given."""
    if as_json:
        click.echo(json_text(baselines_dict(comparisons)))
    else:
        print_document(baselines_document(comparisons))
    if output is not None:
        written = write_baselines(comparisons, output)
        if not as_json:
            say(f"Written: {', '.join(map(str, written))}")


def pictures(evaluation: Evaluation, report: Report, images: Path) -> Gallery | None:
    """Thumbnails of what is missed and of what is wrong; None where their library lacks."""
    from detbalance.reporting.gallery import build_gallery

    try:
        return build_gallery(evaluation, images, rarest_first=[row.name for row in report.classes])
    except ImportError as error:
        logger.warning("There are no pictures: %s", error)
        return None


def write_html(report: Report, path: Path, **parts: Any) -> list[Path]:
    """Write the page; a report without it is better than none where its libraries lack."""
    try:
        from detbalance.reporting.page import write_page

        return [write_page(report, path, **parts)]
    except ImportError as error:
        logger.warning("%s is not written: %s", path, error)
        return []


def results_file(path: Path) -> Path:
    """The results file; of a run's folder the one that it holds."""
    return path / "predictions.json" if path.is_dir() else path


def load_probabilities(file: Path, truth: Annotations) -> Predictions:
    """Read a results file whose scores are to be computed with; names it where they are none."""
    predictions = load_predictions(file, truth)
    if odd := odd_scores(predictions):
        raise ValueError(f"{file}: {odd}. Probabilities are expected. Write them as such.")
    return predictions


def training_frequency(
    train_file: Path | None, annotations: Path, drop_invalid: bool, option: str = "--annotations"
) -> Frequency | None:
    """Count the training file; what a detector learned from cannot calibrate it."""
    if train_file is None:
        return None
    if train_file.resolve() == annotations.resolve():
        raise ValueError(
            f"{option}: {annotations} is the training file too. Scores on images that a detector"
            " learned from are too high; other images are expected. Calibrate on the validation"
            " file."
        )
    return class_frequency(load_annotations(train_file, drop_invalid=drop_invalid))


def group_limits(rare: int | None, common: int | None) -> tuple[int, int] | None:
    """The limits of the groups; None for the usual rule."""
    if (rare is None) != (common is None):
        raise ValueError(
            "--rare, --common: only one of them is given. Both limits are expected. Give both, for"
            " example --rare 10 --common 100."
        )
    return None if rare is None or common is None else (rare, common)


def check_images(images: Path | None, output: Path | None) -> None:
    """Refuse pictures without a page to show them on, and a folder that is none."""
    if images is not None and output is None:
        raise ValueError(
            "--images: the pictures go into an HTML file, and --output is missing. A folder to"
            " write into is expected. Add --output FOLDER."
        )
    check_folder("--images", images)


def check_folder(option: str, folder: Path | None) -> None:
    """Refuse what is no folder of images."""
    if folder is not None and not folder.is_dir():
        raise ValueError(
            f"{option}: {folder} is no folder. The folder that file names start from is expected."
            " Correct the path."
        )


def check_same_classes(other: Annotations, truth: Annotations) -> None:
    """Refuse annotations whose labels mean other classes."""
    if other.categories.names != truth.categories.names:
        raise ValueError(
            f"{other.source}: its classes are not those of {truth.source}. The same names in the"
            " same order of ids are expected. Use files of one data set."
        )
