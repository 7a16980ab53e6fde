"""COCO and LVIS annotation files as flat, checked NumPy arrays.

`load_annotations` reads a file in a fraction of the time and memory of a list of dicts, refuses
what would do harm later, and gives `Annotations`: arrays sorted by image that loader workers share.
"""

from detbalance.annotations.arrays import Annotations
from detbalance.annotations.categories import Categories
from detbalance.annotations.faults import AnnotationError, Fault
from detbalance.annotations.loading import load_annotations
from detbalance.annotations.packed import PackedBytes, PackedLabels
from detbalance.annotations.repeats import repeated_boxes

__all__ = [
    "AnnotationError",
    "Annotations",
    "Categories",
    "Fault",
    "PackedBytes",
    "PackedLabels",
    "load_annotations",
    "repeated_boxes",
]
