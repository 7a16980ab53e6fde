"""What a threshold is for: the best F-beta, a floor of recall, or a floor of precision.

Letters: K categories, G score thresholds to choose from.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.operating_points import f_score

Float64 = npt.NDArray[np.float64]
Counted: TypeAlias = "npt.NDArray[np.integer] | Float64"

_NUMBER = r"(\d+\.?\d*|\.\d+)"
_F = re.compile(rf"f{_NUMBER}")
_FLOOR = re.compile(rf"(recall|precision)\s*>?=\s*{_NUMBER}")
_KNOWN = 'f1, f2, f0.5, "recall>=0.9", "precision>=0.8"'


@dataclass(frozen=True)
class Objective:
    """What thresholds are fitted for.

    Attributes:
        kind: "f" for the highest F-beta; "recall" for the highest threshold that keeps a floor of
            recall; "precision" for the lowest one that keeps a floor of precision.
        amount: beta, > 0, or the floor, in (0, 1).

    Example:
        >>> parse_objective("recall>=.9")
        Objective(kind='recall', amount=0.9)
        >>> print(parse_objective("recall>=.9"), parse_objective("f2"))
        recall>=0.9 f2
    """

    kind: Literal["f", "recall", "precision"]
    amount: float

    def __str__(self) -> str:
        return f"f{self.amount:g}" if self.kind == "f" else f"{self.kind}>={self.amount:g}"

    @property
    def beta(self) -> float:
        """The weight of recall in the F-score to show: 1 beside a floor."""
        return self.amount if self.kind == "f" else 1.0

    @property
    def is_floor(self) -> bool:
        """Whether a figure is to be kept rather than made as high as possible."""
        return self.kind != "f"

    def worth(self, right: Counted, wrong: Counted, boxes: Counted) -> Float64:
        """How good counts of right and wrong detections are, class by class.

        F-beta itself; for a floor, the figure that it is paid with (precision for recall, recall
        for precision) times how likely the floor is kept: Phi((x - floor n) / sqrt(n floor
        (1 - floor))) for x successes of n, the score test that Wilson's interval inverts. A class
        far below its floor is worth nothing; one far above earns nothing by that.

        Args:
            right: [..., K + 1], detections that found a box.
            wrong: [..., K + 1], detections that found none.
            boxes: [..., K + 1], boxes to find.

        Returns:
            float64 in [0, 1], NaN without boxes to find.
        """
        recall, precision = shares(right, wrong, boxes)
        if self.kind == "f":
            return f_score(precision, recall, beta=self.amount)
        found, trials = self.kept(right, wrong, boxes)
        spread = np.sqrt(trials * self.amount * (1 - self.amount))
        distance = np.divide(
            found - self.amount * trials,
            spread,
            out=np.zeros(found.shape),
            where=spread > 0,
        )
        paid = precision if self.kind == "recall" else recall
        worth = _normal_cdf(distance) * np.nan_to_num(paid)
        return np.where(np.isnan(recall), np.nan, worth)

    def kept(self, right: Counted, wrong: Counted, boxes: Counted) -> tuple[Counted, Counted]:
        """The figure that has a floor, as successes and trials.

        Args:
            right: as in `worth`.
            wrong: as in `worth`.
            boxes: as in `worth`.

        Returns:
            Right detections, and boxes (recall) or all detections (precision), of one shape.
        """
        found, trials = np.broadcast_arrays(
            right, boxes if self.kind == "recall" else right + wrong
        )
        return found, trials


_normal_cdf = np.vectorize(NormalDist().cdf, otypes=[np.float64])


def parse_objective(text: str) -> Objective:
    """Read an objective as it is written on the command line.

    Args:
        text: "f1", "f2", "f0.5", "recall>=0.9" or "precision>=0.8"; "recall=0.9" is the same and
            needs no quotes in a shell.

    Returns:
        The objective.

    Raises:
        ValueError: if it is none of these, beta is 0, or the floor is not between 0 and 1.
    """
    written = text.strip().lower()
    if (found := _F.fullmatch(written)) and 0 < float(found[1]) < math.inf:
        return Objective("f", float(found[1]))
    if (found := _FLOOR.fullmatch(written)) and 0 < float(found[2]) < 1:
        return Objective("recall" if found[1] == "recall" else "precision", float(found[2]))
    if written in ("recall", "precision"):
        # In a shell, > without quotes sends the output into a file called "=.9".
        raise ValueError(
            f'objective: "{text}" has no floor. Expected for example "{written}>=0.9", with the '
            f"quotes, or {written}=0.9. Add the floor."
        )
    raise ValueError(
        f'objective: "{text}" cannot be read. Expected one of {_KNOWN}, with a beta above 0 or a '
        "floor between 0 and 1. Choose one."
    )


def shares(right: Counted, wrong: Counted, boxes: Counted) -> tuple[Float64, Float64]:
    """Recall and precision of counts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(boxes > 0, right / boxes, np.nan)
        shown = right + wrong
        return recall, np.where(shown > 0, right / shown, np.nan)
