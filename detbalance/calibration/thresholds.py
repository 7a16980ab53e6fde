"""A score threshold for each class: applied to detections, looked up by label.

Letters: K categories, D detections.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detbalance.data import Categories, Predictions
from detbalance.data.arrays import Float64
from detbalance.data.categories import shorten


@dataclass(frozen=True)
class Thresholds:
    """The smallest score of each class that is shown.

    Attributes:
        values: threshold by class name, finite.
        source: where they came from, for errors.

    Example:
        >>> categories = Categories(ids=(1, 7), names=("cat", "owl"))
        >>> Thresholds({"owl": 0.2, "cat": 0.6}).by_label(categories)
        array([nan, 0.6, 0.2])
    """

    values: Mapping[str, float]
    source: str = "thresholds"

    def by_label(self, categories: Categories) -> Float64:
        """Return the thresholds in the order of labels.

        Args:
            categories: the classes of the detections; the same names are expected.

        Returns:
            float64 [K + 1], NaN for background.

        Raises:
            ValueError: if a class has no threshold, or there is one of an unknown class; with the
                nearest name of the other side.
        """
        faults = []
        for names, others, what in (
            (categories.names, self.values, "no threshold for {} of the classes"),
            (self.values, categories.names, "unknown classes with a threshold: {}"),
        ):
            missing = [name for name in names if name not in others]
            if missing:
                near = difflib.get_close_matches(missing[0], list(others), n=1)
                hint = f', nearest: "{near[0]}"' if near else ""
                faults.append(f'{what.format(len(missing))} (first: "{missing[0]}"{hint})')
        if faults:
            raise ValueError(
                f"{self.source}: {'; '.join(faults)}. Expected one for each of "
                f"{shorten(categories.names)}. Use the thresholds that were fitted for these "
                "classes."
            )
        return np.array([np.nan, *(self.values[name] for name in categories.names)])


def apply_thresholds(
    predictions: Predictions, thresholds: Thresholds, categories: Categories
) -> Predictions:
    """Keep the detections that reach the threshold of their class.

    AP and AR of what is left are lower than of all detections: they are about every score.

    Args:
        predictions: the detections.
        thresholds: by class name.
        categories: classes of the labels.

    Returns:
        The detections with score >= threshold, in the order that they were in.

    Raises:
        ValueError: if the classes are not those of the thresholds.
    """
    kept = predictions.scores >= thresholds.by_label(categories)[predictions.labels]
    return Predictions(
        predictions.image_index[kept],
        predictions.labels[kept],
        predictions.bbox[kept],
        predictions.scores[kept],
    )
