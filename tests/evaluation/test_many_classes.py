"""Files that list very many classes: what has nothing takes no room, what is too large is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import load, make_scene
from shown_documents import markdown_report
from test_evaluation import BACKENDS, COUNTS, every_backend

from detbalance.calibration import fit_thresholds
from detbalance.cli import main
from detbalance.evaluation import (
    Evaluation,
    accumulate,
    build_report,
    compare,
    compute_grid,
    evaluate,
    with_bootstrap,
)
from detbalance.evaluation.figures import FIGURES, WITH_INTERVALS
from detbalance.evaluation.report import MAX_CELLS

FEW = 40  # ids below this are those of a scene


def with_more(truth: dict[str, Any], number: int) -> dict[str, Any]:
    """The same file with classes that nothing is of, before, between and behind its own."""
    used = {category["id"] for category in truth["categories"]}
    free = [i for i in range(number) if i not in used]
    more = [{"id": i, "name": f"none {i}"} for i in free]
    return {**truth, "categories": [*truth["categories"], *more]}


def by_name(result: Evaluation, name: str) -> dict[str, Any]:
    label = int(result.matches.annotations.categories.labels_of_names([name])[0])
    values: dict[str, Any] = {
        field: getattr(result, field)[label]
        for field in (*FIGURES.keys() - {"positive_share"}, *COUNTS)
    }
    values |= {f"curve {i}": curve[:, label].tolist() for i, curve in enumerate(result.curves)}
    for kind, errors in result.errors.items():
        values[kind] = (errors.count[label], errors.shown[label], errors.cost[label])
    return values


@every_backend
@pytest.mark.parametrize("seed", range(3))
def test_classes_that_nothing_is_of_change_no_figure(
    tmp_path: Path, backend: Any, seed: int
) -> None:
    truth, found = make_scene(seed)
    small = evaluate(*load(tmp_path, truth, found), backend=backend, num_bootstrap=20)
    large_data = load(tmp_path, with_more(truth, 300), found)
    large = evaluate(*large_data, backend=backend, num_bootstrap=20)
    assert len(large.AP) == 301
    np.testing.assert_equal(large.summary, small.summary)
    for category in truth["categories"]:
        np.testing.assert_equal(by_name(large, category["name"]), by_name(small, category["name"]))
    nothing = by_name(large, "none 200")
    for figure in WITH_INTERVALS:
        assert np.isnan(nothing[figure]), figure
    assert all(nothing[count] == 0 for count in COUNTS)
    names = large.matches.annotations.categories.names
    assert large.confusion.cells(names) == small.confusion.cells(
        small.matches.annotations.categories.names, MAX_CELLS
    )
    for figure in WITH_INTERVALS:
        own = [one.bootstrap.values[figure] for one in (small, large) if one.bootstrap]
        known = [values[:, :, ~np.isnan(values).all(axis=(0, 1))] for values in own]
        np.testing.assert_array_equal(*known)
        assert not np.isnan(large.intervals[figure]).all()


def test_only_classes_with_boxes_or_detections_are_in_the_grid(tmp_path: Path) -> None:
    truth, found = make_scene(0)
    annotations, predictions = load(tmp_path, with_more(truth, 60), found)
    labels = np.union1d(annotations.labels, predictions.labels)
    whole = compute_grid(annotations, predictions)
    np.testing.assert_array_equal(whole.labels, np.arange(1, 61))
    for backend in BACKENDS:
        grid = compute_grid(annotations, predictions, labels=labels, backend=backend)  # type: ignore[arg-type]
        np.testing.assert_array_equal(grid.precision, whole.precision[:, :, labels - 1])
        np.testing.assert_array_equal(grid.scores, whole.scores[:, :, labels - 1])
        np.testing.assert_array_equal(grid.recall, whole.recall[:, labels - 1])


def test_what_does_not_fit_into_memory_is_said_before_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, found = make_scene(0)
    annotations, predictions = load(tmp_path, with_more(truth, 60), found)
    fits = evaluate(annotations, predictions)
    monkeypatch.setattr(accumulate, "memory", lambda: 8e4)
    refused = r"val\.json: the grid of precision and recall of 4 classes would take about .* GB of"
    with pytest.raises(ValueError, match=refused):
        evaluate(annotations, predictions)
    with pytest.raises(ValueError, match=r"50 draws of 60 classes would .*Draw less often"):
        with_bootstrap(fits, 50)
    with pytest.raises(ValueError, match=r"compare\(\): 50 draws of 60 classes"):
        compare([fits], [fits], num_bootstrap=50)
    monkeypatch.setattr(accumulate, "memory", lambda: 1e2)
    with pytest.raises(ValueError, match=r"counts of 60 classes at \d+ thresholds"):
        fit_thresholds(annotations, predictions, num_folds=3)


def test_a_file_of_very_many_classes_gives_a_short_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = make_scene(0)
    truth = with_more(truth, 5000)
    annotations, predictions = load(tmp_path, truth, found)
    report = build_report(evaluate(annotations, predictions), annotations)
    text = markdown_report(report)
    used = np.union1d(annotations.labels, predictions.labels)
    names = annotations.categories.names
    assert [n for n in names if f"| {n} |" in text] == [names[label - 1] for label in used]
    assert (
        f"{5000 - len(used):,} classes without boxes and detections are not shown here"
        in text.replace("\\", "")
    )
    output = tmp_path / "out"
    files = (str(tmp_path / "val.json"), str(tmp_path / "results.json"))
    with pytest.raises(SystemExit) as stop:
        main(["report", *files, "--output", str(output)])
    assert not stop.value.code
    assert f"{5000 - len(used):,} classes are not listed" in capsys.readouterr().out
    assert len(json.loads((output / "report.json").read_text())["classes"]) == 5000
    assert len((output / "report.csv").read_text().splitlines()) == 5005
    page = output / "report.html"
    if page.exists():
        assert "none 4321" not in page.read_text()
