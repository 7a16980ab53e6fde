"""Turn a result into something to look at: on the console, in files, as one HTML page.

- `print_document`: the document of a result (`report_document.py`, ...) on the console; needs rich
- `write_report`, `write_comparison`, `write_plan`: JSON, CSV and Markdown
- `write_page`: a report as one HTML file; needs jinja2
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detbalance.reporting.console import print_document
    from detbalance.reporting.files import write_comparison, write_plan, write_report
    from detbalance.reporting.page import write_page

__all__ = [
    "print_document",
    "write_comparison",
    "write_page",
    "write_plan",
    "write_report",
]

_HOME_OF = {
    "print_document": "console",
    "write_comparison": "files",
    "write_page": "page",
    "write_plan": "files",
    "write_report": "files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
