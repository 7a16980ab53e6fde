"""Files in and out: annotations, detections, counts per class, splits, images.

`load_annotations` reads a COCO or LVIS file into checked arrays sorted by image, which loader
workers share; `load_predictions` reads a COCO results file. Neither needs torch.
"""

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
