"""Fixed AP: the detections are cut per class over the whole set, not per image.

With a cap per image over all classes, a detector can raise the AP of rare classes by spending its
places on them, without finding anything better. A cap per class takes that way away, and AP's of
detectors with many and with few detections per image can be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import offsets_of
from detbalance.evaluation.average_precision import mean_precision
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.overlaps import Overlaps

Float64 = npt.NDArray[np.float64]


def fixed_ap(
    matches: Matches, *, per_class: int = 10_000, pairs: Overlaps | None = None
) -> Float64:
    """Average precision with at most so many detections of a class in the whole set.

    Source: Dave et al., Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details,
    2021, arXiv:2102.01066, section 4. Differs: where the results file itself was cut per image,
    which ours cannot know, so is this figure.
    """
    rules = dataclasses.replace(matches.rules, max_detections=None)
    annotations, predictions = matches.annotations, matches.predictions
    every = (
        matches
        if matches.within_cap.all()
        else match(annotations, predictions, rules=rules, pairs=pairs)
    )
    sizes = np.diff(every.offsets)
    place = np.arange(len(every.order)) - np.repeat(every.offsets[:-1], sizes)
    rows = every.order[place < per_class]
    return mean_precision(
        every.is_true_positive[rows],
        every.is_false_positive[rows],
        offsets_of(np.minimum(sizes, per_class)),
        every.num_positive,
    )
