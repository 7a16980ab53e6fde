"""The split: nothing lost, no group cut, every class on both sides, shares near what was asked."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detbalance.data import (
    Annotations,
    image_groups,
    load_annotations,
    split_annotations,
    write_split,
)
from detbalance.data import split_choice as choosing

MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def document(
    labels: Sequence[Sequence[int]], sources: Sequence[object] | None = None, num_classes: int = 0
) -> dict[str, Any]:
    """One image per list of labels; category ids are labels, image and box ids have gaps."""
    count = num_classes or max((label for image in labels for label in image), default=1)
    images = [
        {"id": 3 * i + 1, "file_name": f"{i:05}.png", "width": 100, "height": 100}
        for i in range(len(labels))
    ]
    for image, source in zip(images, sources or (), strict=False):
        image["source"] = source
    boxes = [(i, label) for i, image in enumerate(labels) for label in image]
    return {
        "images": images,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, count + 1)],
        "annotations": [
            {"id": 2 * n, "image_id": 3 * i + 1, "category_id": k, "bbox": [1, 2, 30, 40]}
            for n, (i, k) in enumerate(boxes)
        ],
    }


def load(folder: Path, content: dict[str, Any], name: str = "all.json") -> Annotations:
    (folder / name).write_text(json.dumps(content))
    return load_annotations(folder / name)


def cost(annotations: Annotations, is_val: np.ndarray, share: float) -> float:
    """Mean squared deviation of each class's images and boxes, 1 for a random split."""
    deviations = []
    for label in np.unique(annotations.labels):
        boxes = np.bincount(
            annotations.image_index[annotations.labels == label], minlength=annotations.num_images
        )
        for held in (boxes, boxes > 0):
            off = held[is_val].sum() - share * held.sum()
            deviations.append(off**2 / (held**2).sum() / share / (1 - share))
    return float(np.mean(deviations))


@st.composite
def small_sets(draw):
    num_classes = draw(st.integers(1, 5))
    labels = draw(
        st.lists(st.lists(st.integers(1, num_classes), max_size=4), min_size=2, max_size=12)
    )
    sources = draw(
        st.lists(st.integers(0, 8), min_size=len(labels), max_size=len(labels)) | st.none()
    )
    return labels, sources, num_classes


def wanted_on_both_sides(labels, sources):
    """The groups, and the groups of each class (0: images without boxes) by brute force."""
    groups = {}
    for image, source in zip(labels, sources, strict=True):
        groups.setdefault(source, set()).update(image or [0])
    with_class = {
        label: {g for g, shown in groups.items() if label in shown}
        for label in set().union(*groups.values())
    }
    pinned = set().union(*(g for label, g in with_class.items() if label and len(g) == 1))
    return groups, with_class, pinned


@MANY
@given(small_sets(), st.floats(0.05, 0.95), st.integers(0, 3), st.booleans())
def test_split_is_a_partition_by_groups_with_every_class_where_possible(
    tmp_path, data, val_share, seed, many_groups
):
    labels, sources, num_classes = data
    annotations = load(tmp_path, document(labels, sources, num_classes))
    group_by = None if sources is None else "source"
    sources = list(range(len(labels))) if sources is None else sources
    groups, with_class, pinned = wanted_on_both_sides(labels, sources)
    if len(groups) == 1 or pinned == set(groups):
        with pytest.raises(ValueError, match=r"are one group|has a class that no other has"):
            split_annotations(annotations, val_share=val_share, group_by=group_by)
        return
    with pytest.MonkeyPatch.context() as patch:
        if many_groups:
            patch.setattr(choosing, "_FEW_GROUPS", 0)
        split = split_annotations(annotations, val_share=val_share, group_by=group_by, seed=seed)

    ids = annotations.image_ids
    assert split.train.image_ids.tolist() == ids[~split.is_val].tolist()
    assert split.val.image_ids.tolist() == ids[split.is_val].tolist()
    boxes = np.concatenate([split.train.annotation_ids, split.val.annotation_ids])
    assert sorted(boxes) == sorted(annotations.annotation_ids)
    val_sources = {source for source, val in zip(sources, split.is_val, strict=True) if val}
    train_sources = {source for source, val in zip(sources, split.is_val, strict=True) if not val}
    assert not val_sources & train_sources
    assert val_sources
    assert train_sources
    assert not val_sources & pinned
    # Brute force over all ways to choose groups: what is possible is done.
    free = sorted(set(groups) - pinned)
    needed = [g for g in with_class.values() if len(g) > 1]

    def missing_from_a_side(chosen: set[int]) -> int:
        return sum(not (g & chosen and g - chosen) for g in needed)

    fewest = min(
        missing_from_a_side(set(chosen))
        for size in range(1, min(len(free) + 1, len(groups)))
        for chosen in itertools.combinations(free, size)
    )
    assert missing_from_a_side(val_sources) == fewest
    missing = [
        c for c in split.classes if c.num_groups > 1 and not (c.val_images and c.train_images)
    ]
    assert any("Missing from" in note for note in split.notes) == bool(missing)


def long_tail(seed: int, images: int = 300, classes: int = 30, sources: int = 100):
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, classes + 1) ** 1.3
    shares /= shares.sum()
    labels = [(1 + rng.choice(classes, rng.poisson(3), p=shares)).tolist() for _ in range(images)]
    return labels, rng.integers(0, sources, images).tolist()


@pytest.mark.parametrize("group_by", [None, "source"])
@pytest.mark.parametrize("val_share", [0.2, 0.5])
def test_shares_are_far_nearer_than_those_of_random_splits(group_by, val_share, tmp_path):
    annotations = load(tmp_path, document(*long_tail(1)))
    split = split_annotations(annotations, val_share=val_share, group_by=group_by)
    rng = np.random.default_rng(0)
    random = []
    lost = 0
    for _ in range(50):
        chosen = rng.random(split.num_groups) < val_share
        random.append(cost(annotations, chosen[split.groups], val_share))
        shown = np.unique(annotations.labels[chosen[split.groups][annotations.image_index]])
        lost += len(shown) < len(annotations.categories.ids)
    assert cost(annotations, split.is_val, val_share) < np.mean(random) / 5
    assert cost(annotations, split.is_val, val_share) < min(random)
    assert split.is_val.mean() == pytest.approx(val_share, abs=0.01)
    assert all(c.train_images and c.val_images for c in split.classes)
    if val_share < 0.5:
        assert lost > 10  # the random ones often lack a class altogether


def test_shares_are_near_the_best_that_brute_force_finds(tmp_path):
    for seed in range(4):
        labels, sources = long_tail(seed, images=30, classes=4, sources=11)
        annotations = load(tmp_path, document(labels, sources))
        split = split_annotations(annotations, val_share=0.3, group_by="source")
        every = (np.array(c) for c in itertools.product([False, True], repeat=split.num_groups))
        costs = sorted(cost(annotations, chosen[split.groups], 0.3) for chosen in every)
        # Its own cost also counts the number of images, so it need not be the very first.
        place = np.searchsorted(costs, cost(annotations, split.is_val, 0.3) - 1e-9)
        assert place < 0.03 * len(costs)


def test_the_only_ways_to_show_all_classes_are_found(tmp_path):
    """Each class is in few sources, chosen so that one hidden division shows all on both sides."""
    for seed, classes in ((0, 120), (1, 200), (2, 400)):
        rng = np.random.default_rng(seed)
        hidden = rng.random(150) < 0.3
        labels: list[list[int]] = [[] for _ in hidden]
        for label in range(1, classes + 1):
            for side in (hidden, ~hidden):
                for image in rng.choice(np.flatnonzero(side), rng.integers(1, 3), replace=False):
                    labels[image].append(label)
        split = split_annotations(load(tmp_path, document(labels)), val_share=0.3)
        assert all(c.val_images and c.train_images for c in split.classes)


def test_moves_of_single_groups_lower_the_cost(tmp_path, monkeypatch):
    annotations = load(tmp_path, document(*long_tail(5, images=4000, classes=200, sources=2500)))
    costs = []
    for passes in (20, 0):
        monkeypatch.setattr(choosing, "_PASSES", passes)
        split = split_annotations(annotations, group_by="source")
        costs.append(cost(annotations, split.is_val, 0.2))
    assert costs[0] < 0.9 * costs[1]
    assert costs[1] < 0.15  # a random split: 1


def test_table_counts_images_and_boxes(tmp_path):
    labels = [[1, 1, 2], [1], [2, 2], [], [1, 2], [1, 1, 1]]
    split = split_annotations(load(tmp_path, document(labels)), val_share=0.4)
    for k, row in enumerate(split.classes, 1):
        for side, images, boxes in (
            (split.is_val, row.val_images, row.val_boxes),
            (~split.is_val, row.train_images, row.train_boxes),
        ):
            shown = [image.count(k) for image, here in zip(labels, side, strict=True) if here]
            assert (images, boxes) == (np.count_nonzero(shown), sum(shown))
        assert row.num_groups == row.train_images + row.val_images
        assert row.box_share == row.val_boxes / (row.val_boxes + row.train_boxes)


def test_many_groups_are_split_as_well(tmp_path):
    annotations = load(tmp_path, document(*long_tail(2, images=6000, classes=120, sources=4000)))
    split = split_annotations(annotations, group_by="source")
    assert split.num_groups > choosing._FEW_GROUPS
    assert not [note for note in split.notes if "Missing" in note]
    assert all(c.val_images and c.train_images for c in split.classes if c.num_groups > 1)
    assert split.is_val.mean() == pytest.approx(0.2, abs=0.002)
    frequent = [c for c in split.classes if c.num_groups > 200]
    assert all(c.box_share == pytest.approx(0.2, abs=0.01) for c in frequent)
    assert len(frequent) > 10


def test_the_naive_split_of_images_cuts_sources_in_two(tmp_path):
    annotations = load(tmp_path, document(*long_tail(3)))
    naive = split_annotations(annotations)
    split = split_annotations(annotations, group_by="source")
    in_both = set(split.groups[naive.is_val]) & set(split.groups[~naive.is_val])
    assert len(in_both) > 20
    assert not set(split.groups[split.is_val]) & set(split.groups[~split.is_val])


def test_images_without_boxes_get_their_share(tmp_path):
    annotations = load(tmp_path, document([[]] * 100 + [[1]] * 50 + [[1, 2, 2]] * 50))
    split = split_annotations(annotations, val_share=0.2)
    assert split.is_val[:100].sum() == 20
    assert split.is_val[100:150].sum() == 10
    assert split.is_val[150:].sum() == 10


def test_a_set_without_any_box_is_split_by_images(tmp_path):
    annotations = load(tmp_path, document([[]] * 10))
    split = split_annotations(annotations, val_share=0.3)
    assert split.is_val.sum() == 3
    # Half an image cannot be given, which is not worth a word.
    assert split.notes == split_annotations(annotations, val_share=0.25).notes
    assert split.classes[0].num_groups == 0
    assert np.isnan(split.classes[0].box_share)


def test_the_seed_decides_and_nothing_else(tmp_path):
    annotations = load(tmp_path, document(*long_tail(4)))
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    splits = [split_annotations(annotations, seed=seed).is_val.tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_crowd_boxes_show_no_class(tmp_path):
    content = document([[1], [1], [1], [2]])
    content["annotations"][3]["iscrowd"] = 1
    split = split_annotations(load(tmp_path, content), val_share=0.4)
    assert split.classes[1].num_groups == 0
    assert "Crowd regions only (iscrowd 1), which do not count: class 2 (1)." in split.notes[0]


def test_what_could_not_be_satisfied_is_said(tmp_path):
    # Class 3 has one source; 4 has two, each of which has a class of its own.
    labels = [[1], [1], [1, 2], [2], [3], [4, 5], [4, 6], [1], [2], [1]]
    split = split_annotations(load(tmp_path, document(labels, num_classes=7)))
    assert split.notes == (
        "Without boxes, so on neither side: class 7.",
        "Shown by one group only, which stays in training: class 3, class 5, class 6.",
        "Missing from validation, because their groups are needed on the other side for other"
        " classes: class 4.",
    )


def test_groups_too_large_for_the_share_are_said(tmp_path):
    labels, sources = [[1]] * 20, ["video"] * 12 + ["photo"] * 8
    split = split_annotations(load(tmp_path, document(labels, sources)), group_by="source")
    assert split.is_val.tolist() == [False] * 12 + [True] * 8
    assert split.notes == (
        "The share of the boxes in validation is off by more than 10% of them for class 1 (most:"
        " class 1, 40.0% of 20 boxes in 2 groups).",
        "Validation has 40.0% of the images instead of 20.0%: whole groups that show every class on"
        " both sides came no nearer (the largest, video, has 60.0%).",
    )


def test_groups_come_from_a_key_or_from_file_names(tmp_path):
    content = document([[1]] * 6, [7, "a", 7, {"x": 1}, "a", {"x": 1}])
    for i, image in enumerate(content["images"]):
        image["file_name"] = f"day{i % 3}/cam{i // 3}.png"
    annotations = load(tmp_path, content)

    def groups(group_by: str | re.Pattern[str]) -> list[int]:
        return split_annotations(annotations, group_by=group_by).groups.tolist()

    assert groups("source") == [0, 1, 0, 2, 1, 2]
    assert groups(re.compile(r"^(day\d)/")) == [0, 1, 2, 0, 1, 2]
    assert groups(re.compile(r"cam\d")) == [0, 0, 0, 1, 1, 1]
    assert groups(re.compile(r"(?:y)(\d)")) == [0, 1, 2, 0, 1, 2]


@MANY
@given(small_sets(), st.data())
def test_one_file_is_on_one_side_however_it_is_grouped(tmp_path, case, data):
    labels, sources = case[:2]
    content = document(labels, sources)
    size = len(content["images"])
    names = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=size, max_size=size))
    keys = data.draw(st.lists(st.sampled_from("xyzuvw"), min_size=size, max_size=size))
    for image, name, key in zip(content["images"], names, keys, strict=True):
        image["file_name"], image["key"] = f"{name}.png", key
    annotations = load(tmp_path, content)
    for group_by in (None, "key", re.compile(r"\w")):
        groups, _ = image_groups(annotations, group_by)
        # The oracle: spread over shared names and keys until nothing changes.
        own = names if group_by != "key" else keys
        mark = list(range(size))
        while True:
            least = {}
            for kind in (names, own):
                for i, value in enumerate(kind):
                    least[id(kind), value] = min(mark[i], least.get((id(kind), value), size))
            new = [
                min(least[id(names), a], least[id(own), b]) for a, b in zip(names, own, strict=True)
            ]
            if new == mark:
                break
            mark = new
        expected = {m: n for n, m in enumerate(dict.fromkeys(mark))}
        assert groups.tolist() == [expected[m] for m in mark]


def test_copies_of_one_picture_stay_together(tmp_path):
    content = document([[1]] * 30 + [[1, 2]] * 6)
    for i, image in enumerate(content["images"]):
        image["file_name"] = f"{'ab'[i % 2]}/p{i // 3}_png.rf.{i:032X}.jpg"
        image["extra"] = {"name": {"of": f"p{i // 3}"}, "own": str(i)}
    content["images"][3]["extra.own"] = "0"
    annotations = load(tmp_path, content)
    split = split_annotations(annotations)
    assert split.groups.tolist() == [i // 3 for i in range(36)]
    assert "36 images are augmented copies (.rf. in their names) of 12 pictures" in split.notes[0]
    split = split_annotations(annotations, group_by="extra.name.of")
    assert split.groups.tolist() == [i // 3 for i in range(36)]
    assert not any(".rf." in note for note in split.notes)
    # An own key with a dot in it comes first.
    split = split_annotations(annotations, group_by="extra.own")
    assert split.groups.tolist() == [0, 1, 2, 0, *range(3, 35)]
    (note,) = [note for note in split.notes if ".rf." in note]
    (pattern,) = re.findall("--group-regex '(.*)'", note)
    split = split_annotations(annotations, group_by=re.compile(pattern))
    assert split.groups.tolist() == [i // 3 for i in range(36)]
    with pytest.raises(ValueError, match=r'no "extra\.name\.off"'):
        split_annotations(annotations, group_by="extra.name.off")


def test_crowd_regions_alone_are_said_to_be_that(tmp_path):
    content = document([[1, 2]] * 8, num_classes=3)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 2)
    notes = split_annotations(load(tmp_path, content)).notes
    assert notes[0].startswith("Crowd regions only (iscrowd 1), which do not count: class 2 (8).")
    assert notes[1] == "Without boxes, so on neither side: class 3."


def test_groups_follow_images_that_were_left_out_or_selected(tmp_path):
    content = document([[1]] * 6, list("aabbcc"))
    (tmp_path / "all.json").write_text(json.dumps(content))
    annotations = load_annotations(tmp_path / "all.json").subset([5, 2, 3, 0])
    split = split_annotations(annotations, group_by="source", val_share=0.3)
    assert split.groups.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("group_by", "words"),
    [
        ("source", r'all.json: 2 of 4 images have no "source" \(first: 00001.png\)'),
        ("patient", r'4 of 4 images have no "patient" \(first: 00000.png\)'),
        (re.compile("0000[0-2]"), r'1 of 4 image has a file_name .* "0000\[0-2\]" misses .*00003'),
        (re.compile("0000(?:(0)|.)"), r"3 of 4 images have a file_name that the regular"),
    ],
)
def test_images_without_a_group_are_named(group_by, words, tmp_path):
    annotations = load(tmp_path, document([[1]] * 4, ["a", None, "b"]))
    with pytest.raises(ValueError, match=words):
        split_annotations(annotations, group_by=group_by)


def test_wrong_arguments_are_named(tmp_path):
    annotations = load(tmp_path, document([[1], [1], [2]], ["a", "a", "a"]))
    for share in (0, 1, -0.2, 20, float("nan")):
        with pytest.raises(ValueError, match=f"val_share is {share}. Expected a share in"):
            split_annotations(annotations, val_share=share)
    with pytest.raises(ValueError, match=r"all 3 images are one group \(a\)"):
        split_annotations(annotations, group_by="source")
    with pytest.raises(ValueError, match="each of the 2 groups has a class that no other has"):
        split_annotations(annotations.subset([1, 2]))


def test_files_keep_every_key(tmp_path):
    content = document([[1, 2]] * 10, list("abcdefghij"))
    content |= {"info": {"year": 2024}, "licenses": [{"id": 1}], "extra": [1.5, None]}
    for category in content["categories"]:
        category["supercategory"] = "things"
    for i, image in enumerate(content["images"]):
        image |= {"neg_category_ids": [1], "not_exhaustive_category_ids": [], "taken": f"day {i}"}
    for n, box in enumerate(content["annotations"]):
        box |= {"segmentation": [[1, 2, 31, 2, 31, 42]], "area": 7.5, "score": n / 3}
    split = split_annotations(load(tmp_path, content), val_share=0.3)
    paths = write_split(split, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["train.json", "val.json"]
    for path, part in zip(paths, (split.train, split.val), strict=True):
        written = json.loads(path.read_text())
        ids, box_ids = set(part.image_ids.tolist()), set(part.annotation_ids.tolist())
        assert written == content | {
            "images": [image for image in content["images"] if image["id"] in ids],
            "annotations": [box for box in content["annotations"] if box["id"] in box_ids],
        }
        again = load_annotations(path)
        assert again.categories == part.categories
        for name in ("image_ids", "annotation_ids", "labels", "bbox", "areas", "offsets"):
            assert getattr(again, name).tolist() == getattr(part, name).tolist()


def test_files_hold_what_loading_left_and_load_without_faults(tmp_path):
    content = document([[1, 2]] * 10)
    content["images"][0]["neg_category_ids"] = [2, 77]
    for i, image in enumerate(content["images"]):
        image["source"] = i // 2
    content["images"].append({"id": 1, "file_name": "again.png", "source": 3})
    content["images"].append("no image")
    content["categories"].append({"id": 9, "name": 7})
    content["images"][1] |= {"neg_category_ids": [9], "weight": float("nan")}
    content["annotations"][3]["bbox"] = [1, 2, float("nan"), 4]
    content["annotations"].append(
        {**content["annotations"][4], "bbox": [0, 0, 1, 1]}
    )  # of an id that is taken
    (tmp_path / "all.json").write_text(json.dumps(content))
    annotations = load_annotations(tmp_path / "all.json", drop_invalid=True)
    split = split_annotations(annotations, group_by="source")
    assert split.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    paths = write_split(split, tmp_path / "parts")
    parts = [load_annotations(path) for path in paths]
    assert sum(part.num_images for part in parts) == 10
    assert sum(part.num_annotations for part in parts) == 20
    assert [part.num_annotations for part in parts] == [
        split.train.num_annotations,
        split.val.num_annotations,
    ]
    assert not any(part.faults for part in parts)


@pytest.mark.parametrize("kind", ["ids start again", "no ids", "text", "category again"])
def test_what_the_loader_keeps_is_split_whole(kind, tmp_path):
    content = document([[1, 1], [2], [1, 2], [2], [1], [1, 2]], sources=[0, 0, 1, 2, 2, 3])
    twin = load(tmp_path, content, "twin.json")
    notes = content["annotations"]
    for note in notes:
        if kind == "ids start again":
            note["id"] = sum(
                n["image_id"] == note["image_id"] for n in notes if n["id"] > note["id"]
            )
        elif kind == "no ids":
            del note["id"]
        elif kind == "text":
            note.update(image_id=f"0{note['image_id']}", category_id=str(note["category_id"]))
        note["mine"] = "kept"
    if kind == "text":
        for image in content["images"]:
            image["id"] = f"0{image['id']}"
    if kind == "category again":
        content["categories"] += content["categories"]
    write_split(split_annotations(load(tmp_path, content), group_by="source"), tmp_path / "parts")
    expected = split_annotations(twin, group_by="source")
    ids: list[int] = []
    for name, part in (("train", expected.train), ("val", expected.val)):
        loaded = load_annotations(tmp_path / "parts" / f"{name}.json")
        for field in ("image_ids", "image_index", "labels", "bbox"):
            np.testing.assert_array_equal(getattr(loaded, field), getattr(part, field))
        assert loaded.categories == part.categories
        assert {fault.kind.rpartition(" ")[2] for fault in loaded.faults} <= {"text"}
        written = json.loads((tmp_path / "parts" / f"{name}.json").read_text())
        assert all(entry["mine"] == "kept" for entry in written["annotations"])
        ids += [entry["id"] for entry in written["annotations"]]
    assert len(set(ids)) == len(notes)


def test_files_are_not_replaced_unasked(tmp_path):
    split = split_annotations(load(tmp_path, document([[1]] * 10)))
    write_split(split, tmp_path / "parts")
    (tmp_path / "parts" / "train.json").unlink()
    before = (tmp_path / "parts" / "val.json").read_bytes()
    with pytest.raises(ValueError, match=r"val.json: exists already.*--overwrite"):
        write_split(split_annotations(split.train, seed=1), tmp_path / "parts")
    assert not (tmp_path / "parts" / "train.json").exists()
    assert (tmp_path / "parts" / "val.json").read_bytes() == before
    write_split(split, tmp_path / "parts", overwrite=True)
    assert (tmp_path / "parts" / "val.json").read_bytes() == before


def test_the_file_to_split_is_never_replaced(tmp_path):
    split = split_annotations(load(tmp_path, document([[1]] * 10), "train.json"))
    with pytest.raises(ValueError, match=r"train.json: is the file to split"):
        write_split(split, tmp_path, overwrite=True)
    assert load_annotations(tmp_path / "train.json").num_images == 10


@pytest.fixture(scope="module")
def crops(shared, tmp_path_factory):
    """All of gtsdb_crops as one file: 906 crops of 703 photos, 33 classes, the rarest in 5."""
    folder = shared / "data" / "gtsdb_crops"
    train, val = (json.loads((folder / f"{part}.json").read_text()) for part in ("train", "val"))
    path = tmp_path_factory.mktemp("crops") / "all.json"
    for key in ("images", "annotations"):
        train[key] += val[key]
    path.write_text(json.dumps(train))
    return path


def test_crops_of_one_photo_stay_together(crops):
    annotations = load_annotations(crops)
    split = split_annotations(annotations, group_by="source_image")
    photo = {i["id"]: i["source_image"] for i in json.loads(crops.read_text())["images"]}
    photos = [{photo[i] for i in part.image_ids.tolist()} for part in (split.train, split.val)]
    assert not photos[0] & photos[1]
    assert len(photos[0] | photos[1]) == split.num_groups == 703
    assert all(c.train_images >= 4 and c.val_images for c in split.classes)
    assert split.is_val.mean() == pytest.approx(0.2, abs=0.005)
    assert all(abs(c.box_share - 0.2) <= 0.06 for c in split.classes)
    assert not split.notes
    assert cost(annotations, split.is_val, 0.2) < 0.05


def test_file_names_give_the_same_groups_as_the_key(crops):
    annotations = load_annotations(crops)
    by_key = split_annotations(annotations, group_by="source_image")
    by_name = split_annotations(annotations, group_by=re.compile(r"(\d+)_\d+\.jpg$"))
    assert by_name.is_val.tolist() == by_key.is_val.tolist()
