"""Kinds of errors and confused classes: each box and detection counts once, by the rules."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from coco_oracle import evaluator_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matching_twin import iou as overlap
from scenes import load, make_scene

from detbalance.evaluation.average_precision import average_precision, fixed_ap
from detbalance.evaluation.errors import confusion, error_kinds
from detbalance.evaluation.matching import Matches, Overlaps, match, overlaps
from detbalance.evaluation.operating_points import at_score
from detbalance.evaluation.report import ERROR_KINDS
from detbalance.evaluation.rules import LVIS, Rules

SEEDS = st.integers(0, 10_000)
TIDE = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def matched(seed: int, *, crowds: bool = True, ties: bool = True) -> tuple[Matches, Overlaps]:
    truth, found = make_scene(seed)
    if not ties:
        for number, detection in enumerate(found):
            detection["score"] += number * 1e-4
    if not crowds:
        for annotation in truth["annotations"]:
            annotation["iscrowd"] = 0
    with tempfile.TemporaryDirectory() as folder:
        annotations, predictions = load(Path(folder), truth, found)
    pairs = overlaps(annotations, predictions)
    return match(annotations, predictions, pairs=pairs), pairs


def twin_kind(matches: Matches, row: int, t: int, iou: float) -> str:
    """The kind of one false positive, from all boxes of its image."""
    annotations, predictions = matches.annotations, matches.predictions
    own, other = 0.0, 0.0
    for a in range(annotations.num_annotations):
        same_image = annotations.image_index[a] == predictions.image_index[row]
        if same_image and matches.positive[a]:
            value = overlap(predictions.bbox[row].tolist(), annotations.bbox[a].tolist(), False)
            if annotations.labels[a] == predictions.labels[row]:
                own = max(own, value)
            else:
                other = max(other, value)
    if 0.1 <= own < iou:
        return "localisation"
    if other >= iou:
        return "classification"
    if own >= iou:
        return "duplicate"
    return "background" if max(own, other) < 0.1 else "both"


def nearest_box(matches: Matches, row: int, *, same_class: bool) -> int:
    """The box of its image that a detection overlaps most, of its own or of another class."""
    annotations, predictions = matches.annotations, matches.predictions
    label = predictions.labels[row]
    rows = [
        a
        for a in range(annotations.num_annotations)
        if annotations.image_index[a] == predictions.image_index[row]
        and matches.positive[a]
        and (annotations.labels[a] == label) == same_class
    ]
    box = predictions.bbox[row].tolist()
    return max(rows, key=lambda a: overlap(box, annotations.bbox[a].tolist(), False))


@settings(max_examples=20)
@given(seed=SEEDS, iou=st.sampled_from([0.5, 0.75]))
def test_every_false_positive_has_the_kind_of_the_rules(seed: int, iou: float) -> None:
    matches, pairs = matched(seed)
    t = matches.at(iou)
    kinds = error_kinds(matches, pairs, iou=iou, score_threshold=0.5)
    assert tuple(kinds) == ERROR_KINDS
    size = len(matches.num_positive)
    expected = {kind: np.zeros((2, size), int) for kind in ERROR_KINDS}
    for row in np.flatnonzero(matches.is_false_positive[:, t]).tolist():
        kind, label = twin_kind(matches, row, t, iou), matches.predictions.labels[row]
        expected[kind][0, label] += 1
        expected[kind][1, label] += matches.predictions.scores[row] >= 0.5
    for kind in ERROR_KINDS[:-1]:
        np.testing.assert_array_equal(kinds[kind].count, expected[kind][0], err_msg=kind)
        np.testing.assert_array_equal(kinds[kind].shown, expected[kind][1], err_msg=kind)
    counts = at_score(matches, 0.5, iou=iou)
    missed = counts.num_positive - counts.true_positives
    np.testing.assert_array_equal(kinds["missed"].shown, missed)
    assert (kinds["missed"].count <= matches.num_positive).all()


@pytest.mark.parametrize(
    ("category", "height", "kind"),
    [
        (0, 10, "duplicate"),  # half of the box is enough
        (0, 9.99, "localisation"),
        (0, 2, "localisation"),  # and a tenth is near
        (0, 1.99, "background"),
        (1, 10, "classification"),
        (1, 9.99, "both"),
        (1, 2, "both"),
        (1, 1.99, "background"),
    ],
)
def test_an_overlap_of_exactly_a_limit_reaches_it(
    tmp_path: Path, category: int, height: float, kind: str
) -> None:
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 99, "height": 99}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("cat", "owl"))],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 20, 20]}],
    }
    found = [
        {"image_id": 1, "category_id": 0, "bbox": [0, 0, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": category, "bbox": [0, 0, 20, height], "score": 0.8},
    ]
    annotations, predictions = load(tmp_path, truth, found)
    pairs = overlaps(annotations, predictions)
    kinds = error_kinds(match(annotations, predictions, pairs=pairs), pairs)
    assert [name for name, errors in kinds.items() if errors.shown.any()] == [kind]


@settings(max_examples=25)
@given(seed=SEEDS)
def test_counts_and_costs_are_those_of_another_implementation_of_tide(seed: int) -> None:
    matches, pairs = matched(seed, crowds=False, ties=False)
    # An overlap of exactly a threshold reaches it by COCO's rules, and theirs takes it for less.
    for threshold in (0.1, 0.5):
        assume(not np.isclose(pairs.iou, threshold, rtol=0, atol=1e-9).any())
    evaluator = evaluator_of("hotcoco", matches.annotations, matches.predictions)
    evaluator.evaluate()
    evaluator.accumulate()
    theirs = evaluator.tide_errors()
    ours = error_kinds(matches, pairs)
    for name, kind in TIDE.items():
        assert ours[kind].count.sum() == theirs["counts"][name], kind
        cost = np.nanmean(ours[kind].cost)
        if kind in ("both", "duplicate", "background"):
            assert cost == pytest.approx(theirs["delta_ap"][name], abs=1e-6), kind
        else:
            # Theirs repairs a box by the best error of either kind, also where that is not the
            # kind at hand, and gives nothing for a class of which all boxes are missed.
            assert cost >= theirs["delta_ap"][name] - 1e-6, kind


@settings(max_examples=10)
@given(seed=SEEDS)
def test_repairing_gains_what_the_repaired_results_have(seed: int) -> None:
    """The cost of every kind by really editing the results, and evaluating them again."""
    matches, pairs = matched(seed, ties=False)
    annotations, predictions = matches.annotations, matches.predictions
    before = average_precision(matches)[0]
    kinds = error_kinds(matches, pairs)
    found = set(matches.annotation[matches.is_true_positive[:, 0], 0].tolist())
    for kind in ERROR_KINDS[:-1]:
        wrong = [
            row
            for row in np.flatnonzero(matches.is_false_positive[:, 0]).tolist()
            if twin_kind(matches, row, 0, 0.5) == kind
        ]
        labels, bbox = predictions.labels.copy(), predictions.bbox.copy()
        dropped, given_away = set(wrong), set(found)
        if kind in ("classification", "localisation"):
            for row in sorted(wrong, key=lambda row: -predictions.scores[row]):
                a = nearest_box(matches, row, same_class=kind == "localisation")
                if a not in given_away:
                    given_away.add(a)
                    dropped.discard(row)
                    labels[row], bbox[row] = annotations.labels[a], annotations.bbox[a]
        rows = np.setdiff1d(np.arange(len(labels)), sorted(dropped))
        repaired = type(predictions)(
            predictions.image_index[rows], labels[rows], bbox[rows], predictions.scores[rows]
        )
        after = average_precision(match(annotations, repaired))[0]
        np.testing.assert_allclose(kinds[kind].cost, after - before, atol=1e-12, err_msg=kind)
    left = matches.num_positive - kinds["missed"].count
    gained = kinds["missed"].cost
    assert (gained[matches.num_positive > 0] >= -1e-12).all()
    assert (gained[(left == 0) & (matches.num_positive > 0)] == 1).all()
    assert np.isnan(gained[matches.num_positive == 0]).all()


@settings(max_examples=30)
@given(seed=SEEDS, floor=st.sampled_from([0.0, 0.3, 0.8]), iou=st.sampled_from([0.5, 0.75, 0.95]))
def test_the_confusion_is_that_of_loops_over_boxes_and_detections(
    seed: int, floor: float, iou: float
) -> None:
    matches, pairs = matched(seed)
    annotations, predictions, t = matches.annotations, matches.predictions, matches.at(iou)
    expected = np.zeros((len(matches.num_positive),) * 2, dtype=int)
    found_boxes = set()
    for row in np.flatnonzero(predictions.scores >= floor).tolist():
        label = predictions.labels[row]
        if matches.is_true_positive[row, t]:
            expected[label, label] += 1
            found_boxes.add(int(matches.annotation[row, t]))
        elif matches.is_false_positive[row, t]:
            kind = twin_kind(matches, row, t, iou)
            if kind == "classification":
                box = nearest_box(matches, row, same_class=False)
                expected[annotations.labels[box], label] += 1
            elif kind == "background":
                expected[0, label] += 1
    for box in range(annotations.num_annotations):
        if not annotations.is_crowd[box] and box not in found_boxes:
            expected[annotations.labels[box], 0] += 1
    result = confusion(matches, pairs, score_threshold=floor, iou=iou)
    np.testing.assert_array_equal(result.counts, expected)
    assert (result.number > 0).all()


@settings(max_examples=30)
@given(seed=SEEDS, floor=st.sampled_from([0.0, 0.3, 0.8]))
def test_confusion_and_kinds_of_errors_tell_the_same(seed: int, floor: float) -> None:
    matches, pairs = matched(seed)
    counts = confusion(matches, pairs, score_threshold=floor).counts
    kinds = error_kinds(matches, pairs, score_threshold=floor)
    points = at_score(matches, floor)
    right = np.diag(counts)
    np.testing.assert_array_equal(right, points.true_positives)
    np.testing.assert_array_equal(counts[0, 1:], kinds["background"].shown[1:])
    np.testing.assert_array_equal(counts[1:, 0], kinds["missed"].shown[1:])
    others = counts[1:].sum(axis=0) - right
    np.testing.assert_array_equal(others[1:], kinds["classification"].shown[1:])
    # Every box is found or missed; every detection is in a cell or in the right place at least.
    np.testing.assert_array_equal((right + counts[:, 0])[1:], points.num_positive[1:])
    elsewhere = sum(kinds[kind].shown for kind in ("localisation", "both", "duplicate"))
    shown = points.true_positives + points.false_positives
    np.testing.assert_array_equal((counts.sum(axis=0) + elsewhere)[1:], shown[1:])
    assert counts[0, 0] == 0


def test_every_detection_on_a_box_of_another_class_is_taken_for_it(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 99, "height": 99}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("cat", "owl", "bat"))],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 20, 20]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [50, 0, 20, 20]},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 50, 30, 30], "iscrowd": 1},
        ],
    }
    found = [
        {"image_id": 1, "category_id": category, "bbox": [x, y, 20, 20], "score": score}
        for category, x, y, score in (
            (1, 2, 0, 0.9),  # on the cat, as an owl
            (2, 1, 0, 0.8),  # on the cat too, later: there was a box all the same
            (2, 1, 0, 0.8),  # and once more
            (1, 52, 0, 0.7),  # the owl
            (1, 50, 0, 0.6),  # the owl again: there is something, and it is an owl
            (0, 62, 0, 0.6),  # beside the owl: neither place nor class
            (0, 75, 75, 0.5),  # on nothing
            (2, 0, 52, 0.5),  # on the crowd
            (0, 50, 0, 0.2),  # below the floor
        )
    ]
    annotations, predictions = load(tmp_path, truth, found)
    pairs = overlaps(annotations, predictions)
    matrix = confusion(match(annotations, predictions, pairs=pairs), pairs)
    assert matrix.counts.tolist() == [[0, 1, 0, 0], [1, 0, 1, 2], [0, 0, 1, 0], [0, 0, 0, 0]]
    cells = [(cell.true, cell.found, cell.count) for cell in matrix.cells(("cat", "owl", "bat"))]
    assert cells == [
        ("cat", "bat", 2),
        (None, "cat", 1),
        ("cat", None, 1),
        ("cat", "owl", 1),
    ]
    assert len(matrix.cells(("cat", "owl", "bat"), limit=2)) == 2


# Fixed AP


@settings(max_examples=15)
@given(seed=SEEDS, cap=st.sampled_from([1, 5, 10_000]), per_image=st.sampled_from([1, 2, 100]))
def test_fixed_ap_is_the_ap_of_results_cut_per_class(seed: int, cap: int, per_image: int) -> None:
    matches, pairs = matched(seed)
    limited = match(matches.annotations, matches.predictions, rules=Rules(max_detections=per_image))
    predictions, rank = matches.predictions, matches.image_rank
    kept = []
    for label in range(1, len(matches.num_positive)):
        rows = np.flatnonzero(predictions.labels == label).tolist()
        rows.sort(key=lambda r: (-predictions.scores[r], rank[predictions.image_index[r]], r))
        kept += rows[:cap]
    rows = np.array(sorted(kept))
    cut = type(predictions)(
        *(getattr(predictions, name)[rows] for name in ("image_index", "labels", "bbox", "scores"))
    )
    uncapped = match(matches.annotations, cut, rules=Rules(max_detections=None))
    for given_pairs in (None, pairs):
        ours = fixed_ap(limited, per_class=cap, pairs=given_pairs)
        np.testing.assert_array_equal(ours, average_precision(uncapped))


def test_places_spent_on_rare_classes_do_not_change_fixed_ap(shared: Path) -> None:
    from detbalance.data import load_annotations, load_predictions

    folder = shared / "eval" / "lvis_val_100"
    annotations = load_annotations(folder / "lvis_val_100.json")
    predictions = load_predictions(folder / "made_results_100.json", annotations)
    few = match(annotations, predictions, rules=Rules("lvis", max_detections=3))
    every = match(annotations, predictions, rules=LVIS)
    np.testing.assert_array_equal(fixed_ap(few), fixed_ap(every))
    assert np.nanmean(average_precision(few)) < np.nanmean(average_precision(every))
