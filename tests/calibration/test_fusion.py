"""Fusion of several detectors: equal to plain loops and recorded values, and what it must keep."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.calibration import FUSIONS, Options, fuse, fusion
from detbalance.data import Predictions

CLASSES = 3
SEEDS = st.integers(0, 10_000)
METHODS = sorted(FUSIONS)
CONFIDENCES = ("box_and_model_avg", "avg", "max", "absent_model_aware_avg")
WBF_CASE = re.compile(
    r"(\w+?)__(" + "|".join(CONFIDENCES) + r")_(n?w)_iou(.+)_skip(.+)_ov(\d)__out"
)
NMS_CASE = re.compile(r"(\w+?)__(nms|linear|gauss)_(iou|s)([\d.]+?)(?:_cut([\d.]+))?__out")


def make_members(
    seed: int, number: int = 3, *, images: int = 2, most: int = 25
) -> list[Predictions]:
    """Boxes around a few places of each image, with coarse scores that tie, some of them 0."""
    rng = np.random.default_rng(seed)
    members = []
    for _ in range(number):
        count = int(rng.integers(0, most))
        bbox = np.c_[rng.integers(0, 2, (count, 2)) * 60.0, np.full((count, 2), 50.0)]
        bbox += rng.uniform(-15, 15, bbox.shape)
        scores = rng.integers(0, 9, count) / 8
        labels = rng.integers(1, CLASSES + 1, count)
        members.append(Predictions(rng.integers(0, images, count), labels, bbox, scores))
    return members


def columns(predictions: Predictions) -> np.ndarray:
    return np.c_[predictions.image_index, predictions.labels, predictions.scores, predictions.bbox]


def same(one: Predictions, other: Predictions, *, tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(columns(one), columns(other), rtol=0, atol=tolerance)


# ---- the same in plain loops ---------------------------------------------------------------------


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def twin(
    members: Sequence[Predictions], method: str, weights: np.ndarray, options: Options
) -> list[list[float]]:
    """Rows of image, label, score, x, y, w, h, group by group and box by box."""
    rows = []
    for image in range(10):
        for label in range(1, CLASSES + 1):
            own = weights[:, label]
            if not own.any():
                continue
            found = [
                (s * own[m] / own.max(), own[m] / own.max(), m, (x, y, x + w, y + h))
                for m, member in enumerate(members)
                for i, c, (x, y, w, h), s in zip(
                    member.image_index,
                    member.labels,
                    member.bbox.tolist(),
                    member.scores,
                    strict=True,
                )
                if i == image and c == label and s >= options.score_threshold and own[m] > 0
            ]
            # The production code breaks ties by x, y, w, h.
            found.sort(
                key=lambda f: (-f[0], f[3][0], f[3][1], f[3][2] - f[3][0], f[3][3] - f[3][1])
            )
            one_group = {"wbf": twin_wbf, "nms": twin_nms}.get(method, twin_soft)
            for score, (x1, y1, x2, y2) in one_group(found, own / own.max(), method, options):
                rows.append([image, label, score, x1, y1, x2 - x1, y2 - y1])
    return sorted((r for r in rows if r[2] >= options.min_fused_score), key=lambda r: (r[0], -r[2]))


def twin_nms(found, own, method, options):
    kept = []
    for f in found:
        if all(iou(f[3], k[3]) <= options.iou_threshold for k in kept):
            kept.append(f)
    return [(f[0], f[3]) for f in kept]


def twin_soft(found, own, method, options):
    waiting, done = [[f[0], f[3]] for f in found], []
    while waiting:
        best = waiting.pop(int(np.argmax([w[0] for w in waiting])))
        done.append(tuple(best))
        for other in waiting:
            overlap = iou(best[1], other[1])
            if method == "soft_nms":
                other[0] *= float(np.exp(-(overlap**2) / options.sigma))
            elif overlap > options.iou_threshold:
                other[0] *= 1 - overlap
    return done


def mean_box(boxes, weights):
    if sum(weights) == 0:
        return boxes[0]
    return tuple(np.average(boxes, axis=0, weights=weights))


def twin_wbf(found, own, method, options):
    clusters: list[list] = []
    for f in found:
        overlaps = [iou(f[3], mean_box([g[3] for g in c], [g[0] for g in c])) for c in clusters]
        if overlaps and max(overlaps) > options.iou_threshold:
            clusters[int(np.argmax(overlaps))].append(f)
        else:
            clusters.append([f])
    result = []
    for cluster in clusters:
        summed, weight = sum(f[0] for f in cluster), sum(f[1] for f in cluster)
        present = sum(own[m] for m in {f[2] for f in cluster})
        score = {
            "box_and_model_avg": summed / weight * present / own.sum(),
            "avg": summed / len(cluster) * min((own > 0).sum(), len(cluster)) / own.sum(),
            "max": max(f[0] for f in cluster),
            "absent_model_aware_avg": summed / (weight + own.sum() - present),
        }[options.confidence]
        box = mean_box([f[3] for f in cluster], [f[0] for f in cluster])
        result.append((min(score, 1.0), box))
    return result


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=12)
@given(seed=SEEDS)
def test_every_method_equals_plain_loops(method: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = make_members(seed, int(rng.integers(1, 4)))
    weights = rng.choice([0.0, 0.3, 1.0, 2.0], (len(members), CLASSES + 1))
    weights[0, 0] = 1.0
    options = Options(
        iou_threshold=float(rng.choice([0.3, 0.55, 0.7])),
        confidence=CONFIDENCES[seed % 4],
        sigma=float(rng.uniform(0.1, 1)),
        score_threshold=float(rng.choice([0.0, 0.3])),
        min_fused_score=float(rng.choice([0.0, 0.05])),
    )
    fused = columns(fuse(members, method, weights=weights, options=options))
    expected = np.array(twin(members, method, weights, options)).reshape(-1, 7)
    assert len(fused) == len(expected)
    for rows in (fused, expected):
        # Scores that are equal on paper may differ in the last bit; boxes then decide the order.
        rows[:] = rows[np.lexsort((*rows[:, 3:].T.round(6), rows[:, 2].round(9), *rows[:, :2].T))]
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_how_groups_are_laid_out_changes_nothing(method: str, monkeypatch) -> None:
    members = make_members(3, images=40, most=400)
    whole = fuse(members, method)
    monkeypatch.setattr(fusion, "_BATCH", 7)
    same(whole, fuse(members, method))


# ---- recorded values -----------------------------------------------------------------------------


def recorded(shared: Path, name: str) -> tuple[dict, dict]:
    z = np.load(shared / "golden" / name)
    return z, json.loads(str(z["meta"]))["hyper"]["weights"]


def recorded_members(z: dict, case: str) -> list[Predictions]:
    boxes = z[f"{case}__boxes"].clip(0, 1)
    labels, scores = z[f"{case}__labels"] + 1, z[f"{case}__scores"]
    ends = np.cumsum(z[f"{case}__lens"])
    return [
        Predictions(
            np.zeros(stop - start),
            labels[start:stop],
            np.c_[boxes[start:stop, :2], boxes[start:stop, 2:] - boxes[start:stop, :2]],
            scores[start:stop],
        )
        for start, stop in zip([0, *ends[:-1]], ends, strict=True)
    ]


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows[:, [5, 0, 1, 2, 3]].round(5).T)]


def as_recorded(fused: Predictions, scale: float = 1.0) -> np.ndarray:
    corners = np.c_[fused.bbox[:, :2], fused.bbox[:, :2] + fused.bbox[:, 2:]]
    return in_order(np.c_[corners, fused.scores * scale, fused.labels - 1])


def test_weighted_boxes_fusion_equals_the_recorded_one(shared: Path) -> None:
    z, weights = recorded(shared, "wbf.npz")
    cases = [found for key in z.files if (found := WBF_CASE.fullmatch(key))]
    assert len(cases) == 80
    for found in cases:
        case, confidence, weighted, threshold, skip, _ = found.groups()
        options = Options(
            iou_threshold=float(threshold), confidence=confidence, score_threshold=float(skip)
        )
        own = weights[case] if weighted == "w" else None
        fused = fuse(recorded_members(z, case), weights=own, options=options)
        # Merged boxes and scores are float32 there.
        np.testing.assert_allclose(
            as_recorded(fused), in_order(z[found[0]]), rtol=0, atol=2e-7, err_msg=found[0]
        )


def test_nms_and_soft_nms_equal_the_recorded_ones(shared: Path) -> None:
    z, _ = recorded(shared, "soft_nms.npz")
    methods = {"nms": "nms", "gauss": "soft_nms"}  # not the linear one
    every = [found for key in z.files if (found := NMS_CASE.fullmatch(key))]
    cases = [found for found in every if found[2] in methods]
    assert len(every) == 25
    assert len(cases) > 10
    for found in cases:
        case, method, _, value, cut = found.groups()
        floor = 0.0 if method == "nms" else float(cut or 0.001)
        options = Options(
            min_fused_score=floor,
            **{"sigma" if method == "gauss" else "iou_threshold": float(value)},
        )
        fused = fuse(recorded_members(z, case), methods[method], options=options)
        expected = in_order(z[found[0]])
        if case == "ties":  # which of equal scores goes first is left to chance there
            assert len(expected) == fused.num_predictions
            continue
        # The recorded output has the scores from before; the lowered ones are recorded by label.
        columns_kept = [0, 1, 2, 3, 4, 5] if method == "nms" else [0, 1, 2, 3, 5]
        np.testing.assert_allclose(
            as_recorded(fused)[:, columns_kept], expected[:, columns_kept], rtol=0, atol=1e-12
        )
        for label in range(0 if method == "nms" else 3):
            key = f"{found[0].removesuffix('out')}label{label}_decayed_scores"
            lowered = z[key] if key in z else np.empty(0)
            own = np.sort(fused.scores[fused.labels == label + 1])
            np.testing.assert_allclose(own, np.sort(lowered[lowered > floor]), rtol=1e-12)


# ---- what must hold ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8)
@given(seed=SEEDS)
def test_neither_order_of_members_nor_of_detections_matters(method: str, seed: int) -> None:
    members = make_members(seed, 4)
    rng = np.random.default_rng(seed)
    fused = fuse(members, method)
    mixed = [m.take(rng.permutation(m.num_predictions)) for m in members]
    mixed = [mixed[i] for i in rng.permutation(len(mixed))]
    same(fused, fuse(mixed, method))
    same(fused, fuse(members, method))
    same(fused, fuse(members, method, weights=[2.0] * 4))


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6)
@given(seed=SEEDS)
def test_scores_stay_in_range_and_come_sorted(method: str, confidence: str, seed: int) -> None:
    members = make_members(seed)
    weights = np.random.default_rng(seed).uniform(0, 5, (3, CLASSES + 1))
    fused = fuse(members, method, weights=weights, options=Options(confidence=confidence))
    assert ((fused.scores >= 0) & (fused.scores <= 1)).all()
    assert fused.num_predictions <= sum(m.num_predictions for m in members)
    order = np.lexsort((-fused.scores, fused.image_index))
    np.testing.assert_array_equal(order, np.arange(fused.num_predictions))


@settings(max_examples=8)
@given(seed=SEEDS)
def test_fused_boxes_lie_within_the_boxes_that_they_are_of(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = []
    for _ in range(3):  # objects far from each other, so that it is known what is fused with what
        place = rng.integers(0, 4, 12)
        bbox = np.c_[place * 500.0, np.zeros(12), np.full((12, 2), 100.0)]
        bbox += rng.uniform(-40, 40, bbox.shape)
        members.append(Predictions(np.zeros(12), np.ones(12), bbox, rng.random(12)))
    every = np.concatenate([m.bbox for m in members])
    corners = np.c_[every[:, :2], every[:, :2] + every[:, 2:]]
    fused = fuse(members, "wbf", weights=rng.uniform(0.1, 1, 3))
    for x, y, w, h in fused.bbox:
        near = corners[np.abs(corners[:, 0] - x) < 200]
        inside = np.array([x, y, x + w, y + h])
        assert (inside >= near.min(axis=0) - 1e-9).all()
        assert (inside <= near.max(axis=0) + 1e-9).all()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8)
@given(seed=SEEDS)
def test_a_member_of_weight_0_is_left_out(method: str, seed: int) -> None:
    members = make_members(seed)
    same(fuse(members, method, weights=[1, 0, 2]), fuse(members[::2], method, weights=[1, 2]))
    # For one class only: the others are as with equal weights.
    weights = np.ones((3, CLASSES + 1))
    weights[1, 2] = 0
    fused = fuse(members, method, weights=weights)
    without = [m.take(m.labels == 2) for m in members[::2]]
    same(fused.take(fused.labels == 2), fuse(without, method))
    others = [m.take(m.labels != 2) for m in members]
    same(fused.take(fused.labels != 2), fuse(others, method))


@pytest.mark.parametrize("method", ["wbf", "nms"])
@settings(max_examples=8)
@given(seed=SEEDS)
def test_a_member_given_twice_is_as_one(method: str, seed: int) -> None:
    (member,) = make_members(seed, 1)
    once, twice = fuse([member], method), fuse([member, member], method)
    same(once, twice, tolerance=1e-9)


def test_a_member_that_found_nothing_has_its_say() -> None:
    member, nothing = make_members(1, 1)[0], Predictions([], [], [], [])
    for method in ("nms", "soft_nms"):
        same(fuse([member, nothing], method), fuse([member], method))
    alone, beside = fuse([member]), fuse([member, nothing])
    same(dataclasses.replace(alone, scores=alone.scores / 2), beside)
    for method in METHODS:
        assert fuse([nothing, nothing], method).num_predictions == 0


def test_what_is_not_merged_keeps_its_box_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    bbox = np.c_[np.arange(50) * 100 + rng.random(50), rng.random(50), rng.uniform(3, 60, (50, 2))]
    member = Predictions(np.zeros(50), np.ones(50), bbox, np.linspace(1, 0.1, 50) ** 2)
    for method in METHODS:
        same(fuse([member], method), member)
        # Neither do equal boxes of several members change when they become one.
        if method in ("wbf", "nms"):
            three = [dataclasses.replace(member, scores=member.scores * s) for s in (1, 0.7, 0.3)]
            np.testing.assert_allclose(fuse(three, method).bbox, member.bbox, rtol=0, atol=2e-12)


def test_soft_nms_gives_the_lowered_scores() -> None:
    two = Predictions([0, 0], [1, 1], [[0, 0, 10, 10], [0, 0, 10, 5]], [0.8, 0.6])
    half = Options(iou_threshold=0.4, sigma=0.5)
    assert fuse([two], "soft_nms", options=half).scores[1] == 0.6 * np.exp(-0.5)


def test_floors_caps_and_boxes_without_area() -> None:
    member = Predictions(
        [0, 0, 0, 1, 1],
        [1, 2, 1, 1, 1],
        [[0, 0, 9, 9], [0, 0, 9, 9], [50, 0, 9, 9], [0, 0, 0, 9], [0, 0, 9, 9]],
        [0.9, 0.5, 0.2, 0.9, 0.4],
    )
    for method in METHODS:
        assert fuse([member], method).scores.tolist() == [0.9, 0.5, 0.2, 0.4]
        one = fuse([member], method, options=Options(max_detections=1))
        assert one.scores.tolist() == [0.9, 0.4]
        assert fuse([member], method, options=Options(min_fused_score=0.4)).num_predictions == 3
        assert fuse([member], method, options=Options(score_threshold=0.5)).num_predictions == 2
    halved = fuse([member, Predictions([], [], [], [])], options=Options(min_fused_score=0.25))
    assert halved.scores.tolist() == [0.45, 0.25]


def test_a_heavy_member_with_two_boxes_does_not_lift_a_score_above_1() -> None:
    heavy = Predictions([0, 0], [1, 1], [[0, 0, 10, 10], [0, 0, 10, 10.5]], [1.0, 1.0])
    light = Predictions([], [], [], [])
    avg = fuse([heavy, light], weights=[3, 1], options=Options(confidence="avg"))
    assert avg.scores.tolist() == [1.0]  # 3 * 2 / 4 by the formula
    assert fuse([heavy, light], weights=[3, 1]).scores.tolist() == [0.75]


def test_wrong_input_is_refused() -> None:
    members = make_members(0)
    with pytest.raises(ValueError, match=r'method is "wfb"\. Known: wbf, nms'):
        fuse(members, "wfb")
    with pytest.raises(ValueError, match="there is no member"):
        fuse([])
    with pytest.raises(ValueError, match=r"weights are \[2\] for 3 members\. Expected \[3\], or"):
        fuse(members, weights=[1, 1])
    with pytest.raises(ValueError, match=r"weights are \[3, 2\] for 3 members"):
        fuse(members, weights=np.ones((3, 2)))
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="1 weights are negative or not finite"):
            fuse(members, weights=[1, wrong, 1])
    with pytest.raises(ValueError, match="all weights are 0"):
        fuse(members, weights=[0, 0, 0])
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"member 1: 1 of 1 detection has a score outside"):
            fuse([members[0], Predictions([0], [1], [[0, 0, 9, 9]], [wrong])])
    for name, value in (
        ("iou_threshold", 1.0),
        ("sigma", 0.0),
        ("score_threshold", -1.0),
        ("min_fused_score", 2.0),
        ("max_detections", 0),
    ):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Options(**{name: value})
    with pytest.raises(ValueError, match=r'confidence is "mean"\. Known: box_and_model_avg'):
        Options(confidence="mean")  # type: ignore[arg-type]
