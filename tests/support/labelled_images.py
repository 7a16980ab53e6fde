"""Random data sets as lists of labels per image, and their definitions by plain loops."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from detbalance.sampling import ImageLabels

# Classes 4 and 6..899 have no image.
CLASSES = (1, 2, 3, 5, 900)
# What the methods need that have no default.
METHOD_OPTIONS = {
    "repeat_factor": {"threshold": 0.5},
    "instance_aware": {"threshold": 0.5},
    "exponential": {"threshold": 0.01},
    "undersampling": {"threshold": 0.3},
    "background": {"share": 0.0},
}


def label_lists(classes=CLASSES):
    """The labels of the boxes of each image; any of them may be empty, or all."""
    return st.lists(st.lists(st.sampled_from(classes), max_size=6), min_size=1, max_size=12)


def as_arrays(images):
    """The plain arrays of lists of labels."""
    return {
        "image_index": np.repeat(np.arange(len(images)), [len(held) for held in images]),
        "labels": np.array([c for held in images for c in held], dtype=np.int64),
        "num_images": len(images),
    }


def in_all_forms(images, random):
    """The same data: lists, a tuple, `ImageLabels`, arrays, shuffled boxes, with crowd boxes."""
    arrays = as_arrays(images)
    order = list(range(len(arrays["labels"])))
    random.shuffle(order)
    yield {"data": images}
    yield {"data": tuple(np.array(held, dtype=np.int32) for held in images)}
    yield {"data": ImageLabels(images)}
    yield arrays
    yield {
        "image_index": arrays["image_index"][order],
        "labels": arrays["labels"][order],
        "num_images": len(images),
    }
    yield {
        # One crowd box of a rare class in every image.
        "image_index": np.concatenate([np.arange(len(images)), arrays["image_index"]]),
        "labels": np.concatenate([np.full(len(images), 4), arrays["labels"]]),
        "num_images": len(images),
        "is_crowd": np.arange(len(images) + len(order)) < len(images),
    }


def counts(images):
    """Images and boxes of each class that has any."""
    shown = [c for held in images for c in set(held)]
    boxes = [c for held in images for c in held]
    return ({c: shown.count(c) for c in set(shown)}, {c: boxes.count(c) for c in set(boxes)})


def largest_of_classes(images, by_class):
    """For each image the largest value of its classes; 1 without boxes."""
    return [max((by_class[c] for c in held), default=1.0) for held in images]
