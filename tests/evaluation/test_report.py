"""The report: rows, groups, files, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import load, make_report, make_scene, training_file

from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.evaluation import (
    build_report,
    check_comparable,
    evaluate,
    load_report,
    with_bootstrap,
)
from detbalance.evaluation.figures import FIGURES, GROUP_FIGURES, WITH_INTERVALS, Figure
from detbalance.evaluation.report import ERROR_KINDS
from detbalance.reporting.files import write_report
from detbalance.reporting.page_data import page_data

# Fields of a class row that are the evaluation's, beside the figures that groups have too.
OF_A_CLASS = (
    "val_images",
    "true_positives",
    "false_positives",
    "score_at_precision",
    "score_at_fppi",
    "best_f_score",
    "design_effect",
    "more_boxes",
)


def test_report_rows_are_rarest_first_with_training_counts(tmp_path: Path) -> None:
    report, result, annotations = make_report(tmp_path)
    assert [row.train_boxes for row in report.classes] == [2, 5, 5, 30, 60, 120]
    assert [row.group for row in report.classes] == ["rare"] * 3 + ["common"] + ["frequent"] * 2
    for row in report.classes:
        label = annotations.categories.names.index(row.name) + 1
        assert row.category_id == annotations.categories.ids[label - 1]
        assert row.train_images == row.train_boxes
        assert row.val_boxes == result.val_boxes[label]
        for name in (*FIGURES.keys() - {"positive_share"}, *OF_A_CLASS):
            assert getattr(row, name) == pytest.approx(getattr(result, name)[label], nan_ok=True)
        for kind, error in row.errors.items():
            counts = result.errors[kind]
            expected = (counts.count[label], counts.shown[label], counts.cost[label])
            assert dataclasses.astuple(error) == pytest.approx(expected, nan_ok=True)
        for name, (low, high) in result.intervals.items():
            if math.isnan(low[label]):
                assert name not in row.intervals
            else:
                assert row.intervals[name] == (low[label], high[label])
    assert str(report.settings.frequency_source).endswith("train.json")
    assert "5" in str(report.settings.group_rule)


def test_group_rows_are_means_of_the_defined_figures(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    absent = [row for row in report.classes if row.val_boxes == 0]
    assert absent
    for name, group in report.groups.items():
        rows = [row for row in report.classes if name in ("all", row.group)]
        assert group.num_categories == len(rows)
        assert group.num_evaluated == sum(row.val_boxes > 0 for row in rows)
        assert group.val_boxes == sum(row.val_boxes for row in rows)
        for figure in GROUP_FIGURES:
            defined = [v for v in (getattr(row, figure) for row in rows) if not math.isnan(v)]
            mean = sum(defined) / len(defined) if defined else math.nan
            assert getattr(group, figure) == pytest.approx(mean, nan_ok=True)
    assert pytest.approx(report.summary["AP"]) == report.groups["all"].AP
    assert pytest.approx(report.summary["AR100"]) == report.groups["all"].AR


def test_group_rows_sum_errors_and_have_intervals_of_their_means(tmp_path: Path) -> None:
    report, result, annotations = make_report(tmp_path)
    for name, group in report.groups.items():
        rows = [row for row in report.classes if name in ("all", row.group)]
        assert tuple(group.errors) == ERROR_KINDS
        for kind, error in group.errors.items():
            assert error.count == sum(row.errors[kind].count for row in rows)
            assert error.shown == sum(row.errors[kind].shown for row in rows)
            costs = [row.errors[kind].cost for row in rows if row.val_boxes]
            mean = sum(costs) / len(costs) if costs else math.nan
            assert error.cost == pytest.approx(mean, nan_ok=True)
        assert group.intervals == {}
    settings = dataclasses.replace(result.settings, confidence=0.8)
    drawn = with_bootstrap(dataclasses.replace(result, settings=settings), 50)
    counts = dict(zip(annotations.categories.names, (30, 5, 120, 2, 60, 5), strict=True))
    frequency = class_frequency(training_file(tmp_path, counts))
    known = build_report(
        drawn,
        annotations,
        train_frequency=frequency,
        groups=frequency_groups(frequency, limits=(5, 50)),
    )
    bootstrap = drawn.bootstrap
    assert bootstrap is not None
    for name, row in known.groups.items():
        members = [
            0 if name in ("all", {r.name: r.group for r in known.classes}[label]) else -1
            for label in annotations.categories.names
        ]
        for figure in WITH_INTERVALS:
            low, high = bootstrap.group_interval(figure, [-1, *members], confidence=0.8)
            if math.isnan(low[0]):
                assert figure not in row.intervals
            else:
                assert row.intervals[figure] == (low[0], high[0])
                assert low[0] <= getattr(row, figure) + 1e-9
                assert getattr(row, figure) <= high[0] + 1e-9
    assert set(known.groups["all"].intervals) == set(WITH_INTERVALS)


def test_details_are_the_curves_and_scores_behind_the_figures(tmp_path: Path) -> None:
    report, result, annotations = make_report(tmp_path)
    details = report.details
    assert details is not None
    matches, t = result.matches, result.matches.at(0.5)
    rows = {row.name: row for row in report.classes}
    assert set(details.curves) == {row.name for row in report.classes if row.val_boxes}
    for name, curve in details.curves.items():
        assert len(curve.precision) == len(curve.scores) == 101
        assert sum(curve.precision) / 101 == pytest.approx(rows[name].AP50, abs=1e-4)
        reached = [score for score in curve.scores if score > 0]
        assert reached == sorted(reached, reverse=True)
    labels, scores = matches.predictions.labels, matches.predictions.scores
    for name, histogram in details.histograms.items():
        label = annotations.categories.names.index(name) + 1
        for counts, chosen in (
            (histogram.right, matches.is_true_positive),
            (histogram.wrong, matches.is_false_positive),
        ):
            own = scores[chosen[:, t] & (labels == label)].tolist()
            bins = [min(int(score * 20), 19) for score in own]
            assert counts == [bins.count(number) for number in range(20)]
    assert details.confusion == result.confusion.cells(annotations.categories.names)
    assert len(details.confusion) > 3


def test_without_training_file_there_are_no_groups(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(1))
    report = build_report(evaluate(annotations, predictions), annotations)
    boxes = [row.val_boxes for row in report.classes]
    assert boxes == sorted(boxes)
    assert {(row.group, row.train_images, row.train_boxes) for row in report.classes} == {
        (None, None, None)
    }
    assert report.groups["rare"].num_categories == 0
    assert math.isnan(report.groups["rare"].AP)
    assert report.settings.frequency_source is None
    assert "--train" in report.notes[0]


def test_lvis_marks_give_the_groups_where_there_is_no_training_file(tmp_path: Path) -> None:
    truth, found = make_scene(1)
    for category, mark in zip(truth["categories"], "rrccff", strict=True):
        category["frequency"] = mark
    annotations, predictions = load(tmp_path, truth, found)
    report = build_report(evaluate(annotations, predictions), annotations)
    assert {report.groups[name].num_categories for name in ("rare", "common", "frequent")} == {2}
    assert "LVIS frequency marks" in str(report.settings.frequency_source)
    assert [row.group for row in report.classes] == ["rare"] * 2 + ["common"] * 2 + ["frequent"] * 2
    for name in ("rare", "common", "frequent"):
        boxes = [row.val_boxes for row in report.classes if row.group == name]
        assert boxes == sorted(boxes)


def test_a_class_that_the_training_file_lacks_is_in_no_group(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(1))
    known = dict.fromkeys(annotations.categories.names[1:], 9)
    frequency = class_frequency(training_file(tmp_path, known))
    report = build_report(
        evaluate(annotations, predictions), annotations, train_frequency=frequency
    )
    first = report.classes[0]
    assert first.name == annotations.categories.names[0]
    assert (first.group, first.train_images, first.train_boxes) == (None, 0, 0)
    assert report.groups["rare"].num_categories + report.groups["common"].num_categories == 0
    assert report.groups["frequent"].num_categories == 5
    assert report.groups["all"].num_categories == 6
    (note,) = (note for note in report.notes if "of the classes" in note)
    assert note.startswith("1 of the classes is not in ")


@pytest.mark.parametrize("is_found", [False, True])
@pytest.mark.parametrize("with_train", [False, True])
def test_a_category_that_is_only_the_supercategory_of_others_is_no_class(
    tmp_path: Path, is_found: bool, with_train: bool
) -> None:
    truth, found = make_scene(1)
    bare = load(tmp_path, truth, found)
    counts = {c["name"]: 3 + 9 * i for i, c in enumerate(truth["categories"])}
    train = class_frequency(training_file(tmp_path, counts)) if with_train else None
    expected = build_report(evaluate(*bare, num_bootstrap=20), bare[0], train_frequency=train)
    for category in truth["categories"]:
        category["supercategory"] = "parts"
    truth["categories"].append({"id": 99, "name": "parts", "supercategory": "none"})
    if is_found:
        found += [{**one, "category_id": 99} for one in found]
    annotations, predictions = load(tmp_path, truth, found)
    result = evaluate(annotations, predictions, num_bootstrap=20)
    report = build_report(result, annotations, train_frequency=train)
    assert [row.name for row in report.classes] == [row.name for row in expected.classes]
    for name, group in report.groups.items():
        same = expected.groups[name]
        np.testing.assert_equal(
            dataclasses.asdict(group) | {"errors": {}, "intervals": {}},
            dataclasses.asdict(same) | {"errors": {}, "intervals": {}},
        )
        np.testing.assert_equal(group.intervals, same.intervals)
    (note,) = (note for note in report.notes if "supercategory" in note)
    assert note.startswith(
        '"parts" (category_id 99) is only the supercategory of others and has no'
    )
    assert ("of it are wrong" in note) == is_found
    assert report.details is not None
    assert not any("parts" in (cell.true, cell.found) for cell in report.details.confusion)
    if is_found:  # boxes of it make it a class, whatever lies below it
        truth["annotations"].append({**truth["annotations"][0], "id": 9999, "category_id": 99})
        annotations, predictions = load(tmp_path, truth, found)
        report = build_report(
            evaluate(annotations, predictions), annotations, train_frequency=train
        )
        assert "parts" in [row.name for row in report.classes]
        assert not any("supercategory" in note for note in report.notes)


def test_report_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    _, result, annotations = make_report(tmp_path)
    two = class_frequency(training_file(tmp_path, {"a": 1, "b": 2}))
    three = class_frequency(training_file(tmp_path, {"a": 1, "b": 2, "c": 3}))
    with pytest.raises(ValueError, match="groups without train_frequency"):
        build_report(result, annotations, groups=frequency_groups(two))
    with pytest.raises(ValueError, match=r"groups are of 2 classes, .* has 3\."):
        build_report(result, annotations, train_frequency=three, groups=frequency_groups(two))
    fewer = annotations.select(annotations.categories.names[:2])
    with pytest.raises(ValueError, match=r"the evaluation has 6 classes, .*val\.json has 2\."):
        build_report(result, fewer)


def test_report_survives_writing_and_reading(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    path = write_report(report, tmp_path).json
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN tokens
    assert content == report.to_dict()
    assert content["schema"] == "detbalance.report/2"
    assert list(content["groups"]) == ["rare", "common", "frequent", "all"]
    assert None in [row["figures"]["AP"] for row in content["classes"]]
    again = load_report(path)
    assert again.to_dict() == report.to_dict()
    assert any(math.isnan(row.AP) for row in again.classes)
    assert again.settings == report.settings


def test_share_of_the_gradient_is_set_beside_each_class(tmp_path: Path) -> None:
    report, result, annotations = make_report(tmp_path)
    assert all(math.isnan(row.positive_share) for row in report.classes)
    shares = np.arange(7) / 10
    shares[3] = math.nan
    known = build_report(result, annotations, positive_share=shares)
    for row in known.classes:
        label = annotations.categories.names.index(row.name) + 1
        assert row.positive_share == pytest.approx(shares[label], nan_ok=True)
    again = load_report(write_report(known, tmp_path).json)
    assert again.to_dict() == known.to_dict()
    with pytest.raises(ValueError, match=r"positive_share has 6 entries, .* has 6 classes\."):
        build_report(result, annotations, positive_share=shares[1:])


def test_a_figure_that_a_file_does_not_know_is_undefined(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    content = report.to_dict()
    for row in content["classes"]:
        del row["figures"]["positive_share"]
    assert type(report).from_dict(content).to_dict() == report.to_dict()


def test_a_new_figure_is_one_entry_of_the_table(tmp_path: Path, monkeypatch: Any) -> None:
    new = Figure("found", "boxes found", lambda m: m.at_half.true_positives.astype(float), digits=1)
    monkeypatch.setitem(FIGURES, "found", new)
    report, result, _ = make_report(tmp_path)
    assert [row.found for row in report.classes] == [row.true_positives for row in report.classes]
    np.testing.assert_array_equal(result.found, result.true_positives)
    assert "found" in report.to_dict()["classes"][0]["figures"]
    assert "found" in [one["key"] for one in page_data(report)["figures"]]
    with write_report(report, tmp_path).csv.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "class"]
    assert [float(row["found"]) for row in rows] == [row.found for row in report.classes]


def test_newer_reports_may_have_more_keys(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    content = report.to_dict()
    content["classes"][0]["interval"] = [0.1, 0.2]
    content["extra"] = {}
    assert type(report).from_dict(content).to_dict() == report.to_dict()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("schema"), r'no schema\. Expected a report with schema "detbalance'),
        (lambda c: c.update(schema="detbalance.report/1"), r'schema "detbalance\.report/1"'),
        (lambda c: c["classes"][0].pop("figures"), r"missing required field `figures`.*classes"),
        (lambda c: c["classes"][0]["figures"].update(AP="high"), r"Expected `float`.*classes"),
        (lambda c: c["groups"].pop("rare"), r'"groups" lacks rare\.'),
        (lambda c: c.update(settings=[]), r"Expected `object`.*settings"),
    ],
)
def test_a_wrong_report_file_is_refused_in_one_line(
    tmp_path: Path, change: Any, match: str
) -> None:
    content = make_report(tmp_path)[0].to_dict()
    change(content)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"report\.json: .*" + match) as info:
        load_report(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("text", "match"), [("[1, 2]", "no schema"), ("{", "not JSON"), ("", "empty")]
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"report\.json: .*" + match):
        load_report(path)
    with pytest.raises(ValueError, match=r"absent\.json: no such file"):
        load_report(tmp_path / "absent.json")


def test_reports_of_other_data_or_floors_are_not_compared(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    other, _, _ = make_report(tmp_path, seed=2)
    lower = dataclasses.replace(
        report, settings=dataclasses.replace(report.settings, score_threshold=0.05)
    )
    check_comparable({"plain": report, "balanced": report})
    with pytest.raises(
        ValueError, match=r'"a" and "b" differ in score_threshold \(0\.3 and 0\.05\)'
    ):
        check_comparable({"a": report, "b": lower})
    by_lvis = dataclasses.replace(
        report, settings=dataclasses.replace(report.settings, rules="lvis")
    )
    with pytest.raises(ValueError, match=r"differ in rules \(coco and lvis\)"):
        check_comparable({"a": report, "b": by_lvis})
    fitted = dataclasses.replace(
        report,
        settings=dataclasses.replace(
            report.settings, score_threshold=math.nan, thresholds="t.json"
        ),
    )
    check_comparable({"a": fitted, "b": fitted})
    with pytest.raises(ValueError, match=r"differ in score_threshold\."):
        check_comparable({"a": report, "b": fitted})
    with pytest.raises(ValueError, match="differ in classes"):
        check_comparable({"a": report, "b": other})
    with pytest.raises(ValueError, match=r"1 reports\. Expected two"):
        check_comparable({"a": report})
