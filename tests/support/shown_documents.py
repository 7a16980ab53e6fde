"""Documents of results, printed and as Markdown."""

from __future__ import annotations

from typing import Any

from detbalance.reporting.comparison_document import comparison_document
from detbalance.reporting.markdown import markdown
from detbalance.reporting.report_document import report_document
from detbalance.reporting.sentences import without_empty_classes


def markdown_report(report: Any, label_issues: Any = None) -> str:
    """What report.md holds."""
    return markdown(report_document(without_empty_classes(report), label_issues))


def comparison_markdown(comparison: Any) -> str:
    """What comparison.md holds."""
    return markdown(comparison_document(comparison))


def print_report(report: Any, *, console: Any = None) -> None:
    """Print a report."""
    from detbalance.reporting.console import print_document

    print_document(report_document(report), console)


def print_comparison(comparison: Any, *, console: Any = None) -> None:
    """Print a comparison."""
    from detbalance.reporting.console import print_document

    print_document(comparison_document(comparison), console)
