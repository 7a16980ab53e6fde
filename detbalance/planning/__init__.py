"""A plan before training: how imbalanced the data are, what to do about it, what that costs.

Needs NumPy only, trains nothing, opens no image unless `duplicate_findings` is called.
"""

from detbalance.planning.findings import duplicate_findings
from detbalance.planning.make_plan import make_plan
from detbalance.planning.plan import (
    ClassPlan,
    FileSummary,
    Finding,
    Plan,
    Recommendation,
    Setting,
    load_plan,
)

__all__ = [
    "ClassPlan",
    "FileSummary",
    "Finding",
    "Plan",
    "Recommendation",
    "Setting",
    "duplicate_findings",
    "load_plan",
    "make_plan",
]
