"""One HTML file that shows a report: opens from disk, needs no network, can be sent around.

The page brings its own charts (Vega-Lite, compressed inside the file: `tools/vega_bundle.py` makes
it) and its own data. A content security policy in it forbids every request, and every script but
its own. Without pictures it stays below 500 KB at ten classes, and below 3 MB at 1,203 with a
baseline.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detbalance.data.files import replace_file
from detbalance.data.messages import needs
from detbalance.evaluation import Comparison, Report
from detbalance.evaluation.report import check_comparable
from detbalance.reporting.gallery import Gallery
from detbalance.reporting.label_issues import LabelIssuesSection
from detbalance.reporting.operating_charts import operating_specs
from detbalance.reporting.page_charts import CHART_STYLE, chart_specs
from detbalance.reporting.page_data import page_data
from detbalance.reporting.page_header import HEADLINES, page_summary
from detbalance.reporting.sentences import figure_title, without_empty_classes

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).with_name("templates")
# What could end a script element, start another or break a line inside of one.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_SCRIPTS = (
    "format.js",
    "table.js",
    "columns.js",
    "charts.js",
    "curves.js",
    "confusion.js",
    "operating.js",
    "page.js",
)


def write_page(
    report: Report,
    path: str | Path,
    *,
    baseline: Report | None = None,
    comparison: Comparison | None = None,
    gallery: Gallery | None = None,
    label_issues: LabelIssuesSection | None = None,
) -> Path:
    """Write a report as one self-contained HTML file.

    The file appears whole or not at all.

    Args:
        report: what `detbalance.evaluation.build_report` or `load_report` gave.
        path: the file to write.
        baseline: a report of the same annotations; the page then shows both side by side.
        comparison: what `detbalance.evaluation.compare` gave for the same two sides: differences
            with intervals, and the verdict.
        gallery: pictures of errors, from `detbalance.reporting.gallery.build_gallery`.
        label_issues: labels that look wrong, from
            `detbalance.reporting.label_issues.label_issues_section`.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the two reports are not of the same annotations and settings, or the file
            cannot be written.
        ImportError: if jinja2 is not installed.
    """
    path = Path(path)
    text = page_text(
        report, baseline=baseline, comparison=comparison, gallery=gallery, label_issues=label_issues
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(text.encode("utf-8", "replace"))
    except OSError as exc:
        raise ValueError(
            f"{path}: the page cannot be written ({exc.strerror}). "
            "Expected a file in a folder to write into. Choose another."
        ) from exc
    return path


def page_text(
    report: Report,
    *,
    baseline: Report | None = None,
    comparison: Comparison | None = None,
    gallery: Gallery | None = None,
    label_issues: LabelIssuesSection | None = None,
) -> str:
    """Give the HTML that `write_page` writes; see there."""
    if baseline is not None:
        check_comparable({"baseline": baseline, "this run": report})
    if comparison is not None:
        _check_comparison(report, comparison)
    report = without_empty_classes(report, baseline)
    environment = _environment()
    data = page_data(report, baseline, comparison)
    specs = chart_specs(data) | operating_specs(data)
    vega = (_TEMPLATES / "vega.js.gz").read_bytes()
    # The licence asks for its text wherever the program goes.
    scripts = [_text("vega-licence.txt"), *map(_squeezed, _SCRIPTS)]
    number = len(data["heatmap"])
    return environment.get_template("page.html").render(
        summary=page_summary(report, baseline, comparison),
        gallery=gallery,
        label_issues=label_issues,
        titles={name: figure_title(name, report.settings) for name in HEADLINES},
        groups={row.name: row.group for row in report.classes},
        data=_json(data),
        specs=_json({"style": CHART_STYLE, "charts": specs}),
        charts=specs,
        some_confused=number if number < len(report.classes) else 0,
        styles=_squeezed("page.css") + (_squeezed("label_issues.css") if label_issues else ""),
        max_cells=data["settings"]["max_cells"],
        scripts=scripts,
        vega=base64.b64encode(vega).decode(),
        policy=_policy([gzip.decompress(vega).decode(), *scripts]),
    )


def _check_comparison(report: Report, comparison: Comparison) -> None:
    """Refuse a comparison of other boxes than the report's."""
    known = {row.name: row.val_boxes for row in report.classes}
    other = {row.name: row.val_boxes for row in comparison.classes}
    for name in {**known, **other}:
        if known.get(name) != other.get(name):
            raise ValueError(
                f'comparison: class "{name}" has {other.get(name, "no")} boxes to find, in the '
                f"report {known.get(name, 'none')}. Expected a comparison of the same annotations. "
                "Compare and report the same files."
            )


def _policy(scripts: list[str]) -> str:
    """Allow the page's own scripts (by digest), styles and embedded pictures; nothing else."""
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as exc:
        raise needs("detbalance.reporting.page", "jinja2", "page") from exc
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _squeezed(name: str) -> str:
    """A script or style of the page without its lines of comments and its indentation."""
    return re.sub(r"^ *//.*\n|^ */\*.*\*/\n|^ +(?=\S)", "", _text(name), flags=re.MULTILINE)


def _json(value: Any) -> str:
    """JSON that is harmless inside a script element; NaN is an error."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)
