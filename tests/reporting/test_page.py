"""The HTML page, as text: what it holds, what it escapes, what it refuses."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pages import HOSTILE, made_comparison, made_report, with_names
from scenes import make_report

from detbalance.evaluation import Report
from detbalance.evaluation.report import ERROR_KINDS, Cell
from detbalance.reporting.page_data import ALPHABET, number, pack, page_data
from detbalance.reporting.page_header import decimals, page_summary, signed

pytest.importorskip("jinja2")
from detbalance.reporting import page as page_module
from detbalance.reporting.page import page_text, write_page
from detbalance.reporting.page_charts import chart_specs

NAMES = tuple(f"class {i}" for i in range(9))
MINUS = "\N{MINUS SIGN}"


class Elements(HTMLParser):
    """Tags with their attributes, the text outside of scripts and styles, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append((self.tags[-1][1], ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.cdata_elem == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        elif self.cdata_elem != "style":
            self.text += data

    def tag(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def json(self, name: str) -> dict:
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("id") == name)

    def programs(self) -> list[str]:
        return [text for attrs, text in self.scripts if "type" not in attrs]


def elements(report: Report, **others: object) -> Elements:
    return Elements(page_text(report, **others))


# The file


def test_page_asks_for_nothing_outside_of_itself() -> None:
    found = elements(made_report(NAMES))
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert "src" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"@import|url\(", page_module._text("page.css"))


def test_policy_allows_the_scripts_of_the_page_by_digest_and_nothing_else() -> None:
    found = elements(made_report(NAMES))
    policies = [a for a in found.tag("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0]["content"].split(";"))
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in [vega(found), *found.programs()]
    ]
    assert rules.pop("script-src").split() == [f"'sha256-{digest}'" for digest in digests]
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert len(digests) == 10


def vega(found: Elements) -> str:
    """The chart library that the page carries, unpacked."""
    packed = next(text for attrs, text in found.scripts if attrs.get("id") == "vega")
    return gzip.decompress(base64.b64decode(packed)).decode()


def test_page_of_ten_classes_is_small(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(10)]
    report, before = made_report(names), made_report(names, seed=1)
    comparison = made_comparison(report, before)
    path = write_page(report, tmp_path / "report.html", baseline=before, comparison=comparison)
    assert path.stat().st_size < 500_000


def test_page_carries_the_licence_of_what_it_brings() -> None:
    program = elements(made_report(NAMES)).programs()[0]
    assert program.lstrip().startswith("/*! Vega")
    assert "Redistributions of source code must retain" in program[:2000]


def test_names_are_text_wherever_they_stand() -> None:
    report = with_names(made_report(NAMES), HOSTILE)
    before = made_report(NAMES)
    report = dataclasses.replace(
        report,
        notes=HOSTILE,
        settings=dataclasses.replace(
            report.settings,
            predictions="/".join(["runs", HOSTILE[2], HOSTILE[0].replace("/", "")]),
            annotations=HOSTILE[1],
            group_rule=HOSTILE[3],
        ),
    )
    found = elements(report, comparison=made_comparison(report, report))
    plain = elements(before, comparison=made_comparison(before, before))
    count = len(HOSTILE) - len(before.notes)
    assert len(found.tag("li")) == len(plain.tag("li")) + count
    names = [tag for tag, _ in found.tags if tag not in ("li", "wbr")]
    assert names == [tag for tag, _ in plain.tags if tag not in ("li", "wbr")]
    for name in (*HOSTILE, HOSTILE[1]):
        assert name in found.text
    assert found.json("data")["classes"]["name"][: len(HOSTILE)] == list(HOSTILE)
    data = next(text for attrs, text in found.scripts if attrs.get("id") == "data")
    assert not set("<>&\u2028\u2029") & set(data)


def test_json_in_the_page_survives_every_character() -> None:
    value = {"names": [*HOSTILE, "\u2028\u2029]]>", "\\u003c", '"'], "numbers": [1, 0.5, None]}
    text = page_module._json(value)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        page_module._json([math.nan])


def test_half_of_a_character_does_not_break_the_file(tmp_path: Path) -> None:
    report = dataclasses.replace(made_report(NAMES), notes=("half \ud83d",))
    path = write_page(report, tmp_path / "page.html")
    assert "half" in path.read_text(encoding="utf-8")


def test_1203_classes_with_a_baseline_and_a_comparison_are_below_3_mb(tmp_path: Path) -> None:
    names = [f"a class with a long name ({i})" for i in range(1203)]
    report, before = made_report(names), made_report(names, seed=1)
    comparison = made_comparison(report, before, runs=3)
    path = write_page(report, tmp_path / "page.html", baseline=before, comparison=comparison)
    assert path.stat().st_size < 3_000_000


def test_an_interrupted_write_keeps_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_page(made_report(NAMES), tmp_path / "new" / "page.html")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match=r"page\.html: the page cannot be written \(No space"):
        write_page(made_report(NAMES, seed=1), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_a_page_where_no_file_can_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/page\.html: the page cannot be written \(") as info:
        write_page(made_report(NAMES), tmp_path / "file" / "page.html")
    assert "\n" not in str(info.value)


def test_sides_of_other_data_are_refused() -> None:
    report = made_report(NAMES)
    fewer = made_report(NAMES[:5])
    with pytest.raises(ValueError, match=r'"baseline" and "this run" differ in classes'):
        page_text(report, baseline=fewer)
    with pytest.raises(ValueError, match=r'class "class \d" has .* boxes to find, in the report'):
        page_text(report, comparison=made_comparison(fewer, fewer))
    with pytest.raises(ValueError, match=r'class "class 5" has \d+ boxes to find, .* none\.'):
        page_text(
            dataclasses.replace(report, classes=report.classes[:5]),
            comparison=made_comparison(report, report),
        )


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"needs jinja2.*pip install .*\[page\]"):
        page_text(made_report(NAMES))


# Its data


def test_data_have_a_column_for_everything_in_the_order_of_the_report(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    data = page_data(report)
    rows = report.classes
    classes, run = data["classes"], data["runs"][0]
    for key in ("name", "group", "train_boxes", "val_boxes"):
        assert classes[key] == [getattr(row, key) for row in rows]
    assert classes["score_threshold"] == [0.3] * len(rows)
    for figure, column in run["figures"].items():
        assert column == [number(getattr(row, figure)) for row in rows]
    for figure, ends in run["intervals"].items():
        for end, column in enumerate(ends):
            assert column == [
                number(row.intervals[figure][end]) if figure in row.intervals else None
                for row in rows
            ]
    assert run["detections"] == [row.true_positives + row.false_positives for row in rows]
    assert run["right"] == [row.true_positives for row in rows]
    for kind in ERROR_KINDS:
        assert run["errors"][kind]["count"] == [row.errors[kind].count for row in rows]
        assert run["errors"][kind]["cost"] == [number(row.errors[kind].cost) for row in rows]
    assert len(data["runs"]) == 1
    assert data["differences"] == {}
    assert report.details is not None
    cells = [[rows[i].name if i >= 0 else None for i in cell[:2]] for cell in run["confusion"]]
    assert cells == [[cell.true, cell.found] for cell in report.details.confusion]
    for row, curve, bins in zip(rows, run["curves"], run["histograms"], strict=True):
        known = report.details.curves.get(row.name)
        assert (known is None) == (curve is None)
        if known is not None:
            assert unpack(curve) == pytest.approx(known.precision, abs=1 / 4000)
            assert bins == [
                report.details.histograms[row.name].right,
                report.details.histograms[row.name].wrong,
            ]


def test_undefined_numbers_are_null_and_never_in_a_column_of_their_own(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    data = page_data(report)
    absent = [i for i, row in enumerate(report.classes) if row.val_boxes == 0]
    assert absent
    assert {data["runs"][0]["figures"]["AP"][i] for i in absent} == {None}
    assert "positive_share" not in data["runs"][0]["figures"]
    json.dumps(data, allow_nan=False)
    text = elements(report).text
    assert not re.search(r"\b(nan|None|inf)\b", text, re.IGNORECASE)


def test_a_baseline_is_matched_by_name() -> None:
    report, before = made_report(NAMES), made_report(NAMES, seed=1)
    shuffled = dataclasses.replace(before, classes=before.classes[::-1])
    assert page_data(report, before) == page_data(report, shuffled)
    columns = page_data(report, before)["runs"][1]["figures"]["AP"]
    assert columns == [number(row.AP) for row in before.classes]


def test_differences_have_both_sides_and_what_is_known_of_them() -> None:
    report, before = made_report(NAMES), made_report(NAMES, seed=1)
    comparison = made_comparison(report, before)
    order = dataclasses.replace(comparison, classes=comparison.classes[::-1])
    data = page_data(report, before, order)
    assert set(data["differences"]) == {"AP", "AP50", "AR", "recall", "precision"}
    for part in ("baseline", "ours", "difference", "low", "high", "p_adjusted"):
        assert data["differences"]["AP"][part] == [
            number(getattr(row.figures["AP"], part)) for row in comparison.classes
        ]
    assert data["differences"]["AP"]["low"][-1] is None
    assert data["settings"]["figure"] == "AP"


def test_floors_of_classes_and_of_files_that_have_only_one(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    floors = [i / 10 for i in range(len(report.classes))]
    rows = zip(report.classes, floors, strict=True)
    own = dataclasses.replace(
        report, classes=tuple(dataclasses.replace(row, score_threshold=f) for row, f in rows)
    )
    assert page_data(own)["classes"]["score_threshold"] == floors
    old = dataclasses.replace(
        report,
        classes=tuple(dataclasses.replace(row, score_threshold=math.nan) for row in report.classes),
    )
    assert page_data(old)["classes"]["score_threshold"] == [0.3] * len(floors)


def test_confusion_chart_has_all_classes_or_the_most_confused() -> None:
    assert page_data(made_report(NAMES))["heatmap"] == list(range(9))
    assert page_data(made_report(["one"]))["heatmap"] == []
    names = [f"class {i}" for i in range(40)]
    report = made_report(names)
    assert report.details is not None
    cells = [Cell(names[i], names[i + 1], 5 + i) for i in range(30)] + [Cell(None, names[39], 999)]
    details = dataclasses.replace(report.details, confusion=cells)
    report = dataclasses.replace(report, details=details)
    assert page_data(report)["heatmap"] == list(range(11, 31))
    few = dataclasses.replace(details, confusion=cells[:1])
    assert page_data(dataclasses.replace(report, details=few))["heatmap"] == [0, 1]


def test_packed_curves_are_exact_to_a_pixel() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 500)
    assert unpack(pack(values)) == pytest.approx(values, abs=1 / 8000)
    assert pack([-0.1, 0.0, 1.0, 1.1]) == "AAAA____"


def test_numbers_are_short_and_counts_stay_whole() -> None:
    assert [number(v) for v in (0.12345, 7, None, math.nan, math.inf)] == [0.123, 7, *[None] * 3]


def unpack(text: str) -> list[float]:
    digits = [ALPHABET.index(letter) for letter in text]
    return [(64 * a + b) / 4095 for a, b in zip(digits[::2], digits[1::2], strict=True)]


# Its charts


@pytest.mark.parametrize("number_of_classes", [1, 9, 70, 400])
def test_charts_are_valid_vega_lite(number_of_classes: int) -> None:
    vl_convert = pytest.importorskip("vl_convert")
    names = [f"class {i}" for i in range(number_of_classes)]
    report, before = made_report(names), made_report(names, seed=1)
    for others in ((), (before,), (before, made_comparison(report, before))):
        specs = chart_specs(page_data(report, *others))
        assert ("heatmap" in specs) == (number_of_classes > 1)
        assert {"imbalance", "curves", "scores"} <= set(specs)
        for spec in specs.values():
            assert vl_convert.vegalite_to_vega(spec)["marks"]


def test_without_details_there_are_only_the_charts_of_figures() -> None:
    report = dataclasses.replace(made_report(NAMES), details=None)
    assert set(chart_specs(page_data(report))) == {"imbalance"}
    assert page_text(report)


# Its words


def test_summary_has_the_groups_with_intervals() -> None:
    report = made_report(NAMES)
    summary = page_summary(report)
    assert summary.title == "ours/predictions.json"
    assert [line.name for line in summary.lines] == ["rare", "common", "frequent", "all"]
    last = summary.lines[-1]
    assert (last.classes, last.val_boxes) == ("8 of 9", f"{report.groups['all'].val_boxes:,}")
    for figure, (span,) in zip(summary.headlines, last.figures, strict=True):
        value = getattr(report.groups["all"], figure)
        low, high = report.groups["all"].intervals[figure]
        assert span.text == decimals(value)
        assert span.interval == f"[{decimals(low)}, {decimals(high)}]"
        assert (span.point, span.verdict) == (round(100 * value, 1), "")
    found = elements(report)
    for line in summary.lines:
        for (span,) in line.figures:
            assert span.text in found.text
            assert span.interval in found.text


def test_differences_are_bold_only_after_the_correction() -> None:
    report, before = made_report(NAMES), made_report(NAMES, seed=1)
    for p_adjusted, verdicts in ((0.001, {"up", "down"}), (0.2, {""}), (math.nan, {""})):
        comparison = made_comparison(report, before, p_adjusted=p_adjusted)
        summary = page_summary(report, before, comparison)
        spans = [spans for line in summary.lines for spans in line.figures]
        assert {span.verdict for _, _, span in spans} == verdicts
        for theirs, ours, change in spans:
            sign = change.text[0]
            assert change.interval.startswith("[")
            if p_adjusted == 0.001:
                assert (change.verdict == "up") == (sign == "+")
            assert {theirs.text[0], ours.text[0]} == {"."}
        assert "allowing for the number of groups" in summary.group_legend
        assert "allowing for the number of classes" in summary.class_legend


def test_differences_without_a_test_say_so() -> None:
    report, before = made_report(NAMES), made_report(NAMES, seed=1)
    summary = page_summary(report, before)
    assert summary.baseline == "ours/predictions.json"
    assert "not tested here" in summary.group_legend
    assert "not tested here" in summary.class_legend
    theirs, ours, change = summary.lines[0].figures[0]
    rows = before.groups["rare"], report.groups["rare"]
    assert (theirs.text, ours.text) == tuple(decimals(row.AP) for row in rows)
    assert change.text == signed(rows[1].AP - rows[0].AP)
    assert (change.interval, change.verdict) == ("", "")


def test_several_runs_a_side_are_told_apart_from_the_first_ones() -> None:
    report, before = made_report(NAMES), made_report(NAMES, seed=1, name="plain")
    comparison = made_comparison(report, before, runs=3)
    summary = page_summary(report, before, comparison)
    assert summary.title == "ours0/predictions.json and 2 more"
    assert summary.baseline == "plain0/predictions.json and 2 more"
    facts = dict(summary.facts)
    assert facts["ours"].startswith("3 runs: runs/ours0/predictions.json, runs/ours1")
    assert facts["baseline"].startswith("3 runs: runs/plain0/predictions.json, ")
    assert any("3 runs against 3 of the baseline" in note for note in summary.notes)
    assert {*report.notes, *before.notes, *comparison.notes} < set(summary.notes)
    single = page_summary(report, before, made_comparison(report, before))
    assert not any("runs against" in note for note in single.notes)
    assert elements(report, comparison=comparison).text.count(comparison.verdict) == 1


def test_facts_name_a_floor_of_each_class_without_a_number() -> None:
    report = made_report(NAMES)
    settings = dataclasses.replace(
        report.settings, score_threshold=math.nan, thresholds="runs/thresholds.json"
    )
    fitted = dataclasses.replace(report, settings=settings)
    fact = "IoU .50, detections with score >= "
    assert dict(page_summary(report).facts)["recall, prec."] == f"{fact}0.3"
    facts = dict(page_summary(fitted).facts)
    assert facts["recall, prec."] == f"{fact}the threshold of the class"
    assert facts["thresholds"] == "runs/thresholds.json"
    assert page_data(fitted)["settings"]["score_threshold"] is None
    assert "nan" not in elements(fitted).text.casefold()


def test_facts_of_a_report_that_little_is_known_of() -> None:
    report = made_report(NAMES)
    settings = dataclasses.replace(
        report.settings,
        predictions=None,
        frequency_source=None,
        group_rule=None,
        rules="lvis",
        num_bootstrap=0,
    )
    rows = tuple(
        dataclasses.replace(row, group=None, train_boxes=None, train_images=None)
        for row in report.classes
    )
    groups = {
        name: dataclasses.replace(row, num_categories=0) if name != "all" else row
        for name, row in report.groups.items()
    }
    summary = page_summary(Report(rows, groups, {}, settings))
    facts = dict(summary.facts)
    assert summary.title == "detections from memory"
    assert [line.name for line in summary.lines] == ["all"]
    assert facts["predictions"] == "from memory"
    assert facts["frequencies"].startswith("none")
    assert "groups" not in facts
    assert "by Wilson" in facts["intervals"]
    assert facts["AP, AR"].endswith("100 detections per image at most")
    bare = tuple(dataclasses.replace(row, intervals={}) for row in rows)
    without = Report(bare, groups, {}, settings)
    assert "intervals" not in dict(page_summary(without).facts)
    assert "95%" in elements(report).text
    assert "95%" not in elements(without).text


def test_signs_and_digits_of_differences() -> None:
    values = (0.0452, -0.1, -0.0004, 0.0, 1.0, -1.0, math.nan)
    assert [signed(value) for value in values] == [
        "+.045",
        f"{MINUS}.100",
        ".000",
        ".000",
        "+1.000",
        f"{MINUS}1.000",
        "-",
    ]
    assert [decimals(value) for value in (0.0, 0.9996, math.inf)] == [".000", "1.000", "-"]
