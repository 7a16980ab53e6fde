"""What training really sees by some factors: every box of a drawn image, not only the rare one.

Letters: M images, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.sampling.labels import Float64, ImageLabels, LabelsLike


def class_exposure(
    data: LabelsLike = None, factors: npt.ArrayLike | None = None, **arrays: npt.ArrayLike
) -> Float64:
    """Count the boxes of each class that an epoch shows, in expectation.

    Drawing an image for the sake of its rare box shows its frequent boxes once more too; this
    count has them all.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        factors: [M], expected draws of each image; None for one draw of each.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [K + 1], expected boxes per epoch, NaN for classes without a box in the data;
        index 0 holds the draws of images without boxes.

    Raises:
        ValueError: if there is not one factor per image, or the labels are not as described.
        TypeError: if labels are not integers.

    Example:
        >>> class_exposure([[1, 1, 2], [1], []], [3.0, 1.0, 0.5])
        array([0.5, 7. , 3. ])
    """
    held = ImageLabels.of("class_exposure", data, arrays)
    drawn = np.ones(len(held)) if factors is None else np.asarray(factors, dtype=np.float64)
    if drawn.shape != (len(held),):
        raise ValueError(
            f"class_exposure(): factors have the shape {drawn.shape} for {len(held)} images. "
            "Expected one factor per image. Build them from the same data."
        )
    shown = np.bincount(
        held.labels, weights=drawn[held.image_index], minlength=held.num_classes
    ).astype(np.float64)
    shown[held.instance_counts == 0] = np.nan
    shown[0] = drawn[~held.shows_boxes].sum()
    return shown


def exposure_ratio(exposure: npt.ArrayLike) -> float:
    """Divide the boxes of the most shown class by those of the least shown one.

    Args:
        exposure: [K + 1] from `class_exposure`; index 0 and classes that are not in the data (NaN)
            are left out. A class that is in the data but never drawn makes the ratio infinite.

    Returns:
        1 or more; NaN without classes.

    Example:
        >>> exposure_ratio([7.0, 10.0, 2.5])
        4.0
    """
    classes = np.asarray(exposure, dtype=np.float64)[1:]
    classes = classes[~np.isnan(classes)]
    if not len(classes):
        return float("nan")
    if not classes.min() > 0:
        return float("inf")
    return float(classes.max() / classes.min())
