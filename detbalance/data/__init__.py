"""Files in and out: annotations, detections, counts per class, splits, images.

`load_annotations` reads a COCO or LVIS file into checked arrays sorted by image, which loader
workers share; `load_predictions` reads a COCO results file. Neither needs torch.
Each is imported when it is first asked for: `detbalance --help` needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detbalance.data.annotations import Annotations, repeated_boxes
    from detbalance.data.arrays import PackedBytes, PackedLabels
    from detbalance.data.categories import Categories
    from detbalance.data.faults import AnnotationError, Fault
    from detbalance.data.grouping import image_groups
    from detbalance.data.loading import load_annotations
    from detbalance.data.predictions import Predictions, save_predictions
    from detbalance.data.results_file import load_predictions
    from detbalance.data.split import ClassShare, Split, split_annotations
    from detbalance.data.split_files import check_paths, write_split
    from detbalance.data.tensor_inputs import from_arrays, from_tensors

__all__ = [
    "AnnotationError",
    "Annotations",
    "Categories",
    "ClassShare",
    "Fault",
    "PackedBytes",
    "PackedLabels",
    "Predictions",
    "Split",
    "check_paths",
    "from_arrays",
    "from_tensors",
    "image_groups",
    "load_annotations",
    "load_predictions",
    "repeated_boxes",
    "save_predictions",
    "split_annotations",
    "write_split",
]

_HOMES = {
    "annotations": ("Annotations", "repeated_boxes"),
    "arrays": ("PackedBytes", "PackedLabels"),
    "categories": ("Categories",),
    "faults": ("AnnotationError", "Fault"),
    "grouping": ("image_groups",),
    "loading": ("load_annotations",),
    "predictions": ("Predictions", "save_predictions"),
    "results_file": ("load_predictions",),
    "split": ("ClassShare", "Split", "split_annotations"),
    "split_files": ("check_paths", "write_split"),
    "tensor_inputs": ("from_arrays", "from_tensors"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
