"""Operating points: which score a detection needs to be shown, class by class.

`fit_thresholds` finds thresholds on a calibration file and says what they give on images that they
were not fitted on; `choose_strength` does the same for `rescore`, which rebalances scores by the
class frequencies of training. No torch is needed.
"""

from detbalance.operating.calibration import fit_thresholds
from detbalance.operating.files import load_thresholds, save_thresholds
from detbalance.operating.objectives import Objective, parse_objective
from detbalance.operating.rescoring import adjusted_logits, norcal, rescore
from detbalance.operating.result import ClassThreshold, ThresholdFit
from detbalance.operating.strength import StrengthChoice, choose_strength
from detbalance.operating.thresholds import Thresholds, apply_thresholds

__all__ = [
    "ClassThreshold",
    "Objective",
    "StrengthChoice",
    "ThresholdFit",
    "Thresholds",
    "adjusted_logits",
    "apply_thresholds",
    "choose_strength",
    "fit_thresholds",
    "load_thresholds",
    "norcal",
    "parse_objective",
    "rescore",
    "save_thresholds",
]
