"""Per-class detection figures: AP, recall and precision, and the report made of them.

`evaluate` computes, `build_report` sets the figures beside the training counts. No torch is needed.
"""

from detbalance.evaluation.backends import Backend
from detbalance.evaluation.build import build_report
from detbalance.evaluation.grid import (
    Curves,
    Grid,
    Matches,
    compute_curves,
    compute_grid,
    match_boxes,
)
from detbalance.evaluation.inputs import from_arrays, from_tensors
from detbalance.evaluation.per_class import Evaluation, EvaluationSettings, evaluate
from detbalance.evaluation.report import (
    Report,
    ReportSettings,
    check_comparable,
    load_report,
)
from detbalance.evaluation.rows import ClassRow, GroupRow

__all__ = [
    "Backend",
    "ClassRow",
    "Curves",
    "Evaluation",
    "EvaluationSettings",
    "Grid",
    "GroupRow",
    "Matches",
    "Report",
    "ReportSettings",
    "build_report",
    "check_comparable",
    "compute_curves",
    "compute_grid",
    "evaluate",
    "from_arrays",
    "from_tensors",
    "load_report",
    "match_boxes",
]
