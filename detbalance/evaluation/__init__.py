"""Per-class detection figures: AP, recall and precision, and the report made of them.

`evaluate` computes, `build_report` sets the figures beside the training counts. No torch is needed.
"""

from detbalance.evaluation.backends import Backend
from detbalance.evaluation.build import build_report
from detbalance.evaluation.grid import Grid, compute_grid
from detbalance.evaluation.inputs import from_arrays, from_tensors
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.per_class import Evaluation, evaluate, with_replicates
from detbalance.evaluation.report import (
    Report,
    ReportSettings,
    check_comparable,
    load_report,
)
from detbalance.evaluation.rows import ClassRow, GroupRow
from detbalance.evaluation.rules import Rules
from detbalance.evaluation.settings import EvaluationSettings

__all__ = [
    "Backend",
    "ClassRow",
    "Evaluation",
    "EvaluationSettings",
    "Grid",
    "GroupRow",
    "Matches",
    "Report",
    "ReportSettings",
    "Rules",
    "build_report",
    "check_comparable",
    "compute_grid",
    "evaluate",
    "from_arrays",
    "from_tensors",
    "load_report",
    "match",
    "with_replicates",
]
