"""What fitting thresholds and choosing a strength begin with: matches, folds, groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detbalance.calibration.cross_fitting import image_folds
from detbalance.calibration.objectives import Objective, parse_objective
from detbalance.calibration.threshold_curves import check_confidence
from detbalance.calibration.threshold_result import Settings
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.training_counts import TrainingSide, training_side

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions
    from detbalance.data.frequency import Frequency, Groups

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibration file, ready to be fitted on."""

    objective: Objective
    matches: Matches
    folds: Int64
    training: TrainingSide
    settings: Settings

    @property
    def group_of_class(self) -> list[str | None]:
        """[K + 1], the group of each label."""
        return [None, *(group for group, _, _ in self.training.counts)]


def prepare(
    annotations: Annotations,
    predictions: Predictions,
    objective: Objective | str,
    frequency: Frequency | None,
    groups: Groups | None,
    *,
    rules: RulesChoice,
    iou: float,
    confidence: float,
    num_folds: int,
    seed: int,
    predictions_file: str | None,
) -> Calibration:
    """Check what a user chooses, match, and cut the images into folds."""
    goal = parse_objective(objective) if isinstance(objective, str) else objective
    check_confidence(confidence)
    matches = match(annotations, predictions, rules=rules)
    matches.at(iou)
    training = training_side(annotations, matches.rules.name, frequency, groups)
    return Calibration(
        objective=goal,
        matches=matches,
        folds=image_folds(annotations, num_folds, seed),
        training=training,
        settings=Settings(
            annotations=str(annotations.source),
            predictions=predictions_file,
            frequency_source=training.source,
            group_rule=training.rule,
            rules=matches.rules.name,
            iou=iou,
            confidence=confidence if goal.is_floor else None,
            folds=num_folds,
            seed=seed,
        ),
    )
