"""The bootstrap counts what evaluating the drawn images anew would give, and its intervals hold."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from coco_sets import as_arrays, evaluation_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_scene
from scipy import stats
from simulation import benchmark
from simulation import simulated as simulator

from detbalance.data import Annotations, Predictions
from detbalance.data.intervals import wilson_interval
from detbalance.evaluation.average_precision import average_precision, recall
from detbalance.evaluation.bootstrap import (
    BootstrapFigures,
    bootstrap,
    draw_images,
    weighted_figures,
)
from detbalance.evaluation.bootstrap_variance import (
    BootstrapVariance,
    group_means,
    interval,
    student_quantile,
)
from detbalance.evaluation.figures import WITH_INTERVALS
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.operating_points import at_score


def matched(truth: dict, found: list) -> Matches:
    with tempfile.TemporaryDirectory() as folder:
        return match(*load(Path(folder), truth, found))


def without_ties(truth: dict, found: list, seed: int) -> tuple[dict, list]:
    """Distinct scores: copies of an image tie with each other, which then changes nothing."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(len(found)) / len(found)
    return truth, [{**one, "score": float(s)} for one, s in zip(found, scores, strict=True)]


def copied(truth: dict, found: list, counts: dict[int, int]) -> tuple[dict, list]:
    """The set that a draw stands for: every image as often as it was drawn, under new ids."""
    images, annotations, detections = [], [], []
    for image in truth["images"]:
        for copy in range(counts[image["id"]]):
            new = {"image_id": 1000 * image["id"] + copy}
            images.append({**image, "id": new["image_id"], "file_name": f"{new['image_id']}.png"})
            annotations += [
                {**box, **new} for box in truth["annotations"] if box["image_id"] == image["id"]
            ]
            detections += [{**box, **new} for box in found if box["image_id"] == image["id"]]
    annotations = [{**box, "id": number} for number, box in enumerate(annotations)]
    return {**truth, "images": images, "annotations": annotations}, detections


def figures_of(matches: Matches, floor: float) -> dict[str, np.ndarray]:
    ap, shown = average_precision(matches), at_score(matches, floor)
    return {
        "AP": ap.mean(axis=0),
        "AP50": ap[0],
        "AR": recall(matches).mean(axis=0),
        "recall": shown.recall,
        "precision": shown.precision,
    }


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_with_every_image_once_the_figures_are_those_of_the_set(seed: int) -> None:
    matches = matched(*make_scene(seed))
    once = np.ones((1, matches.annotations.num_images), dtype=np.int32)
    ours = weighted_figures(matches, once, score_threshold=0.3)
    for name, expected in figures_of(matches, 0.3).items():
        np.testing.assert_allclose(ours[name][0], expected, atol=1e-12, rtol=0, err_msg=name)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_a_draw_gives_what_a_set_of_copied_images_gives(seed: int) -> None:
    truth, found = without_ties(*make_scene(seed), seed)
    matches = matched(truth, found)
    num_images = matches.annotations.num_images
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(num_images, np.full(num_images, 1 / num_images), 3)
    ours = weighted_figures(matches, weights.astype(np.int32), score_threshold=0.3)
    for b, row in enumerate(weights.tolist()):
        counts = dict(zip(matches.annotations.image_ids.tolist(), row, strict=True))
        expected = figures_of(matched(*copied(truth, found, counts)), 0.3)
        for name in WITH_INTERVALS:
            np.testing.assert_allclose(
                ours[name][b], expected[name], atol=1e-12, rtol=0, err_msg=name
            )


@settings(max_examples=40)
@given(made=evaluation_sets(lvis=True))
def test_by_lvis_rules_too_every_image_once_gives_the_set(made: tuple[dict, list]) -> None:
    matches = match(*as_arrays(*made))
    once = np.ones((1, matches.annotations.num_images), dtype=np.int32)
    ours = weighted_figures(matches, once, score_threshold=0.3)
    for name, expected in figures_of(matches, 0.3).items():
        np.testing.assert_allclose(ours[name][0], expected, atol=1e-12, rtol=0, err_msg=name)


@pytest.mark.parametrize("total", [1, 7, 25, 100, 101, 200])
def test_any_number_of_found_boxes_reaches_the_levels_that_the_evaluators_say(total: int) -> None:
    """All totals that recall levels divide: there a float decides which side of a level it is."""
    for found in range(total + 1):
        label, image = np.ones(total, dtype=np.int64), np.arange(total)
        annotations = simulator.as_annotations(label, image, 1, total)
        matches = with_found(annotations, found)
        once = np.ones((1, total), dtype=np.int32)
        ours = weighted_figures(matches, once, score_threshold=0.3)["AP"][0, 1]
        assert ours == pytest.approx(average_precision(matches)[:, 1].mean(), abs=1e-12), found


def test_draws_are_as_many_images_as_there_are_and_each_as_likely() -> None:
    drawn = draw_images(50, 2000, np.random.default_rng(1))
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.dtype == np.int32
    # The mean of a share with standard deviation near 1 / sqrt(2000).
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=4.5 / np.sqrt(2000))
    assert drawn.var() == pytest.approx(1 - 1 / 50, abs=0.03)


def test_runs_share_the_draws_and_a_seed_repeats_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (matched(*make_scene(seed)) for seed in (4, 4))
    both = bootstrap([first, second], num_bootstrap=30, seed=7)
    np.testing.assert_array_equal(both.values["AP"][0], both.values["AP"][1])
    alone = bootstrap([second], num_bootstrap=30, seed=7, workers=1)
    other = bootstrap([second], num_bootstrap=30, seed=8)
    # Neither the threads nor how many draws are held at a time make a difference.
    monkeypatch.setattr("detbalance.evaluation.bootstrap._BLOCK_BYTES", 100)
    monkeypatch.setattr("detbalance.evaluation.bootstrap._WORKING_SIZE", 50)
    in_parts = bootstrap([second], num_bootstrap=30, seed=7)
    for name in WITH_INTERVALS:
        np.testing.assert_array_equal(both.values[name][1], alone.values[name][0])
        np.testing.assert_array_equal(both.values[name][1], in_parts.values[name][0])
    assert not np.array_equal(alone.values["AP"], other.values["AP"], equal_nan=True)
    assert alone.values["AP"].shape == (1, 30, first.annotations.categories.num_classes)
    assert alone.values["AP"].dtype == np.float32


def test_what_a_draw_leaves_undefined_is_nan_and_averaged_nowhere() -> None:
    matches = matched(*make_scene(5))
    values = bootstrap([matches], num_bootstrap=200).values
    positive = matches.positive
    labels, images = matches.annotations.labels[positive], matches.annotations.image_index[positive]
    drawn = draw_images(matches.annotations.num_images, 200, np.random.default_rng(0))
    left_out = 0
    for label in range(matches.annotations.categories.num_classes):
        absent = drawn[:, images[labels == label]].sum(axis=1) == 0
        left_out += absent.sum()
        for name in ("AP", "AP50", "AR", "recall"):
            np.testing.assert_array_equal(np.isnan(values[name][0, :, label]), absent)
    assert left_out > 3 * 200  # background and two classes never, some now and then


def test_groups_are_means_over_their_defined_classes() -> None:
    drawn = bootstrap([matched(*make_scene(5))], num_bootstrap=50)
    group_of_class = np.array([-1, 0, 0, 1, 1, 2, -1])
    for name in WITH_INTERVALS:
        values = drawn.values[name][0].astype(np.float64)
        groups = group_means(values, group_of_class, 3)
        for group, b in np.ndindex(3, 50):
            chosen = values[b, group_of_class == group]
            chosen = chosen[~np.isnan(chosen)]
            expected = chosen.mean() if len(chosen) else np.nan
            np.testing.assert_allclose(groups[b, group], expected, rtol=1e-12)
    estimates = group_means(drawn.estimates["AR"][0], group_of_class, 3)
    assert estimates[0] == pytest.approx(np.nanmean(drawn.estimates["AR"][0, 1:3]))
    low, high = drawn.group_interval("AR", group_of_class)
    defined = ~np.isnan(estimates)
    assert (low[defined] <= estimates[defined]).all()
    assert (estimates[defined] <= high[defined]).all()
    assert np.isnan(low[~defined]).all()


def test_a_group_of_one_class_has_the_interval_of_the_class() -> None:
    drawn = bootstrap([matched(*make_scene(5))], num_bootstrap=50)
    each = np.arange(-1, 6)
    for name in WITH_INTERVALS:
        for group, single in zip(
            drawn.group_interval(name, each), drawn.interval(name), strict=True
        ):
            np.testing.assert_allclose(group, single[1:], rtol=1e-9)


def test_a_group_of_alike_classes_is_known_better_than_each() -> None:
    drawn = simulated("fair", boxes=20, images=200, classes=16)
    single = np.subtract(*drawn.interval("AP")[::-1])[1:].mean()
    low, high = drawn.group_interval("AP", np.array([-1] + [0] * 16))
    assert single / 6 < high[0] - low[0] < single / 2.5  # the square root of 16 is 4


def simulated(detector: str, *, boxes: float, images: int, classes: int) -> BootstrapFigures:
    matches = simulator.simulate(
        simulator.DETECTORS[detector], simulator.Sample(boxes, images), classes, 3
    )
    return bootstrap([matches], num_bootstrap=200)


def with_found(annotations: Annotations, found: int) -> Matches:
    """The first boxes found, each followed by a wrong detection."""
    total = annotations.num_annotations
    image = np.repeat(np.arange(total), 2)
    bbox = np.tile([0.0, 0.0, 1.0, 1.0], (2 * total, 1))
    bbox[1::2, 0] = bbox[2 * found :, 0] = 500.0
    scores = np.linspace(1, 0.5, 2 * total)
    return match(annotations, Predictions(image, np.ones(2 * total), bbox, scores))


@pytest.mark.parametrize(
    ("detector", "sample"),
    [
        ("poor", (20, 400, 1.0, 0.0)),
        ("fair", (20, 400, 3.0, 0.5)),
        ("good", (40, 100, 3.0, 0.5)),
        ("good", (10, 400, 1.0, 0.0)),
    ],
)
def test_intervals_hold_the_true_figure_as_often_as_they_say(
    detector: str, sample: tuple[float, ...]
) -> None:
    result = benchmark("coverage").measure(
        simulator.DETECTORS[detector], simulator.Sample(*sample), repeats=250, draws=200
    )
    for figure in WITH_INTERVALS:
        # 95 % of 250 has a standard deviation of 1.4 %; three of them are allowed.
        assert 0.905 <= result[figure] <= 1, (figure, result[figure])
        near_the_end = min(result[f"{figure}, true"], 1 - result[f"{figure}, true"]) < 0.1
        assert near_the_end or result[figure] <= 0.99, (figure, result[figure])


def test_percentiles_of_the_draws_do_not_hold_it_where_the_intervals_do() -> None:
    sample = simulator.Sample(10, 400)
    measure = benchmark("coverage").measure
    result = measure(simulator.DETECTORS["good"], sample, repeats=250, draws=200)
    assert result["recall, percentiles"] < 0.75
    assert result["recall"] > 0.93


def test_reliable_asks_for_boxes_on_several_images() -> None:
    drawn = BootstrapFigures(
        values={},
        estimates={},
        boxes={"AP": np.array([[0.0, 9, 10, 200]])},
        images={"AP": np.array([[0.0, 9, 5, 4.9]])},
    )
    assert drawn.reliable("AP").tolist() == [False, False, True, False]


def test_images_are_counted_by_how_evenly_boxes_lie_on_them() -> None:
    # Class 1: four boxes on two images; class 2: three and one.
    label, image = np.array([1, 1, 2, 2, 2, 1, 1, 2]), np.array([0, 0, 0, 0, 0, 1, 1, 1])
    annotations = simulator.as_annotations(label, image, 3, 2)
    nothing = Predictions([], [], np.empty((0, 4)), [])
    drawn = bootstrap([match(annotations, nothing)], num_bootstrap=5)
    assert drawn.boxes["AP"][0].tolist() == [0, 4, 4, 0]
    assert drawn.images["AP"][0].tolist() == [0, 2, 1.6, 0]


def one(estimate: float, variance: float, *, mean: float | None = None, degrees: float = 1e9):
    """The interval of one figure of 40 boxes, with boxes that count or not."""
    spread = BootstrapVariance(
        *(
            np.array([float(value)])
            for value in (estimate, estimate if mean is None else mean, variance, 40, degrees)
        )
    )
    counted = interval(spread, counts_boxes=True, envelope=False)
    free = interval(spread, counts_boxes=False, envelope=False)
    return [(low[0], high[0]) for low, high in (counted, free)]


def test_draws_that_vary_like_boxes_give_the_interval_of_the_boxes() -> None:
    expected = wilson_interval(28, 40)
    for ends in one(0.7, 0.7 * 0.3 / 40):
        assert ends == pytest.approx(expected)
    # No less than boxes can vary, for what counts boxes; and no width of zero for anything.
    assert one(0.7, 0.7 * 0.3 / 400)[0] == pytest.approx(expected)
    assert one(0.7, 0.7 * 0.3 / 400)[1] == pytest.approx(wilson_interval(280, 400))
    for ends in one(1.0, 0.0):
        assert ends == pytest.approx(wilson_interval(40, 40))
    for ends in one(0.7, 0.7 * 0.3 / 10):
        assert ends == pytest.approx(wilson_interval(7, 10))


def test_few_images_widen_an_interval_and_bias_moves_it() -> None:
    wide, narrow = one(0.5, 0.025, degrees=4.0)[1], one(0.5, 0.025)[1]
    smaller = 10 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 4)) ** 2
    assert wide == pytest.approx(wilson_interval(smaller / 2, smaller), abs=1e-3)
    assert wide[0] < narrow[0]
    moved = one(0.5, 0.025, mean=0.55)[1]
    assert moved == pytest.approx(wilson_interval(0.45 * 9.9, 9.9))
    # Never past the figure itself.
    assert one(0.9, 1e-6, mean=0.7)[1][0] == 0.9


@pytest.mark.parametrize("probability", [0.501, 0.75, 0.975, 0.995, 0.999999])
def test_quantiles_of_student_are_those_of_scipy(probability: float) -> None:
    degrees = np.array([2.0, 2.1, 3.0, 3.7, 5.0, 12.0, 100.0, np.inf])
    expected = stats.t.ppf(probability, degrees)
    np.testing.assert_allclose(student_quantile(probability, degrees), expected, rtol=1e-3)
    assert (
        student_quantile(probability, np.array([1.0])) == student_quantile(probability, degrees)[0]
    )


def test_wrong_arguments_are_named() -> None:
    matches = matched(*make_scene(1))
    with pytest.raises(ValueError, match="there is no run"):
        bootstrap([])
    with pytest.raises(ValueError, match=r"num_bootstrap is 1\. Expected a whole number >= 2"):
        bootstrap([matches], num_bootstrap=1)
    with pytest.raises(ValueError, match=r"run 1 is on .*Evaluate them on one file"):
        bootstrap([matches, matched(*make_scene(2))])


def test_nothing_detected_has_intervals() -> None:
    truth, _ = make_scene(3)
    drawn = bootstrap([matched(truth, [])], num_bootstrap=20)
    low, high = drawn.interval("AP")
    defined = drawn.boxes["AP"][0] > 0
    assert (low[defined] == 0).all()
    assert (high[defined] > 0.05).all()
    assert np.isnan(high[~defined]).all()
    assert np.isnan(drawn.interval("precision")[0]).all()


def test_each_figure_has_its_form() -> None:
    """All draws alike but for a bias of 0.05, and hardly any variance, of 20 boxes."""
    wave = np.where(np.arange(100) % 2, 0.001, -0.001)
    values = np.full((1, 100, 2), 0.55) + wave[None, :, None]
    drawn = BootstrapFigures(
        values={name: values.astype(np.float32) for name in WITH_INTERVALS},
        estimates={name: np.full((1, 2), 0.5) for name in WITH_INTERVALS},
        boxes={name: np.full((1, 2), 20.0) for name in WITH_INTERVALS},
        images={name: np.full((1, 2), 1e6) for name in WITH_INTERVALS},
    )
    for name, middle, bounded in (
        ("AP", 0.4, False),
        ("AP50", 0.4, True),
        ("AR", 0.45, False),
        ("recall", 0.45, True),
        ("precision", 0.45, True),
    ):
        low, high = (ends[1] for ends in drawn.interval(name))
        if bounded:
            assert (low, high) == pytest.approx(wilson_interval(20 * middle, 20), abs=1e-6)
        else:
            assert low == pytest.approx(middle, abs=0.005)
            assert high == 0.5


def test_runs_on_other_boxes_of_the_same_images_are_refused() -> None:
    truth, found = make_scene(1)
    fewer = {**truth, "annotations": truth["annotations"][1:]}
    with pytest.raises(ValueError, match="Expected the same images and boxes"):
        bootstrap([matched(truth, found), matched(fewer, found)])
