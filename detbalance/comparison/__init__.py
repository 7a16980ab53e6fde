"""Which differences between two detectors are real: a paired bootstrap over the same images.

`compare` takes evaluations of one or more runs a side; `parse_gate` reads conditions for builds. No
torch is needed.
"""

from detbalance.comparison.compare import compare
from detbalance.comparison.gates import Gate, parse_gate
from detbalance.comparison.result import (
    ClassDifferences,
    Comparison,
    ComparisonSettings,
    Difference,
    GroupDifferences,
)

__all__ = [
    "ClassDifferences",
    "Comparison",
    "ComparisonSettings",
    "Difference",
    "Gate",
    "GroupDifferences",
    "compare",
    "parse_gate",
]
