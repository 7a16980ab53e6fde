"""Balanced bags: all images of the rare classes, and as many of the others as they call for."""

from __future__ import annotations

import numpy as np

from detbalance.data import Annotations
from detbalance.data.arrays import Float64, Int64
from detbalance.data.checks import check_number


def bag_shares(annotations: Annotations, target: int | None = None) -> Float64:
    """How likely each image is to be in a bag, float64 [M]."""
    counted = ~annotations.is_crowd & (annotations.labels > 0)
    labels, images = annotations.labels[counted], annotations.image_index[counted]
    if not len(labels):
        raise ValueError(
            f"{annotations.source}: has no boxes to balance. Annotations of objects are expected."
            " Use another file, or members that differ by their seeds."
        )
    counts = np.bincount(labels, minlength=annotations.categories.num_classes)
    present = counts[counts > 0]
    goal = round(float(np.sqrt(present.min() * present.max()))) if target is None else target
    advice = "It is the boxes of a class in a bag. Raise it."
    check_number("bag_shares()", "target", goal, least=1, advice=advice)
    needs = np.minimum(1.0, goal / np.maximum(counts, 1))
    shares = np.zeros(annotations.num_images)
    np.maximum.at(shares, images, needs[labels])
    without = shares == 0
    shares[without] = shares[~without].mean()
    return shares


def balanced_bags(
    annotations: Annotations, members: int, *, target: int | None = None, seed: int = 0
) -> list[Int64]:
    """Draw a bag of images for each member of an ensemble.

    Args:
        annotations: of the training images.
        members: how many bags, >= 1.
        target: see `bag_shares`.
        seed: of the draws.

    Returns:
        For each member int64 [m], rows of images, ascending. All bags have about the same size, and
        every image of a class with at most `target` boxes is in all of them.

    Raises:
        ValueError: as `bag_shares`.

    Source: balanced bagging, Chen, Liaw and Breiman, Using random forest to learn imbalanced data,
    2004, sec. 2.1, on images. Differs: without replacement, as an image twice is what samplers are
    for; images are drawn, not boxes, so frequent classes come along with rare ones.

    Example:
        >>> import json, tempfile
        >>> from detbalance.data import load_annotations
        >>> file = tempfile.NamedTemporaryFile("w", suffix=".json")
        >>> images = [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9}
        ...           for i in range(101)]
        >>> boxes = [{"id": i, "image_id": i, "category_id": 1 + (i == 100),
        ...           "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0} for i in range(101)]
        >>> categories = [{"id": 1, "name": "many"}, {"id": 2, "name": "one"}]
        >>> _ = file.write(json.dumps(
        ...     {"images": images, "annotations": boxes, "categories": categories}))
        >>> file.flush()
        >>> [bag.tolist()[-1] for bag in balanced_bags(load_annotations(file.name), 2)]
        [100, 100]
        >>> [len(bag) for bag in balanced_bags(load_annotations(file.name), 2)]
        [11, 11]
    """
    shares = bag_shares(annotations, target)
    return [_drawn(shares, np.random.default_rng([seed, member])) for member in range(members)]


def _drawn(shares: Float64, generator: np.random.Generator) -> Int64:
    """Rows drawn with their shares as probabilities; the number of rows hardly varies."""
    order = generator.permutation(len(shares))
    # Systematic: equal steps through the shares in random order, from a random start.
    ends = np.floor(shares[order].cumsum() + generator.random())
    taken = np.diff(ends, prepend=0.0) > 0
    # A share of 1 is a whole step, which rounding must not miss.
    return np.sort(order[taken | (shares[order] == 1.0)])
