"""One HTML file that shows a report: opens from disk, needs no network, can be sent around.

The page brings its own charts (Vega-Lite, as JavaScript inside the file) and its own data; a
content security policy in it forbids every request. Without pictures it stays below 3 MB at 1,203
classes with a baseline.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detbalance.annotations.files import replace_file
from detbalance.evaluation.report import check_comparable
from detbalance.reporting.page_charts import chart_specs
from detbalance.reporting.page_data import page_data
from detbalance.reporting.page_summary import page_summary

if TYPE_CHECKING:
    import jinja2

    from detbalance.comparison import Comparison
    from detbalance.evaluation import Report
    from detbalance.reporting.gallery import Gallery

_TEMPLATES = Path(__file__).with_name("templates")
# What could end a script element, start another or break a line inside of one.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_INSTALL = 'Install it with: pip install "detbalance[page]"'


def write_page(
    report: Report,
    path: str | Path,
    *,
    baseline: Report | None = None,
    comparison: Comparison | None = None,
    gallery: Gallery | None = None,
) -> Path:
    """Write a report as one self-contained HTML file.

    The file appears whole or not at all.

    Args:
        report: what `detbalance.evaluation.build_report` or `load_report` gave.
        path: the file to write.
        baseline: a report of the same annotations; the page then shows both side by side.
        comparison: what `detbalance.comparison.compare` gave for the same two sides: differences
            with intervals, and the verdict.
        gallery: pictures of errors, from `detbalance.reporting.gallery.build_gallery`.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the two reports are not of the same annotations and settings, or the file
            cannot be written.
        ImportError: if jinja2 or vl-convert-python is not installed.
    """
    path = Path(path)
    text = page_text(report, baseline=baseline, comparison=comparison, gallery=gallery)
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
) -> str:
    """Give the HTML that `write_page` writes; see there."""
    if baseline is not None:
        check_comparable({"baseline": baseline, "this run": report})
    environment = _environment()
    data = page_data(report, baseline, comparison)
    return environment.get_template("page.html").render(
        summary=page_summary(report, baseline, comparison),
        gallery=gallery,
        data=_json(data),
        specs=_json(chart_specs(data)),
        vega=_vega(),
        styles=_text("page.css"),
        scripts=[_text(name) for name in ("format.js", "table.js", "charts.js", "page.js")],
    )


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as exc:
        raise ImportError(f"detbalance.reporting.page needs jinja2. {_INSTALL}") from exc
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _vega() -> str:
    """Vega and Vega-Lite as one script; bundling takes over a second."""
    try:
        import vl_convert
    except ImportError as exc:
        raise ImportError(f"detbalance.reporting.page needs vl-convert-python. {_INSTALL}") from exc
    # Without Vega-Embed, whose menus the page does not have: 0.63 instead of 0.90 MB.
    script = vl_convert.javascript_bundle("window.vega = vega; window.vegaLite = vegaLite;")
    return str(script).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that is harmless inside a script element; NaN is an error."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)
