"""Detections as arrays, read from and written as COCO results files."""

from detbalance.predictions.arrays import Predictions
from detbalance.predictions.loading import load_predictions
from detbalance.predictions.saving import save_predictions

__all__ = ["Predictions", "load_predictions", "save_predictions"]
