"""Differences of two detectors: their intervals, p-values and what is called real."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from scenes import frequency_of, load, make_scene, scene_runs
from scipy import stats
from simulation import benchmark, simulated

from detbalance.data import Predictions
from detbalance.data.intervals import wilson_interval
from detbalance.evaluation import Evaluation, compare, evaluate, with_bootstrap
from detbalance.evaluation.bootstrap import BootstrapFigures, bootstrap
from detbalance.evaluation.bootstrap_variance import BootstrapVariance
from detbalance.evaluation.compare import adjust_classes, adjust_groups
from detbalance.evaluation.differences import (
    Sides,
    class_sides,
    difference_interval,
    group_sides,
    p_values,
)
from detbalance.evaluation.figures import WITH_INTERVALS
from detbalance.evaluation.matching import Matches, match

LEVEL = 0.05


def chosen(predictions: Predictions, rows: np.ndarray) -> Predictions:
    fields = (field.name for field in dataclasses.fields(Predictions))
    return Predictions(*(getattr(predictions, name)[rows] for name in fields))


def drawn(matches: Matches, num_bootstrap: int = 200) -> BootstrapFigures:
    return bootstrap([matches], num_bootstrap=num_bootstrap, score_threshold=0.3)


def paired(table: tuple[int, int, int, int]) -> tuple[Matches, Matches]:
    """Two runs on boxes that lie alone on an image: found by both, first, second, neither."""
    both, first, second, neither = table
    total = sum(table)
    label, image = np.ones(total, dtype=np.int64), np.arange(total)
    annotations = simulated.as_annotations(label, image, 1, total)
    order = np.repeat(np.arange(4), (both, first, second, neither))
    runs = []
    for found in ((0, 1), (0, 2)):
        rows = np.flatnonzero(np.isin(order, found))
        bbox = np.ones((len(rows), 4))  # as the generator's boxes
        runs.append(
            match(annotations, Predictions(rows, np.ones(len(rows)), bbox, np.ones(len(rows))))
        )
    return runs[0], runs[1]


def newcombe(table: tuple[int, int, int, int]) -> tuple[float, float]:
    """Method 10 of Newcombe 1998 for the second share less the first, from the table alone."""
    a, b, c, d = table
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson_interval(a + b, n), wilson_interval(a + c, n)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    numerator = a * d - b * c
    if numerator > 0:
        numerator = max(numerator - n / 2, 0)
    phi = numerator / np.sqrt(product) if product else 0.0
    low = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    high = (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2
    return p2 - p1 - np.sqrt(low), p2 - p1 + np.sqrt(high)


# Intervals and p-values


@pytest.mark.parametrize(
    "table",
    [(30, 10, 20, 40), (36, 2, 12, 0), (50, 0, 0, 50), (20, 0, 0, 0), (5, 0, 0, 0), (0, 3, 9, 0)],
)
def test_recall_of_boxes_alone_on_an_image_has_newcombes_interval(table) -> None:
    before, after = paired(table)
    sides = class_sides("recall", [drawn(before, 4000)], [drawn(after, 4000)])
    low, high = difference_interval(sides, "recall")
    # The draws allow for few images, which his method does not: a little wider there.
    assert (low[1], high[1]) == pytest.approx(newcombe(table), abs=0.01 + 0.4 / sum(table))


def test_a_run_does_not_differ_from_itself_but_few_boxes_could(tmp_path: Path) -> None:
    run = scene_runs(tmp_path, 1)[0]
    comparison = compare([run], [run])
    for row in comparison.classes:
        for one in row.figures.values():
            if np.isnan(one.difference):
                continue
            assert (one.difference, one.p) == (0, 1)
            assert one.low <= 0 <= one.high
            assert one.high - one.low > 0.05


def test_sides_change_places(tmp_path: Path) -> None:
    before, after = scene_runs(tmp_path)
    there, back = compare([before], [after]), compare([after], [before])
    for one, other in zip(there.classes, back.classes, strict=True):
        for name in WITH_INTERVALS:
            x, y = one.figures[name], other.figures[name]
            np.testing.assert_allclose(
                [x.baseline, x.ours, x.difference, x.low, x.high, x.p],
                [y.ours, y.baseline, -y.difference, -y.high, -y.low, y.p],
                rtol=1e-9,
            )


def test_differences_are_those_of_the_two_evaluations(tmp_path: Path) -> None:
    before, after = scene_runs(tmp_path)
    comparison = compare([before], [after])
    names = before.matches.annotations.categories.names
    for row in comparison.classes:
        label = names.index(row.name) + 1
        for name in WITH_INTERVALS:
            one, sides = row.figures[name], [getattr(run, name)[label] for run in (before, after)]
            assert [one.baseline, one.ours] == pytest.approx(sides, abs=1e-9, nan_ok=True)
            assert one.difference == pytest.approx(sides[1] - sides[0], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_p_values_and_intervals_agree(confidence: float) -> None:
    detector, sample = simulated.DETECTORS["fair"], simulated.Sample(30, 100)
    better = dataclasses.replace(detector, overlap=1.3)
    sides = simulated.simulate_several([detector, better], sample, 60, 5)
    before, after = ([drawn(matches)] for matches in sides)
    for figure in WITH_INTERVALS:
        classes = class_sides(figure, before, after)
        low, high = difference_interval(classes, figure, confidence=confidence)
        p = p_values(classes, figure, confidence=confidence)
        known = ~np.isnan(p)
        assert known[1:].all()
        outside = (low > 0) | (high < 0)
        np.testing.assert_array_equal(p[known] < 1 - confidence, outside[known])
    assert 5 < (p_values(class_sides("AP", before, after), "AP") < LEVEL).sum() < 60


def test_p_values_fall_as_the_difference_grows() -> None:
    n = 40
    estimate = np.linspace(0.3, 0.9, n)
    spread = BootstrapVariance(
        estimate, estimate, np.full(n, 0.003), np.full(n, 100.0), np.full(n, 50.0)
    )
    base = dataclasses.replace(spread, estimate=np.full(n, 0.3), mean=np.full(n, 0.3))
    p = p_values(Sides(base, spread, np.full(n, 0.5), np.zeros(n), np.zeros(n)), "AP")
    assert p[0] == 1
    assert (np.diff(p) <= 0).all()
    assert (np.diff(p[p > 1e-9]) < 0).all()
    assert p[-1] == 1e-9


def test_correlation_makes_the_interval_narrower() -> None:
    one, none = np.array([0.6]), np.zeros(1)
    spread = BootstrapVariance(one, one, np.array([0.002]), np.array([200.0]), np.array([90.0]))
    widths = []
    for r in (-0.5, 0.0, 0.5, 0.9):
        sides = Sides(spread, spread, np.array([r]), none, none)
        widths.append(np.subtract(*difference_interval(sides, "AP")[::-1])[0])
    assert (np.diff(widths) < 0).all()
    single = 2 * 1.96 * np.sqrt(0.002)
    assert widths[1] == pytest.approx(np.sqrt(2) * single, rel=0.05)


# As often as they say


@pytest.mark.parametrize(
    ("detector", "sample", "alike"),
    [("fair", (20, 400, 1.0, 0.0), 0.0), ("poor", (40, 100, 3.0, 0.5), 0.8)],
)
def test_equal_detectors_differ_no_more_often_than_said(detector, sample, alike) -> None:
    module = benchmark("comparison")
    result = module.measure(
        simulated.DETECTORS[detector],
        simulated.Sample(*sample),
        module.PAIRS["equal"],
        alike,
        repeats=300,
        draws=200,
    )
    for figure in WITH_INTERVALS:
        # 5 % of 300 has a standard deviation of 1.3 %, of 30 families 4 %.
        assert result[f"{figure}, real"] <= 0.05 + 3 * 0.0126, figure
        assert result[f"{figure}, real of a family"] <= 0.05 + 3 * 0.04, figure
        assert result[f"{figure}, groups real"] <= 0.05 + 3 * 0.04, figure


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_intervals_hold_the_true_difference_as_often_as_they_say(alike: float) -> None:
    module = benchmark("comparison")
    result = module.measure(
        simulated.DETECTORS["fair"],
        simulated.Sample(40, 100, 3.0, 0.5),
        module.PAIRS["ours better"],
        alike,
        repeats=300,
        draws=200,
    )
    for figure in WITH_INTERVALS:
        assert result[figure] >= 0.91, (figure, result[figure])
    assert result["AP, real"] > 0.5  # and are not so wide that nothing is found


def test_one_run_a_side_takes_luck_in_training_for_a_difference_and_three_do_not() -> None:
    module = benchmark("comparison")
    detector, sample = simulated.DETECTORS["fair"], simulated.Sample(100, 100)
    found = {}
    for runs in (1, 3):
        pair = module.Pair({}, runs=runs, training_noise=0.3)
        row = module.measure(detector, sample, pair, 0.5, repeats=200, draws=100)
        found[runs] = row["AP, real"]
    assert found[1] > 0.4
    assert found[3] < 0.05 + 3 * 0.0155


# Several runs and groups


def test_figures_of_several_runs_are_their_means(tmp_path: Path) -> None:
    runs = scene_runs(tmp_path, 5)
    comparison = compare(runs[:3], runs[3:])
    names = runs[0].matches.annotations.categories.names
    for row in comparison.classes:
        label = names.index(row.name) + 1
        sides = [np.mean([run.AP[label] for run in side]) for side in (runs[:3], runs[3:])]
        one = row.figures["AP"]
        assert [one.baseline, one.ours] == pytest.approx(sides, abs=1e-9, nan_ok=True)
    assert comparison.settings.baseline == ("run0.json", "run1.json", "run2.json")
    assert comparison.settings.ours == ("run3.json", "run4.json")
    assert not any("One run" in note for note in comparison.notes)
    assert any("One run" in note for note in compare(runs[:3], runs[3:4]).notes)


def test_what_runs_differ_by_widens_the_interval() -> None:
    """Runs of alike recall know their mean better than runs that differ in it."""
    table = (60, 20, 20, 20)
    steady, other = paired(table)
    better = paired((100, 0, 20, 0))[0]
    worse = paired((40, 0, 20, 60))[0]
    ours = [drawn(other)]

    def width(*runs: Matches) -> float:
        sides = class_sides("recall", [drawn(run) for run in runs], ours)
        low, high = difference_interval(sides, "recall")
        return float(high[1] - low[1])

    assert width(better, worse) > 2 * width(steady, steady)
    assert width(steady, steady, steady) == pytest.approx(width(steady), rel=0.02)


def test_runs_alone_make_students_interval() -> None:
    """With hardly any variance by images it is the t-test of two samples."""
    rng = np.random.default_rng(1)
    sides = rng.normal(0.5, 0.05, (2, 4))
    same = simulated.as_annotations(np.ones(10, dtype=np.int64), np.arange(10), 1, 10)
    once = [np.full((50, 2), value) for value in sides.ravel()]
    boxes = np.full((1, 2), 1e9)
    runs = [
        BootstrapFigures(
            {"AP": one[None].astype(np.float32)},
            {"AP": one[None, 0]},
            {"AP": boxes},
            {"AP": np.full((1, 2), same.num_images)},
        )
        for one in once
    ]
    low, high = difference_interval(class_sides("AP", runs[:4], runs[4:]), "AP")
    expected = stats.ttest_ind(sides[1], sides[0]).confidence_interval(0.95)
    assert (low[1], high[1]) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_a_class_that_one_side_has_no_figure_of_counts_on_neither(tmp_path: Path) -> None:
    truth, found = make_scene(3)
    annotations, predictions = load(tmp_path, truth, found)
    label = int(np.bincount(predictions.labels).argmax())
    kept = predictions.labels != label
    fewer = chosen(predictions, kept)
    all_of_them, without = evaluate(annotations, predictions), evaluate(annotations, fewer)
    assert np.isnan(without.precision[label])
    group_of_class = np.zeros(len(without.AP), dtype=np.int64)
    group_of_class[0] = -1
    sides = [[with_bootstrap(run, 50).bootstrap] for run in (all_of_them, without)]
    means = group_sides("precision", *sides, group_of_class, 1)
    others = [i for i in range(1, len(without.AP)) if not np.isnan(without.precision[i])]
    assert means.baseline.estimate[0] == pytest.approx(all_of_them.precision[others].mean())
    assert means.ours.estimate[0] == pytest.approx(without.precision[others].mean())
    assert group_sides("AP", *sides, group_of_class, 1).ours.estimate[0] == pytest.approx(
        np.nanmean(without.AP)
    )


def test_groups_come_from_the_training_file(tmp_path: Path) -> None:
    runs = scene_runs(tmp_path)
    annotations = runs[0].matches.annotations
    frequency = frequency_of(annotations, tmp_path)
    comparison = compare(runs[:1], runs[1:], train_frequency=frequency)
    assert [row.train_boxes for row in comparison.classes] == sorted(
        row.train_boxes for row in comparison.classes
    )
    for name, group in comparison.groups.items():
        rows = [row for row in comparison.classes if name in ("all", row.group)]
        assert group.num_categories == len(rows)
        known = [r.figures["AP"].difference for r in rows if r.val_boxes]
        expected = np.mean(known) if known else np.nan
        assert group.figures["AP"].difference == pytest.approx(expected, nan_ok=True)
    assert comparison.settings.frequency_source == str(frequency.source)
    alone = compare(runs[:1], runs[1:])
    assert all(np.isnan(alone.groups["rare"].figures[name].difference) for name in WITH_INTERVALS)
    assert not np.isnan(alone.groups["all"].figures["AP"].difference)


def test_groups_are_corrected_for_their_number_and_the_mean_of_all_is_not(tmp_path: Path) -> None:
    runs = scene_runs(tmp_path)
    frequency = frequency_of(runs[0].matches.annotations, tmp_path)
    groups = compare(runs[:1], runs[1:], train_frequency=frequency).groups
    for name in WITH_INTERVALS:
        raw = [groups[g].figures[name].p for g in ("rare", "common", "frequent")]
        adjusted = [groups[g].figures[name].p_adjusted for g in ("rare", "common", "frequent")]
        np.testing.assert_allclose(adjusted, adjust_groups(np.array(raw)))
        assert groups["all"].figures[name].p == groups["all"].figures[name].p_adjusted


def test_draws_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch) -> None:
    runs = scene_runs(tmp_path)
    ready = [with_bootstrap(run, 60, seed=4) for run in runs]
    expected = compare(runs[:1], runs[1:], num_bootstrap=60, seed=4)
    calls = []

    def counted(run: Evaluation, num_bootstrap: int, *, seed: int) -> Evaluation:
        calls.append(run)
        return with_bootstrap(run, num_bootstrap, seed=seed)

    module = sys.modules["detbalance.evaluation.compare"]
    monkeypatch.setattr(module, "with_bootstrap", counted)
    again = compare(ready[:1], ready[1:], num_bootstrap=60, seed=4)
    assert not calls
    assert again.to_dict() == expected.to_dict()
    other = compare(ready[:1], ready[1:], num_bootstrap=60, seed=5)
    assert len(calls) == 2
    assert other.to_dict() != expected.to_dict()


# What is refused


def test_sides_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    before, after = scene_runs(tmp_path)
    with pytest.raises(ValueError, match=r"compare\(\): ours is empty"):
        compare([before], [])
    with pytest.raises(ValueError, match=r'figure is "mAP"\. Known: AP, AP50, AR, recall'):
        compare([before], [after], figure="mAP")
    annotations, predictions = after.matches.annotations, after.matches.predictions
    floor = evaluate(annotations, predictions, score_threshold=0.5)
    with pytest.raises(ValueError, match=r"run0.json .* not of the same score thresholds"):
        compare([before], [floor])
    fewer = annotations.subset(list(range(annotations.num_images - 1)))
    inside = predictions.image_index < fewer.num_images
    cut = Predictions(
        *(getattr(predictions, f.name)[inside] for f in dataclasses.fields(Predictions))
    )
    with pytest.raises(ValueError, match="not of the same images"):
        compare([before], [evaluate(fewer, cut)])


def test_rough_classes_and_doubtful_results_are_notes(tmp_path: Path) -> None:
    before, after = scene_runs(tmp_path)
    cautious = dataclasses.replace(after, cautions=("The scores look odd.",))
    notes = compare([before], [cautious]).notes
    assert "run1.json: The scores look odd." in notes
    assert any("fewer than 10 boxes or 5 images to find them on" in note for note in notes)
    assert sum("No training file" in note for note in notes) == 1


# Corrections


def test_corrections_are_benjamini_and_hochbergs_and_holms() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        p = np.where(rng.random(n) < 0.5, rng.random(n), rng.random(n) ** 6)
        np.testing.assert_allclose(adjust_classes(p), stats.false_discovery_control(p))
        order, running = np.argsort(p), 0.0
        holm = np.empty(n)
        for rank, place in enumerate(order):
            running = max(running, min(1.0, (n - rank) * p[place]))
            holm[place] = running
        np.testing.assert_allclose(adjust_groups(p), holm)


def test_what_is_not_tested_does_not_count() -> None:
    p = np.array([np.nan, 0.01, np.nan, 0.02])
    for adjust in (adjust_classes, adjust_groups):
        adjusted = adjust(p)
        np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(p))
        np.testing.assert_allclose(adjusted[[1, 3]], adjust(p[[1, 3]]))
        assert adjust(np.empty(0)).shape == (0,)
