"""What is chosen on held-out images after training: score thresholds, rescoring, fusion.

Each is fitted on a calibration file and judged on images that it was not fitted to, so that what
does not help is said not to help. No torch is needed.
"""

from detbalance.calibration.fusion import FUSIONS, Options, fuse
from detbalance.calibration.fusion_choice import FusionChoice, choose_fusion
from detbalance.calibration.fusion_members import Calibrator, ScoreCalibration
from detbalance.calibration.rescoring import StrengthChoice, choose_strength, norcal, rescore
from detbalance.calibration.threshold_curves import Objective, parse_objective
from detbalance.calibration.threshold_fit import fit_thresholds
from detbalance.calibration.thresholds import (
    ClassThreshold,
    ThresholdFit,
    Thresholds,
    apply_thresholds,
    load_thresholds,
    save_thresholds,
)

__all__ = [
    "FUSIONS",
    "Calibrator",
    "ClassThreshold",
    "FusionChoice",
    "Objective",
    "Options",
    "ScoreCalibration",
    "StrengthChoice",
    "ThresholdFit",
    "Thresholds",
    "apply_thresholds",
    "choose_fusion",
    "choose_strength",
    "fit_thresholds",
    "fuse",
    "load_thresholds",
    "norcal",
    "parse_objective",
    "rescore",
    "save_thresholds",
]
