"""What `report` and `compare` have in common: files read, detections evaluated, images drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.text import Text

from detbalance.calibration import load_thresholds
from detbalance.data import Annotations, Predictions, load_annotations, load_predictions
from detbalance.data.frequency import Frequency, Groups, class_frequency, frequency_groups
from detbalance.evaluation import Evaluation, Matches, Report, build_report, evaluate
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.sanity_checks import odd_scores
from detbalance.reporting.terminal import Console

logger = logging.getLogger(__name__)

# Seconds that draws may take without being asked for, and from which on their wait is shown.
QUICK = 1.0


@dataclass(frozen=True, eq=False)
class Ground:
    """The files that detections are held against."""

    truth: Annotations
    frequency: Frequency | None
    groups: Groups | None
    score_threshold: float | npt.NDArray[np.float64]
    thresholds: Path | None

    @classmethod
    def read(
        cls,
        annotations: Path,
        *,
        train_file: Path | None,
        score_threshold: float,
        thresholds: Path | None,
        rare: int | None,
        common: int | None,
        drop_invalid: bool,
    ) -> Ground:
        """Read the files."""
        limits = _limits(rare, common, train_file)
        truth = load_annotations(annotations, drop_invalid=drop_invalid)
        fitted = None if thresholds is None else load_thresholds(thresholds)
        floor = score_threshold if fitted is None else fitted.by_label(truth.categories)
        frequency = groups = None
        if train_file is not None:
            frequency = class_frequency(load_annotations(train_file, drop_invalid=drop_invalid))
            groups = frequency_groups(frequency, limits=limits)
        return cls(truth, frequency, groups, floor, thresholds)

    def evaluate(
        self,
        results: Path,
        *,
        rules: RulesChoice,
        confidence: float,
        beta: float = 1.0,
        min_precision: float = 0.9,
        max_fppi: float = 0.1,
    ) -> Evaluation:
        """Evaluate a results file."""
        return evaluate(
            self.truth,
            load_predictions(results, self.truth),
            score_threshold=self.score_threshold,
            rules=rules,
            beta=beta,
            min_precision=min_precision,
            max_fppi=max_fppi,
            confidence=confidence,
            predictions_file=str(results),
            thresholds_file=None if self.thresholds is None else str(self.thresholds),
        )

    def report(self, evaluation: Evaluation) -> Report:
        """Set an evaluation beside the training counts."""
        return build_report(
            evaluation, self.truth, train_frequency=self.frequency, groups=self.groups
        )


def results_file(given: Path) -> Path:
    """The results file; of a run's folder the one that it holds."""
    return given / "predictions.json" if given.is_dir() else given


def _limits(
    rare: int | None, common: int | None, train_file: Path | None
) -> tuple[int, int] | None:
    """The limits of the groups; None for the usual rule."""
    if rare is None and common is None:
        return None
    if rare is None or common is None:
        raise ValueError(
            "--rare, --common: only one of them is given. Both limits are expected. Give both, for"
            " example --rare 10 --common 100."
        )
    if train_file is None:
        raise ValueError(
            "--rare, --common: are limits of training images, and --train is missing. A training"
            " file is expected. Add --train train.json."
        )
    return rare, common


def drawing_seconds(matches: Matches, draws: int) -> float:
    """About how long draws take on one core: every detection is counted, right ones cost more."""
    right = int(matches.is_true_positive.sum())
    return draws * (4e-9 * len(matches.order) + 2e-8 * right)


def rounded(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


@contextmanager
def waiting(what: str, seconds: float) -> Iterator[None]:
    """Show on a terminal that something takes its time; say so in a line elsewhere."""
    console = Console(stderr=True)
    text = f"{what}: about {rounded(seconds)}"
    if seconds <= QUICK:
        yield
    elif console.is_terminal:
        with console.status(Text(text)):
            yield
    else:
        logger.info("%s", text)
        yield


def load_probabilities(file: Path, truth: Annotations) -> Predictions:
    """Read a results file whose scores are to be computed with; names it where they are none."""
    predictions = load_predictions(file, truth)
    if odd := odd_scores(predictions):
        raise ValueError(f"{file}: {odd}. Probabilities are expected. Write them as such.")
    return predictions


def check_output(output: Path | None, overwrite: bool, name: str = "report") -> None:
    """Refuse a folder that holds such results already, before any work is done."""
    if output is not None and not overwrite and (output / f"{name}.json").exists():
        raise ValueError(
            f"{output}: already holds a {name}. A new or empty folder is expected. Pass --overwrite"
            " to replace it."
        )


def check_same_classes(other: Annotations, truth: Annotations) -> None:
    """Refuse annotations whose labels mean other classes."""
    if other.categories.names != truth.categories.names:
        raise ValueError(
            f"{other.source}: its classes are not those of {truth.source}. The same names in the"
            " same order of ids are expected. Use files of one data set."
        )
