"""Scores rebalanced by class frequency: equal to recorded ones, order kept, strength held out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration_sets import make_set
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_scene, training_file

from detbalance.calibration import choose_strength, fit_thresholds, norcal, rescore
from detbalance.calibration import rescoring as strength
from detbalance.calibration.cross_fitting import image_folds
from detbalance.data import Annotations, Predictions
from detbalance.data.frequency import Frequency, class_frequency
from detbalance.evaluation.average_precision import average_precision, fixed_ap, recall
from detbalance.evaluation.filters import within_cap
from detbalance.evaluation.matching import match
from detbalance.evaluation.operating_points import recall_at_precision
from detbalance.evaluation.rules import Rules

COUNTS = np.array([0, 20000, 7, 1, 450, 0])


def logits(rows: int = 12, scale: float = 3.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (rows, len(COUNTS)))


def one_each(scores: object, labels: object) -> Predictions:
    scores = np.asarray(scores, dtype=np.float64)
    return Predictions(np.zeros(len(scores)), labels, np.zeros((len(scores), 4)), scores)


# ---- softmax forms -------------------------------------------------------------------------------


def background_first(values: np.ndarray) -> np.ndarray:
    return np.roll(values.astype(np.float64), 1, axis=1)


def test_norcal_equals_the_recorded_scores(shared: Path) -> None:
    z = np.load(shared / "golden/norcal.npz")
    cases = json.loads(str(z["meta"]))["hyper"]
    counts = np.r_[0, z["image_counts"]]
    assert len(cases) == 8
    for name, case in cases.items():
        scores = norcal(
            background_first(z["logits"]),
            counts,
            gamma=case["gamma"],
            weights="effective_number" if case["method"] == "cb" else "power",
            on="logits" if case["on"] == "logits" else "probabilities",
            normalized=case["renorm"],
        )
        if case["on"] == "exps" and not case["renorm"]:
            # Exponentials as they are: probabilities times their sum.
            scores *= np.exp(background_first(z["logits"])).sum(axis=1, keepdims=True)
        expected = background_first(z[f"{name}__scores_f64"])
        np.testing.assert_allclose(scores, expected, rtol=1e-12, err_msg=name)


def test_norcal_is_finite_where_the_recorded_one_overflows(shared: Path) -> None:
    z = np.load(shared / "golden/norcal.npz")
    counts = np.r_[0, z["image_counts"]]
    assert np.isnan(z["extreme__scores_f32"]).any()
    expected = background_first(z["extreme__scores_f64"])
    for precision in (np.float64, np.float32):
        values = background_first(z["extreme__logits"]).astype(precision)
        np.testing.assert_allclose(norcal(values, counts, gamma=0.5), expected, rtol=1e-12)


def plain_norcal(values: np.ndarray, gamma: float) -> np.ndarray:
    """The formula of the paper, one entry after the other."""
    result = np.empty_like(values)
    for i, row in enumerate(values):
        exponentials = [np.exp(x) for x in row]
        divided = [exponentials[0]]
        divided += [e / max(n, 1) ** gamma for e, n in zip(exponentials[1:], COUNTS[1:])]  # noqa: B905
        result[i] = [d / sum(divided) for d in divided]
    return result


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.6, 1.0, 2.0])
def test_norcal_is_the_formula_of_the_paper(gamma: float) -> None:
    values = logits()
    scores = norcal(values, COUNTS, gamma=gamma)
    np.testing.assert_allclose(scores, plain_norcal(values, gamma), rtol=1e-12)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    # Of probabilities the logarithm goes in.
    softmax = norcal(values, COUNTS, gamma=0)
    np.testing.assert_allclose(norcal(np.log(softmax), COUNTS, gamma=gamma), scores, rtol=1e-10)


def test_large_logits_do_not_overflow_and_inputs_stay_as_they_are() -> None:
    values = logits() + 1e4
    before, counts = values.copy(), COUNTS.copy()
    for scores in (
        norcal(values, COUNTS, gamma=0.5),
        norcal(values, COUNTS, gamma=0.5, on="logits"),
        norcal(values, COUNTS, gamma=0.99, weights="effective_number"),
    ):
        assert np.isfinite(scores).all()
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(COUNTS, counts)
    single = values.astype(np.float32)
    np.testing.assert_allclose(
        norcal(single, COUNTS, gamma=0.5),
        norcal(single.astype(np.float64) - 1e4, COUNTS, gamma=0.5),
        rtol=1e-9,
    )


def test_background_is_not_rebalanced() -> None:
    values = logits()
    softmax = norcal(values, COUNTS, gamma=0)
    divided = norcal(values, COUNTS, gamma=0.7, normalized=False)
    np.testing.assert_allclose(divided[:, 0], softmax[:, 0], rtol=1e-14)
    # Its odds against a class move by that class's count alone.
    moved = norcal(values, COUNTS, gamma=0.7)
    gain = (moved[:, 1] / moved[:, 0]) / (softmax[:, 1] / softmax[:, 0])
    np.testing.assert_allclose(gain, 20000**-0.7)


def test_a_class_without_images_counts_as_one_with_one() -> None:
    one = np.where(COUNTS == 0, 1, COUNTS)
    np.testing.assert_array_equal(
        norcal(logits(), COUNTS, gamma=0.6), norcal(logits(), one, gamma=0.6)
    )
    scores = one_each([0.2, 0.2], [3, 5])
    np.testing.assert_array_equal(*rescore(scores, COUNTS, gamma=0.6).scores[:, None])


# ---- single scores -------------------------------------------------------------------------------


def test_single_scores_are_norcal_of_a_class_and_background() -> None:
    # Softmax of (background, class) is the sigmoid of their difference. All classes are off by one
    # number: that n_max stands for background.
    scores = np.array([0.001, 0.2, 0.5, 0.9])
    for gamma in (0.2, 0.6, 1.0):
        for label in range(1, len(COUNTS)):
            pair = np.stack([np.log1p(-scores), np.log(scores)], axis=1)
            two = norcal(pair, [0, COUNTS[label]], gamma=gamma)[:, 1]
            ours = rescore(one_each(scores, np.full(4, label)), COUNTS, gamma=gamma).scores
            distance = np.log(ours / (1 - ours)) - np.log(two / (1 - two))
            np.testing.assert_allclose(distance, gamma * np.log(20000))


def test_the_formula_and_its_ends() -> None:
    scores = [0.0, 0.1, 0.5, 1.0]
    for label, count in ((1, 20000), (2, 7), (3, 1)):
        new = rescore(one_each(scores, [label] * 4), COUNTS, gamma=0.5).scores
        logit = np.log(np.array(scores[1:3]) / (1 - np.array(scores[1:3])))
        expected = 1 / (1 + np.exp(-(logit - 0.5 * np.log(count / 20000))))
        np.testing.assert_allclose(new, [0, *expected, 1])
    every = one_each(np.linspace(0, 1, 50), np.arange(50) % 5 + 1)
    assert rescore(every, COUNTS, gamma=0) is every
    np.testing.assert_array_equal(
        rescore(every, [0, 9, 9, 9, 9, 9], gamma=0.8).scores, every.scores
    )
    most = every.labels == 1
    np.testing.assert_array_equal(
        rescore(every, COUNTS, gamma=0.8).scores[most], every.scores[most]
    )


SCORES = st.one_of(
    st.floats(0, 1),
    st.integers(0, 60).map(lambda i: 1 - i * 2.0**-53),  # neighbours, next to 1
    st.integers(0, 60).map(lambda i: i * 5e-324),
    st.integers(0, 9).map(lambda i: 0.3 + i * 2.0**-54),
)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(SCORES, st.integers(1, 5)), max_size=60),
    gamma=st.sampled_from([0.1, 0.5, 1.0, 5.0]),
)
def test_the_order_within_a_class_is_kept_to_the_last_bit(
    rows: list[tuple[float, int]], gamma: float
) -> None:
    before = one_each([score for score, _ in rows], [label for _, label in rows])
    after = rescore(before, COUNTS, gamma=gamma).scores
    assert ((after >= 0) & (after <= 1) & (after >= before.scores)).all()
    for label in range(1, 6):
        old, new = before.scores[before.labels == label], after[before.labels == label]
        np.testing.assert_array_equal(
            np.sign(old[:, None] - old), np.sign(new[:, None] - new), err_msg=str(label)
        )


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), gamma=st.sampled_from([0.3, 1.0]))
def test_figures_within_a_class_do_not_change(seed: int, gamma: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        annotations, predictions = load(Path(folder), *make_scene(seed, crowded=seed % 5 == 0))
    counts = [0, *range(1, 1000, 170)][: annotations.categories.num_classes]
    before = match(annotations, predictions)
    after = match(annotations, rescore(predictions, counts, gamma=gamma))
    np.testing.assert_array_equal(before.annotation, after.annotation)
    for figure in (average_precision, recall, fixed_ap, lambda m: recall_at_precision(m, 0.5)[0]):
        np.testing.assert_array_equal(figure(before), figure(after))


def test_a_cap_over_all_classes_keeps_others(tmp_path: Path) -> None:
    _, predictions = make_set(tmp_path, [300, 10], images=3, shifts=[2, -2])
    rules = Rules("lvis", max_detections=40)
    before, after = (
        np.bincount(each.labels[within_cap(each, rules)], minlength=3)
        for each in (predictions, rescore(predictions, [0, 1000, 1], gamma=1.0))
    )
    assert after[2] > before[2]
    assert after.sum() == before.sum()


# ---- strength ------------------------------------------------------------------------------------


def trained_on(folder: Path, images: list[int]) -> Frequency:
    counts = {f"c{i}": number for i, number in enumerate(images, start=1)}
    return class_frequency(training_file(folder, counts))


IMAGES = [600, 120, 30, 8, 2]


def held_down(folder: Path, gamma: float, seed: int = 0) -> tuple[Annotations, Predictions]:
    """Scores that hold the class frequencies to the power gamma."""
    shifts = (gamma * np.log(np.array(IMAGES) / 600)).tolist()
    return make_set(folder, [120, 80, 60, 40, 40], shifts=shifts, seed=seed)


@pytest.mark.parametrize("gamma", [0.4, 0.8])
def test_the_strength_that_scores_were_held_down_by_is_found(tmp_path: Path, gamma: float) -> None:
    choice = choose_strength(*held_down(tmp_path, gamma), trained_on(tmp_path, IMAGES))
    assert choice.gamma == pytest.approx(gamma, abs=0.21)
    assert choice.gain > choice.standard_error > 0
    assert f"Scores are rebalanced with gamma {choice.gamma:g}" in choice.verdict
    np.testing.assert_array_equal(choice.class_counts, [0, *IMAGES])
    assert [row.train_images for row in choice.classes] == sorted(IMAGES)
    rarest = choice.classes[0]
    assert rarest.after.f_score > rarest.before.f_score + 0.1
    assert rarest.half == pytest.approx(
        rescore(one_each([0.5], [5]), choice.class_counts, gamma=choice.best_gamma).scores[0]
    )
    assert choice.utility[choice.best_gamma] == max(choice.utility.values())
    assert choice.held_out["after"].utility - choice.held_out["before"].utility == choice.gain


def test_where_it_does_not_help_scores_stay(tmp_path: Path) -> None:
    choice = choose_strength(*held_down(tmp_path, 0.0), trained_on(tmp_path, IMAGES))
    assert choice.gamma == 0
    assert "No clear gain on held-out images by rebalanced scores" in choice.verdict
    assert "Scores stay as they are: gamma is 0" in choice.verdict
    assert choice.utility[0.0] > choice.utility[1.0]


def test_a_fold_has_no_say_in_its_own_strength(tmp_path: Path) -> None:
    annotations, predictions = held_down(tmp_path, 0.5)
    frequency = trained_on(tmp_path, IMAGES)
    folds = image_folds(annotations, 5, 0)[predictions.image_index]
    chosen = []

    def spy(trials: object, objective: object) -> object:
        chosen.append(real(trials, objective))
        return chosen[-1]

    real = strength.choose
    scores = predictions.scores.copy()
    right = match(annotations, predictions).is_true_positive[:, 0]
    scores[(folds == 1) & right] = scores[right].min()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strength, "choose", spy)
        for each in (predictions, replace(predictions, scores=scores)):
            choose_strength(annotations, each, frequency, num_folds=5)
    before, after = chosen
    assert before.of_fold[1] == after.of_fold[1]


def test_a_gain_counts_from_one_standard_error_on(tmp_path: Path) -> None:
    doubtful = 0
    for seed in range(10):
        choice = choose_strength(
            *held_down(tmp_path, 0.1, seed), trained_on(tmp_path, IMAGES), strengths=(0.0, 0.1, 0.2)
        )
        clear = choice.best_gamma > 0 and choice.gain > choice.standard_error
        assert choice.gamma == (choice.best_gamma if clear else 0)
        doubtful += choice.best_gamma > 0 and not clear
    assert doubtful


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_each_strength_is_worth_what_its_scores_are(tmp_path: Path, rules: str) -> None:
    held_down(tmp_path, 0.6)
    truth = json.loads((tmp_path / "val.json").read_text())
    found = json.loads((tmp_path / "results.json").read_text())
    if rules == "lvis":
        for image in truth["images"]:
            image |= {"neg_category_ids": [1, 2, 3, 4, 5], "not_exhaustive_category_ids": []}
            # So many of the most frequent class that the cap of 300 leaves out rare ones.
            wrong = {"image_id": image["id"], "category_id": 1, "bbox": [1900, 1900, 5, 5]}
            found += [{**wrong, "score": 0.02 + i / 10_000} for i in range(295)]
    annotations, predictions = load(tmp_path, truth, found)
    frequency = trained_on(tmp_path, IMAGES)
    choice = choose_strength(annotations, predictions, frequency, strengths=(0.0, 0.5, 1.0))
    assert choice.settings.rules == rules
    for gamma, utility in choice.utility.items():
        rescored = rescore(predictions, choice.class_counts, gamma=gamma)
        assert fit_thresholds(annotations, rescored).held_out["shared"].utility == utility
    capped = any("the cap of detections per image" in note for note in choice.notes)
    assert capped == (rules == "lvis")


def test_notes_on_unseen_classes_and_on_the_end_of_the_grid(tmp_path: Path) -> None:
    choice = choose_strength(
        *held_down(tmp_path, 1.0),
        trained_on(tmp_path, [600, 120, 30, 8]),
        strengths=(0.0, 0.2),
    )
    assert any("1 class without training images" in n and "c5" in n for n in choice.notes)
    assert any("0.2, is the highest that was tried" in note for note in choice.notes)
    assert any("AP and AR of a class do not change" in note for note in choice.notes)


# ---- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norcal(logits(), [0, 5, 5]), r"logits are \[12, 6\]\. Expected \[regions, 3\]"),
        (
            lambda: norcal(logits(), COUNTS, gamma=-1),
            r"norcal\(\): gamma is -1\. Expected a",
        ),
        (
            lambda: norcal(logits(), COUNTS, gamma=1.0, weights="effective_number"),
            r"gamma is 1\.0\. Expected a number >= 0 and < 1\. .* Pass for example 0\.99",
        ),
        (
            lambda: norcal(logits(), COUNTS, weights="x"),
            r'weights is "x"\. Known: power, effective_number',
        ),
        (lambda: norcal(logits(), COUNTS, on="x"), r'on is "x"\. Known: probabilities, logits'),
        (
            lambda: norcal(np.zeros((1, 2)), [0, -1]),
            r"class_counts is \[ 0\. -1\.\]\. Expected",
        ),
        (
            lambda: rescore(one_each([0.5, 1.5], [1, 1]), COUNTS, gamma=0.5),
            r"1 of 2 detections have a score outside 0\.\.1 \(first: detection 1",
        ),
        (
            lambda: rescore(one_each([np.nan], [1]), COUNTS, gamma=0.5),
            "1 of 1 detection has a score outside",
        ),
        (
            lambda: rescore(one_each([0.5], [6]), COUNTS, gamma=0.5),
            r"label 6 has no count\.",
        ),
    ],
)
def test_wrong_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("strengths", [(0.5, 1.0), (0.0,), (0.0, 1.0, 0.5)])
def test_strengths_ascend_from_0(tmp_path: Path, strengths: tuple[float, ...]) -> None:
    data, frequency = held_down(tmp_path, 0.0), trained_on(tmp_path, IMAGES)
    with pytest.raises(ValueError, match="ascending from 0"):
        choose_strength(*data, frequency, strengths=strengths)
