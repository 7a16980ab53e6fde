"""Which differences between two detectors are real: a paired bootstrap over the same images."""

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
    "GroupDifferences",
]
