"""Torchvision detectors with exchangeable classification losses, their data sets, and prediction.

- `build_detector`: RetinaNet, FCOS, Faster R-CNN from plain arguments
- `set_classification_loss`: another loss in any such model
- `DetectionDataset`: images and boxes as torchvision's detectors take them
- `predict`: detections of a whole data set
"""

from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.heads import set_classification_loss
from detbalance.detection.models import build_detector
from detbalance.detection.predict import predict

__all__ = ["DetectionDataset", "build_detector", "predict", "set_classification_loss"]
