"""Per-class detection figures: AP, recall and precision, and the report made of them.

`evaluate` computes, `build_report` sets the figures beside the training counts. No torch is needed.
"""

from detbalance.evaluation.backends import Backend
from detbalance.evaluation.build import build_report
from detbalance.evaluation.grid import Curves, Matches, compute_curves, match_boxes
from detbalance.evaluation.per_class import Evaluation, EvaluationSettings, evaluate
from detbalance.evaluation.report import (
    ClassRow,
    GroupRow,
    Report,
    ReportSettings,
    check_comparable,
    load_report,
)

__all__ = [
    "Backend",
    "ClassRow",
    "Curves",
    "Evaluation",
    "EvaluationSettings",
    "GroupRow",
    "Matches",
    "Report",
    "ReportSettings",
    "build_report",
    "check_comparable",
    "compute_curves",
    "evaluate",
    "load_report",
    "match_boxes",
]
