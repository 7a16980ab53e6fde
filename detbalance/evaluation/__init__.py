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
    SliceRow,
    check_comparable,
    load_report,
)
from detbalance.evaluation.rules import Rules
from detbalance.evaluation.settings import Backend, EvaluationSettings
from detbalance.evaluation.slices import image_slices, slice_rows

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
    "SliceRow",
    "build_report",
    "check_comparable",
    "compare",
    "compute_grid",
    "evaluate",
    "image_slices",
    "load_report",
    "match",
    "parse_gate",
    "slice_rows",
    "with_bootstrap",
]
