"""Which errors the gallery shows, what it says of them, and what its pictures are."""

from __future__ import annotations

import base64
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_sets import as_arrays, evaluation_sets
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matching_twin import iou as overlap
from scenes import load, make_report, make_scene

from detbalance.data import Annotations
from detbalance.evaluation import Evaluation, evaluate
from detbalance.reporting import gallery as gallery_module
from detbalance.reporting.gallery import (
    Box,
    Gallery,
    Picture,
    Thumbnail,
    build_gallery,
    cut_thumbnail,
)
from detbalance.reporting.gallery_subjects import Errors

cv2 = pytest.importorskip("cv2")

SEEDS = st.integers(0, 10_000)
EVERY = 10_000
# An image and a class, a box, and for a detection its score.
Row = tuple[Any, ...]


def write_images(annotations: Annotations, folder: Path) -> None:
    for row in range(annotations.num_images):
        width, height = annotations.sizes[row]
        cv2.imwrite(str(folder / annotations.file_name(row)), np.full((height, width), 90, "u1"))


def measured(
    folder: Path,
    truth: Sequence[Row],
    found: Sequence[Row] = (),
    *,
    names: Sequence[str] = ("cat", "owl", "bat"),
    score_threshold: float | np.ndarray = 0.3,
) -> Evaluation:
    """Evaluate boxes (image, class, bbox) and detections (..., score), and write the images."""
    ids = {name: i for i, name in enumerate(names)}
    images = sorted({row[0] for row in (*truth, *found)})
    truth_file = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 90, "height": 80} for i in images],
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
        "annotations": [
            {"id": i, "image_id": image, "category_id": ids[name], "bbox": bbox}
            for i, (image, name, bbox) in enumerate(truth)
        ],
    }
    results = [
        {"image_id": image, "category_id": ids[name], "bbox": bbox, "score": score}
        for image, name, bbox, score in found
    ]
    annotations, predictions = load(folder, truth_file, results)
    write_images(annotations, folder)
    return evaluate(annotations, predictions, score_threshold=score_threshold, backend="numpy")


def gallery_of(folder: Path, evaluation: Evaluation, **options: Any) -> Gallery:
    names = evaluation.matches.annotations.categories.names
    return build_gallery(evaluation, folder, **{"rarest_first": names, **options})


def kinds(pictures: Sequence[Picture]) -> dict[str, str]:
    """What the pictures say, by image."""
    return {picture.file_name: picture.kind for picture in pictures}


def decoded(picture: Picture | Thumbnail) -> np.ndarray:
    """The pixels of a data URI, as RGB."""
    head, _, data = picture.image.partition(",")
    assert head == "data:image/jpeg;base64"
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), "u1"), 1)
    return np.asarray(pixels[:, :, ::-1])


# What is said of an error


def test_a_missed_box_says_what_became_of_it(tmp_path: Path) -> None:
    box = [20, 20, 20, 20]
    truth = [(image, "cat", box) for image in range(7)]
    truth += [(4, "owl", [20, 30, 20, 20])]
    found = [
        (1, "owl", [20, 20, 20, 21], 0.6),  # another class, in its place
        (1, "bat", [20, 20, 20, 22], 0.834),
        (2, "cat", [20, 30, 20, 20], 0.9),  # IoU 1/3
        (3, "cat", box, 0.129),
        (4, "owl", [20, 30, 20, 20], 0.9),  # that of a neighbour
        (5, "owl", [20, 30, 20, 20], 0.5),  # neither class nor place
        (6, "owl", [60, 60, 10, 10], 0.5),
        (6, "owl", box, 0.2),  # not shown
    ]
    evaluation = measured(tmp_path, truth, found)
    pictures = gallery_of(tmp_path, evaluation).missed
    assert kinds(pictures) == {
        "0.png": "nothing near it",
        "1.png": "found as bat .83",
        "2.png": "inexact box, IoU .33",
        "3.png": "found at .12, below the floor of .30",
        "4.png": "only boxes of others near it",
        "5.png": "found as owl .50, IoU .33",
        "6.png": "nothing near it",
    }
    assert {picture.class_name for picture in pictures} == {"cat"}
    assert {picture.score for picture in pictures} == {None}
    shown = {1: [20, 20, 20, 22], 2: [20, 30, 20, 20], 5: [20, 30, 20, 20]}
    missed = Errors(evaluation).missed(())
    for row, image in zip(missed.rows.tolist(), missed.images.tolist(), strict=True):
        expected = [shown[image]] if image in shown else []
        assert missed.describe(row).partners.tolist() == expected


def test_a_score_just_below_the_floor_does_not_look_like_the_floor(tmp_path: Path) -> None:
    floors = np.array([np.nan, 0.3042, 0.3, 0.3])
    box = [20, 20, 20, 20]
    found = [(0, "cat", box, 0.3041), (1, "owl", box, 0.29999)]
    result = measured(tmp_path, [row[:3] for row in found], found, score_threshold=floors)
    gallery = gallery_of(tmp_path, result)
    assert kinds(gallery.missed) == {
        "0.png": "found at .30, below the floor of .31",
        "1.png": "found at .29, below the floor of .30",
    }
    assert np.isnan(gallery.score_threshold)


def test_a_false_positive_says_what_it_is_instead(tmp_path: Path) -> None:
    box = [20, 20, 20, 20]
    truth = [(image, "cat", box) for image in range(5)]
    truth += [(5, "bat", [60, 60, 10, 10])]
    found = [
        (0, "owl", [60, 60, 10, 10], 0.9),
        (1, "owl", [20, 20, 20, 21], 0.8),
        (2, "cat", [20, 30, 20, 20], 0.7),
        (3, "cat", box, 0.9),
        (3, "cat", [20, 20, 20, 21], 0.6),
        (4, "bat", [20, 30, 20, 20], 0.55),
        (4, "bat", [20, 20, 20, 20], 0.2),  # not shown
    ]
    evaluation = measured(tmp_path, truth, found)
    pictures = gallery_of(tmp_path, evaluation).false_positives
    assert [(p.file_name, p.class_name, p.kind, p.score) for p in pictures] == [
        ("0.png", "owl", "on background", 0.9),
        ("1.png", "owl", "is cat", 0.8),
        ("2.png", "cat", "inexact box, IoU .33", 0.7),
        ("3.png", "cat", "duplicate", 0.6),
        ("4.png", "bat", "near cat, IoU .33", 0.55),
    ]
    wrong = Errors(evaluation).false_positives()
    for row, image in zip(wrong.rows.tolist(), wrong.images.tolist(), strict=True):
        assert wrong.describe(row).partners.tolist() == [box] * (image > 0)


# Which errors are shown


@settings(max_examples=12)
@given(seed=SEEDS, floor=st.sampled_from([0.0, 0.3, 0.8]))
def test_the_gallery_holds_the_errors_that_the_report_counts(seed: int, floor: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations, predictions = load(folder, *make_scene(seed))
        write_images(annotations, folder)
        result = evaluate(annotations, predictions, score_threshold=floor, backend="numpy")
        whole = gallery_of(folder, result, max_missed=EVERY, max_false_positives=EVERY)
        few = gallery_of(folder, result, max_missed=5, max_false_positives=4)
        assert few == gallery_of(folder, result, max_missed=5, max_false_positives=4)
    shown = {kind: int(counts.shown.sum()) for kind, counts in result.errors.items()}
    assert whole.num_missed == len(whole.missed) == shown.pop("missed")
    assert whole.num_false_positives == len(whole.false_positives) == sum(shown.values())
    said = {
        "on background": "background",
        "is": "classification",
        "inexact box": "localisation",
        "duplicate": "duplicate",
        "near": "both",
    }
    counts = Counter(
        next(kind for words, kind in said.items() if picture.kind.startswith(words))
        for picture in whole.false_positives
    )
    assert counts == Counter({kind: count for kind, count in shown.items() if count})
    assert len(few.missed) == min(5, len(whole.missed))
    assert len(few.false_positives) == min(4, len(whole.false_positives))
    assert (few.num_missed, few.score_threshold) == (whole.num_missed, floor)
    names = annotations.categories.names
    for pictures in (whole.missed, few.missed):
        rarity = [names.index(picture.class_name) for picture in pictures]
        assert rarity == sorted(rarity)
    for pictures in (whole.false_positives, few.false_positives):
        scores = [picture.score for picture in pictures if picture.score is not None]
        assert scores == sorted(scores, reverse=True)
        assert all(score >= floor for score in scores)


@settings(max_examples=40)
@given(data=evaluation_sets(lvis=True), floor=st.sampled_from([0.0, 0.3]))
def test_what_lvis_rules_excuse_is_no_error(
    data: tuple[dict[str, Any], list[Any]], floor: float
) -> None:
    annotations, predictions = as_arrays(*data)
    result = evaluate(annotations, predictions, score_threshold=floor, backend="numpy")
    assume(result.settings.rules == "lvis")
    errors, size = Errors(result), annotations.categories.num_classes
    wrong = np.bincount(predictions.labels[errors.is_wrong], minlength=size)
    np.testing.assert_array_equal(wrong, result.false_positives)
    missed = np.bincount(annotations.labels[errors.is_missed], minlength=size)
    np.testing.assert_array_equal(missed, result.errors["missed"].shown)


@settings(max_examples=15)
@given(seed=SEEDS, floor=st.sampled_from([0.0, 0.5]))
def test_nothing_is_near_only_where_no_shown_detection_overlaps(seed: int, floor: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        annotations, predictions = load(Path(name), *make_scene(seed))
    result = evaluate(annotations, predictions, score_threshold=floor, backend="numpy")
    missed = Errors(result).missed(())
    for row, image in zip(missed.rows.tolist(), missed.images.tolist(), strict=True):
        shown = (predictions.image_index == image) & (predictions.scores >= floor)
        box = annotations.bbox[row].tolist()
        near = any(overlap(d.tolist(), box, False) >= 0.1 for d in predictions.bbox[shown])
        kind = missed.describe(row).kind
        assert (kind == "nothing near it") <= (not near), kind
        assert (kind == "only boxes of others near it") <= near, kind


def test_every_class_gets_its_turn_the_rarest_first(tmp_path: Path) -> None:
    box = [20, 20, 20, 20]
    truth = [(image, "cat", box) for image in range(30)]
    truth += [(image, "owl", [40, 20, 20, 20]) for image in range(20, 25)]
    truth += [(0, "bat", [60, 20, 20, 20])]
    evaluation = measured(tmp_path, truth)

    def classes(count: int, order: Sequence[str]) -> list[tuple[str, int]]:
        pictures = gallery_of(tmp_path, evaluation, max_missed=count, rarest_first=order).missed
        return list(Counter(picture.class_name for picture in pictures).items())

    order = ["bat", "owl", "cat"]
    assert classes(3, order) == [("bat", 1), ("owl", 2)]
    assert classes(9, order) == [("bat", 1), ("owl", 5), ("cat", 3)]
    assert classes(24, order) == [("bat", 1), ("owl", 5), ("cat", 18)]
    assert classes(4, ["cat"]) == [("cat", 3), ("owl", 1)]  # unnamed classes come last


def test_confident_classes_leave_places_to_others(tmp_path: Path) -> None:
    box = [20, 20, 20, 20]
    found = [(image, "cat", box, 0.9 + image / 1000) for image in range(40)]
    found += [(image, "owl", box, 0.5) for image in range(2)]
    pictures = gallery_of(tmp_path, measured(tmp_path, [], found)).false_positives
    assert [picture.class_name for picture in pictures] == ["cat"] * 22 + ["owl"] * 2
    scores = [picture.score for picture in pictures[:22]]
    assert scores == pytest.approx([0.939 - i / 1000 for i in range(22)])


@pytest.mark.parametrize("side", ["missed", "false_positives"])
def test_other_images_go_before_a_third_picture_of_one(tmp_path: Path, side: str) -> None:
    names = ("cat", "owl", "bat")
    rows = [(0, name, [5 + 8 * i, 20, 6, 6]) for name in names for i in range(9)]
    rows += [(image, "bat", [20, 20, 20, 20]) for image in range(1, 8)]
    missed = side == "missed"
    # Those of the full image have the higher scores.
    found = [] if missed else [(*row, 0.9 - i / 100) for i, row in enumerate(rows)]
    evaluation = measured(tmp_path, rows if missed else [], found)

    def images(count: int) -> Counter[str]:
        options = {"max_missed": count, "max_false_positives": count}
        pictures = getattr(gallery_of(tmp_path, evaluation, **options), side)
        return Counter(picture.file_name for picture in pictures)

    assert images(9) == {"0.png": 2, **{f"{i}.png": 1 for i in range(1, 8)}}
    assert images(12)["0.png"] == 5  # there is no other image left


def test_the_first_pictures_of_a_class_are_of_different_images(tmp_path: Path) -> None:
    rows = [(image, "cat", [5 + 9 * i, 20, 6, 6]) for image in range(3) for i in range(8)]
    found = [(*row, 0.9 - i / 100) for i, row in enumerate(rows)]
    missed = gallery_of(tmp_path, measured(tmp_path, rows), max_missed=3).missed
    wrong = gallery_of(tmp_path, measured(tmp_path, [], found), max_false_positives=3)
    for pictures in (missed, wrong.false_positives):
        assert {picture.file_name for picture in pictures} == {"0.png", "1.png", "2.png"}
    assert [p.score for p in wrong.false_positives] == pytest.approx([0.9, 0.82, 0.74])


def test_detections_beyond_the_cap_are_not_shown(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(3, crowded=True))
    shown = Errors(
        evaluate(annotations, predictions, score_threshold=0.0, backend="numpy")
    ).is_shown
    groups = predictions.image_index * 100 + predictions.labels
    assert np.bincount(groups).max() > 100
    assert np.bincount(groups[shown]).max() == 100


def test_missed_boxes_come_from_all_over_the_file(tmp_path: Path) -> None:
    truth = [(image, "cat", [20, 20, 20, 20]) for image in range(100)]
    pictures = gallery_of(tmp_path, measured(tmp_path, truth), max_missed=10).missed
    tens = {int(picture.file_name.removesuffix(".png")) // 25 for picture in pictures}
    assert tens == {0, 1, 2, 3}


# Images that cannot be used


def test_an_unusable_image_gives_its_place_to_another(tmp_path: Path) -> None:
    truth = [(image, "cat", [20, 20, 20, 20]) for image in range(12)]
    evaluation = measured(tmp_path, truth, [(*truth[2], 0.9)])
    (tmp_path / "4.png").unlink()
    (tmp_path / "5.png").write_bytes(b"\x89PNG, and then nothing")
    cv2.imwrite(str(tmp_path / "6.png"), np.zeros((90, 80), "u1"))  # turned
    gallery = gallery_of(tmp_path, evaluation, max_missed=8)
    assert set(kinds(gallery.missed)) == {f"{i}.png" for i in (0, 1, 3, 7, 8, 9, 10, 11)}
    assert gallery.num_missed == 11
    (note,) = gallery.notes
    assert note.startswith("3 images cannot be shown; the first: ")
    assert not gallery_of(tmp_path, measured(tmp_path, truth)).notes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "No such file"),
        (lambda file: file.write_bytes(b""), "it is empty"),
        (lambda file: cv2.imwrite(str(file), np.zeros((8, 9))), "9x8 pixels, .* say 90x80"),
    ],
)
def test_the_first_unusable_image_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    evaluation = measured(tmp_path, [(7, "cat", [20, 20, 20, 20])])
    damage(tmp_path / "7.png")
    gallery = gallery_of(tmp_path, evaluation)
    assert (gallery.missed, gallery.num_missed) == ((), 1)
    (note,) = gallery.notes
    assert re.match(rf"1 image cannot be shown: .*7\.png.*{message}", note)


def test_an_image_without_a_name_is_unusable(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 3}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    evaluation = evaluate(*load(tmp_path, truth, []), backend="numpy")
    (note,) = gallery_of(tmp_path, evaluation).notes
    assert "val.json: image 3 has no file_name." in note


def test_the_search_for_usable_images_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = [(image, "cat", [20, 20, 20, 20]) for image in range(60)]
    evaluation = measured(tmp_path, truth)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(gallery_module, "_MAX_UNUSABLE", 30)
    reads = counted_reads(monkeypatch)
    gallery = gallery_of(empty, evaluation)
    assert len(reads) == len(set(reads)) == 30
    assert (gallery.missed, gallery.num_missed) == ((), 60)
    assert gallery.notes[0].startswith("30 images cannot be shown, and no more were tried; ")


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read from now on."""
    names: list[str] = []
    read = gallery_module.read_image

    def counting(path: Path) -> Any:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(gallery_module, "read_image", counting)
    return names


def test_only_images_of_the_pictures_are_read_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = [(i % 40, "cat", [5 + i // 40 * 30, 20, 20, 20]) for i in range(80)]
    found = [(image, "owl", [60, 60, 9, 9], 0.9) for image in range(40)]
    evaluation = measured(tmp_path, truth, found)
    reads = counted_reads(monkeypatch)
    gallery = gallery_of(tmp_path, evaluation, max_missed=30, max_false_positives=30)
    shown = [picture.file_name for picture in (*gallery.missed, *gallery.false_positives)]
    assert len(shown) == 60
    assert sorted(reads) == sorted(set(shown))


# What cannot be asked for


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    evaluation = measured(tmp_path, [(0, "cat", [20, 20, 20, 20])])
    for wrong in (tmp_path / "nowhere", tmp_path / "0.png"):
        with pytest.raises(ValueError, match=rf"{wrong.name}: is no folder\. .* Pass that one\."):
            gallery_of(wrong, evaluation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_missed": -1}, r"max_missed is -1\. Expected a whole number >= 0"),
        ({"max_false_positives": -2}, r"max_false_positives is -2\. Expected a whole number >= 0"),
        ({"thumbnail": 15}, r"thumbnail is 15\. Expected a whole number >= 16"),
        ({"rarest_first": ["owi"]}, 'no class is called "owi".*Did you mean "owl"'),
    ],
)
def test_impossible_options_are_named(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    evaluation = measured(tmp_path, [(0, "cat", [20, 20, 20, 20])])
    with pytest.raises(ValueError, match=message):
        gallery_of(tmp_path, evaluation, **options)


def test_no_errors_make_an_empty_gallery(tmp_path: Path) -> None:
    row = (0, "cat", [20, 20, 20, 20])
    assert gallery_of(tmp_path, measured(tmp_path, [row], [(*row, 0.9)])) == Gallery((), (), 0.3)
    nothing = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}], "annotations": []}
    evaluation = evaluate(*load(tmp_path, nothing, []), backend="numpy")
    assert gallery_of(tmp_path, evaluation) == Gallery((), (), 0.3)


# Boxes


@settings(max_examples=12)
@given(seed=SEEDS, thumbnail=st.sampled_from([16, 64, 200]))
def test_boxes_lie_where_the_picture_shows_their_pixels(seed: int, thumbnail: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations, predictions = load(folder, *make_scene(seed))
        write_images(annotations, folder)
        result = evaluate(annotations, predictions, backend="numpy")
        gallery = gallery_of(folder, result, thumbnail=thumbnail)
    for pictures, role in (
        (gallery.missed, "subject-truth"),
        (gallery.false_positives, "subject-found"),
    ):
        for picture in pictures:
            assert decoded(picture).shape == (picture.height, picture.width, 3)
            assert max(picture.width, picture.height) <= thumbnail
            *others, subject = picture.boxes
            assert subject.role == role
            assert len(others) <= 16
            assert {box.role for box in others} <= {"truth", "found"}
            assert 0 <= subject.x <= subject.x + subject.width <= picture.width
            assert 0 <= subject.y <= subject.y + subject.height <= picture.height
            for box in picture.boxes:
                numbers = (box.x, box.y, box.width, box.height)
                assert all(type(number) is float for number in numbers)
                assert box.x < picture.width
                assert box.x + box.width > 0
                assert box.y < picture.height
                assert box.y + box.height > 0


def test_the_box_that_the_words_speak_of_is_drawn(tmp_path: Path) -> None:
    box = [40, 30, 8, 8]
    crowd = [(0, "cat", [40 + dx, 30 + dy, 8, 8]) for dx in (-4, 0, 4) for dy in (-4, 4)]
    truth = [*crowd, *crowd, *crowd, *crowd, (0, "owl", [40, 30, 30, 15])]
    evaluation = measured(tmp_path, truth, [(0, "owl", box, 0.9)])
    (picture,) = gallery_of(tmp_path, evaluation).false_positives
    assert picture.kind == "inexact box, IoU .14"
    assert len(picture.boxes) == 17
    scale = picture.boxes[-1].width / 8
    assert (30 * scale, 15 * scale) in {(other.width, other.height) for other in picture.boxes}


def test_detections_below_the_floor_are_not_drawn(tmp_path: Path) -> None:
    truth = [(0, "cat", [20, 20, 20, 20]), (0, "owl", [22, 20, 20, 20])]
    found = [(0, "owl", [24, 20, 20, 20], 0.9), (0, "bat", [20, 20, 20, 20], 0.29)]
    evaluation = measured(tmp_path, truth, found)
    (picture,) = gallery_of(tmp_path, evaluation).missed
    assert Counter(box.role for box in picture.boxes) == {
        "truth": 1,
        "found": 1,
        "subject-truth": 1,
    }


# Pixels


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    bbox=st.tuples(*[st.floats(-60, 420)] * 2, *[st.floats(0, 500)] * 2),
    size=st.sampled_from([16, 100, 200]),
)
def test_any_box_of_any_image_makes_a_thumbnail(
    shape: tuple[int, int], bbox: tuple[float, ...], size: int
) -> None:
    pixels = np.full((*shape, 3), 120, np.uint8)
    thumbnail = cut_thumbnail(pixels, np.array(bbox), np.zeros((0, 4)), size)
    assert decoded(thumbnail).shape == (thumbnail.height, thumbnail.width, 3)
    assert max(thumbnail.width, thumbnail.height) <= size
    assert thumbnail.scale <= 1
    low, high = thumbnail.place(np.array([bbox]))[0].reshape(2, 2)
    image = thumbnail.place(np.array([[0, 0, shape[1], shape[0]]], float))[0]
    low, high = np.maximum(low, image[:2]), np.minimum(high, image[2:])
    if (low < high).all():  # what the image has of the box is in the picture, but for rounding
        assert (low >= -1e-6).all()
        assert (high <= np.array([thumbnail.width, thumbnail.height]) + 1).all()


@pytest.mark.parametrize("bbox", [[300, 100, 60, 40], [2, 2, 12, 9], [10, 300, 380, 90]])
def test_a_thumbnail_shows_the_pixels_of_the_box(bbox: list[int]) -> None:
    pixels = np.zeros((400, 400, 3), np.uint8)
    x, y, w, h = bbox
    pixels[y : y + h, x : x + w] = (250, 120, 30)
    thumbnail = cut_thumbnail(pixels, np.array(bbox, float), np.zeros((0, 4)), 200)
    left, top, right, bottom = thumbnail.place(np.array([bbox], float))[0]
    seen = decoded(thumbnail).astype(int)
    inside = seen[int(top) + 2 : int(bottom) - 1, int(left) + 2 : int(right) - 1]
    assert abs(inside.mean(axis=(0, 1)) - (250, 120, 30)).max() < 20
    bright = seen[..., 0] > 128
    assert bright.sum() == pytest.approx((right - left) * (bottom - top), rel=0.15)


def test_tiny_objects_are_seen_large_and_huge_ones_whole() -> None:
    pixels = np.zeros((2000, 3000, 3), np.uint8)
    tiny = cut_thumbnail(pixels, np.array([1500.0, 900, 6, 6]), np.zeros((0, 4)), 200)
    assert (tiny.width, tiny.height, tiny.scale) == (48, 48, 1)
    huge = cut_thumbnail(pixels, np.array([100.0, 100, 2600, 1700]), np.zeros((0, 4)), 200)
    assert (huge.width, huge.height, huge.left, huge.top) == (200, 133, 0, 0)
    small = np.array([1500.0, 900, 100, 100])
    middle = cut_thumbnail(pixels, small, np.zeros((0, 4)), 200)
    assert (middle.width, middle.height, middle.scale) == (200, 200, 1)
    wide = cut_thumbnail(pixels, small, np.array([[1500.0, 900, 400, 100]]), 200)
    assert (wide.place(np.array([[1500.0, 900, 400, 100]]))[0] <= 200).all()
    assert wide.scale < 0.5
    outside = cut_thumbnail(pixels, np.array([-1000.0, 900, 1050, 40]), np.zeros((0, 4)), 200)
    assert (outside.width, outside.left) == (100, 0)  # of what the image has of the box


def test_even_noise_keeps_to_its_bytes() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    subject, none = np.array([50.0, 50, 100, 100]), np.zeros((0, 4))
    for size in (100, 200, 300):
        text = cut_thumbnail(noise, subject, none, size).image
        assert len(text) <= size**2 / 4 * 4 / 3 + 30
    flat = cut_thumbnail(np.full_like(noise, 90), subject, none, 200).image
    assert len(flat) < len(text) / 4


# The page


def test_the_page_escapes_names_and_says_what_is_not_shown(tmp_path: Path) -> None:
    page = pytest.importorskip("detbalance.reporting.page")
    pytest.importorskip("jinja2")
    report, _, _ = make_report(tmp_path)
    evil = '"><script>alert(1)</script>'
    box = Box(1.0, 2.0, 3.0, 4.0, "subject-found")
    picture = Picture(
        "data:image/jpeg;base64,AAAA", 9, 8, (box,), evil, f"is {evil}, IoU .33", 0.834, evil
    )
    text = page.page_text(
        report, gallery=Gallery((), (picture,), float("nan"), (evil,), 1234, 2345)
    )
    assert evil not in text
    section = text[text.index('<section id="gallery">') :].partition("</section>")[0]
    assert "script" not in section.replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")
    assert "1,234, none of them shown." in section
    assert "1 of 2,345, a few of each class in turn." in section
    assert "a score of at least the threshold of their class." in section
    assert '<rect class="line subject-found" x="1.0" y="2.0" width="3.0" height="4.0"/>' in section
    assert ">.83<" in section
    empty = page.page_text(report, gallery=Gallery((), (), 0.3))
    assert "No object was missed." in empty
    assert "score of at least 0.3." in empty
