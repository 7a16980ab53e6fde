"""Several detectors' detections made one set, from their results files; no torch is needed.

`fuse` does it by a method of `FUSIONS`; `choose_fusion` makes scores comparable and finds weights
on a calibration file, and says what it is worth on images that had no part in it.
"""

from detbalance.ensembling.choosing import choose_fusion
from detbalance.ensembling.fusion import FUSIONS, Options, fuse
from detbalance.ensembling.result import FusionChoice
from detbalance.ensembling.score_calibration import Calibrator, ScoreCalibration

__all__ = [
    "FUSIONS",
    "Calibrator",
    "FusionChoice",
    "Options",
    "ScoreCalibration",
    "choose_fusion",
    "fuse",
]
