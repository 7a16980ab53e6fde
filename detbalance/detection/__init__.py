"""Torchvision detectors with exchangeable classification losses, their data sets, and prediction.

- `detbalance.detection.models.build_detector`: RetinaNet, FCOS, Faster R-CNN from plain arguments
- `detbalance.detection.heads.set_classification_loss`: another loss in any such model
- `detbalance.detection.dataset.DetectionDataset`: images and boxes as torchvision extra_inputs them
- `detbalance.detection.predict.predict`: detections of a whole data set
"""
