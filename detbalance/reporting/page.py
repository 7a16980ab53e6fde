"""One HTML file that shows a report: opens from disk, needs no network, can be sent around.

The page brings its own charts (Vega-Lite, as JavaScript inside the file) and its own data. A
content security policy in it forbids every request, and every script but its own. Without pictures
it stays below 3 MB at 1,203 classes with a baseline.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detbalance.data.files import replace_file
from detbalance.data.messages import needs
from detbalance.evaluation.comparison import digits_for
from detbalance.evaluation.report import GROUP_NAMES, check_comparable
from detbalance.reporting.page_charts import chart_specs
from detbalance.reporting.page_data import page_data
from detbalance.reporting.page_facts import page_facts, page_notes, page_title
from detbalance.reporting.sentences import without_empty_classes

if TYPE_CHECKING:
    import jinja2

    from detbalance.evaluation import Comparison, Difference, GroupRow, Report
    from detbalance.reporting.gallery import Gallery
    from detbalance.reporting.label_issues import LabelIssuesSection

HEADLINES = ("AP", "AP50", "AR", "recall", "precision")


@dataclass(frozen=True)
class Span:
    """A number with its interval, as text and as places on a line from 0 to 1."""

    text: str
    interval: str = ""
    point: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class GroupLine:
    """One group in the summary table."""

    name: str
    classes: str
    train_boxes: str
    val_boxes: str
    figures: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class Summary:
    """What the template shows above the charts."""

    title: str
    baseline: str
    facts: tuple[tuple[str, str], ...]
    verdict: str
    headlines: tuple[str, ...]
    lines: tuple[GroupLine, ...]
    compared: bool
    confidence: str
    group_legend: str
    class_legend: str
    notes: tuple[str, ...]


def page_summary(
    report: Report, baseline: Report | None = None, comparison: Comparison | None = None
) -> Summary:
    """Put the summary together."""
    compared = baseline is not None or comparison is not None
    names = [name for name in GROUP_NAMES if report.groups[name].num_categories]
    headlines = _headlines(report, baseline, comparison)
    lines = tuple(
        GroupLine(
            name,
            _of(row.num_evaluated, row.num_categories),
            "-" if row.train_boxes is None else f"{row.train_boxes:,}",
            f"{row.val_boxes:,}",
            tuple(_spans(figure, name, report, baseline, comparison) for figure in headlines),
        )
        for name, row in ((name, report.groups[name]) for name in (*names, "all"))
    )
    return Summary(
        title=page_title(report, comparison, "ours"),
        baseline=page_title(baseline, comparison, "baseline") if compared else "",
        facts=page_facts(report, baseline, comparison),
        verdict="" if comparison is None else comparison.verdict,
        headlines=headlines,
        lines=lines,
        compared=compared,
        confidence=f"{report.settings.confidence:.0%}" if _has_intervals(report) else "",
        group_legend=_group_legend(compared, comparison),
        class_legend=_class_legend(report, compared, comparison),
        notes=page_notes(report, baseline, comparison),
    )


def _group_legend(compared: bool, comparison: Comparison | None) -> str:
    text = (
        "Means over the classes of the group where the figure is defined; every class counts the "
        "same, however many boxes it has."
    )
    if comparison is not None:
        return (
            f"{text} Below them this run less the baseline, with its "
            f"{comparison.settings.confidence:.0%} interval; bold if it is real after allowing for "
            "the number of groups."
        )
    if compared:
        return (
            f"{text} Below them this run less the baseline, which may be chance: not tested here."
        )
    return text


def _has_intervals(report: Report) -> bool:
    return any(row.intervals for row in report.classes)


def _class_legend(report: Report, compared: bool, comparison: Comparison | None) -> str:
    if comparison is not None:
        return (
            "Difference: this run less the baseline, as a dot on a line with 0 in its middle; the "
            f"thick part is the {comparison.settings.confidence:.0%} interval. Bold: real after "
            "allowing for the number of classes. Others may be chance, even if their interval "
            "leaves out 0."
        )
    if compared:
        return (
            "Difference: this run less the baseline, as a dot on a line with 0 in its middle. It "
            "may be chance: not tested here."
        )
    spread = ""
    if _has_intervals(report):
        spread = f"; the thick part is the {report.settings.confidence:.0%} interval"
    return f"Lines run from 0 to 1{spread}. A dash: undefined, and counted in no mean."


def _headlines(
    report: Report, baseline: Report | None, comparison: Comparison | None
) -> tuple[str, ...]:
    """All headline figures of one run; of two sides those that both know."""
    if comparison is None or baseline is not None:
        return HEADLINES
    known = comparison.groups["all"].figures
    return tuple(figure for figure in HEADLINES if figure in known)


def _spans(
    figure: str,
    name: str,
    report: Report,
    baseline: Report | None,
    comparison: Comparison | None,
) -> tuple[Span, ...]:
    """This run's figure of a group; with another side: baseline, this run, difference."""
    ours = _span(report.groups[name], figure)
    known = None if comparison is None else comparison.groups[name].figures.get(figure)
    if comparison is not None and known is not None:
        return (
            Span(decimals(known.baseline)),
            Span(decimals(known.ours)),
            _tested(known, comparison.settings.confidence),
        )
    if baseline is not None:
        theirs = _span(baseline.groups[name], figure)
        change = getattr(report.groups[name], figure) - getattr(baseline.groups[name], figure)
        return (theirs, ours, Span(signed(change)))
    return (ours,)


def _span(row: GroupRow, figure: str) -> Span:
    value = getattr(row, figure)
    low, high = row.intervals.get(figure, (math.nan, math.nan))
    interval = "" if math.isnan(low) else f"[{decimals(low)}, {decimals(high)}]"
    return Span(decimals(value), interval, _percent(value), _percent(low), _percent(high))


def _tested(known: Difference, confidence: float) -> Span:
    """A difference with its interval, and whether it is real after allowing for all others."""
    interval = ""
    if math.isfinite(known.low):
        digits = digits_for(known.low, known.high, least=3)
        interval = f"[{signed(known.low, digits)}, {signed(known.high, digits)}]"
    real = known.p_adjusted < 1 - confidence
    verdict = ("up" if known.difference > 0 else "down") if real else ""
    return Span(signed(known.difference), interval, verdict=verdict)


def decimals(value: float, digits: int = 3) -> str:
    """Three decimals, or so many, without the leading zero, "-" for undefined."""
    if not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float, digits: int = 3) -> str:
    """Give a difference with its sign, "-" for undefined."""
    if not math.isfinite(value):
        return "-"
    shown = round(value, digits)
    sign = "\N{MINUS SIGN}" if shown < 0 else "+" if shown > 0 else ""
    return sign + decimals(abs(value), digits)


def _percent(value: float) -> float | None:
    return round(100 * value, 1) if math.isfinite(value) else None


def _of(part: int, whole: int) -> str:
    return f"{whole:,}" if part == whole else f"{part:,} of {whole:,}"


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
        ImportError: if jinja2 or vl-convert-python is not installed.
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
    # The licence asks for its text wherever the program goes.
    scripts = [f"{_text('vega-licence.txt')}\n{_vega()}", *map(_text, _SCRIPTS)]
    number = len(data["heatmap"])
    return environment.get_template("page.html").render(
        summary=page_summary(report, baseline, comparison),
        gallery=gallery,
        label_issues=label_issues,
        groups={row.name: row.group for row in report.classes},
        data=_json(data),
        specs=_json(chart_specs(data)),
        some_confused=number if number < len(report.classes) else 0,
        styles=_text("page.css") + ("" if label_issues is None else _text("label_issues.css")),
        scripts=scripts,
        policy=_policy(scripts),
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


@functools.cache
def _vega() -> str:
    """Vega-Embed, with Vega and Vega-Lite in it, as one script; bundling takes over a second."""
    try:
        import vl_convert
    except ImportError as exc:
        raise needs("detbalance.reporting.page", "vl-convert-python", "page") from exc
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return str(script).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that is harmless inside a script element; NaN is an error."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)
