"""Per-class detection figures: AP, recall and precision, the report, and the comparison of two.

`evaluate` computes, `build_report` sets the figures beside the training counts, `compare` says by
a paired bootstrap which differences are real. No torch is needed.
"""

from detbalance.evaluation.accumulate import Grid, compute_grid
from detbalance.evaluation.build import build_report
from detbalance.evaluation.compare import compare
from detbalance.evaluation.comparison import (
    ClassDifferences,
    Comparison,
    ComparisonSettings,
    Difference,
    GroupDifferences,
)
from detbalance.evaluation.evaluate import Evaluation, evaluate, with_bootstrap
from detbalance.evaluation.gates import Gate, parse_gate
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.report import (
    ClassRow,
    GroupRow,
    Report,
    ReportSettings,
    check_comparable,
    load_report,
)
from detbalance.evaluation.rules import Rules
from detbalance.evaluation.settings import Backend, EvaluationSettings

__all__ = [
    "Backend",
    "ClassDifferences",
    "ClassRow",
    "Comparison",
    "ComparisonSettings",
    "Difference",
    "Evaluation",
    "EvaluationSettings",
    "Gate",
    "Grid",
    "GroupDifferences",
    "GroupRow",
    "Matches",
    "Report",
    "ReportSettings",
    "Rules",
    "build_report",
    "check_comparable",
    "compare",
    "compute_grid",
    "evaluate",
    "load_report",
    "match",
    "parse_gate",
    "with_bootstrap",
]
