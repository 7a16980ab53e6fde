"""Results files: read and written without change, refused with count and first example."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.data import (
    Predictions,
    load_annotations,
    load_predictions,
    results_file,
    save_predictions,
)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    path = tmp_path_factory.mktemp("annotations") / "val.json"
    images = [{"id": i} for i in (30, 10, 0)]
    categories = [{"id": i, "name": f"class {i}"} for i in (0, 4, 9)]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    return load_annotations(path)


@pytest.fixture
def load(tmp_path, annotations):
    def run(content):
        path = tmp_path / "results.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps(content))
        return load_predictions(path, annotations)

    return run


def entry(**changes):
    return {"image_id": 10, "category_id": 4, "bbox": [1, 2, 3, 4.5], "score": 0.5, **changes}


number = st.floats(0, 1e6)
entries = st.lists(
    st.builds(
        lambda image_id, category_id, bbox, score: {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": list(bbox),
            "score": score,
        },
        st.sampled_from([30, 10, 0]),
        st.sampled_from([0, 4, 9]),
        st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), number, number),
        st.floats(-1e3, 1e3),
    ),
    max_size=20,
)


@given(entries, st.booleans())
@settings(max_examples=60)
def test_load_and_save_change_nothing(tmp_path_factory, annotations, results, tolerant):
    """Also through the tolerant reader, which an image_id written as 10.0 calls."""
    folder = tmp_path_factory.mktemp("results")
    written = [{**r, "image_id": float(r["image_id"])} if tolerant else r for r in results]
    (folder / "a.json").write_text(json.dumps(written))
    loaded = load_predictions(folder / "a.json", annotations)
    rows = {30: 0, 10: 1, 0: 2}
    assert loaded.num_predictions == len(results)
    assert loaded.image_index.tolist() == [rows[r["image_id"]] for r in results]
    assert loaded.labels.tolist() == [{0: 1, 4: 2, 9: 3}[r["category_id"]] for r in results]
    assert loaded.bbox.shape == (len(results), 4)
    save_predictions(folder / "b.json", loaded, annotations)
    assert json.loads((folder / "b.json").read_text()) == results


extras = st.fixed_dictionaries(
    {},
    optional={
        "attributes": st.just([{"k": 1}, {"k": [{"l": 2}, {"l": 3}]}]),
        "note": st.sampled_from(["}, {", "]", '"}, {"', "\\", "é}, {\n"]),
    },
)


@given(entries, st.lists(extras, min_size=20, max_size=20), st.sampled_from([None, 1]))
@settings(max_examples=60)
def test_any_length_of_the_parts_gives_the_same(
    tmp_path_factory, annotations, results, more, indent
):
    """Other keys may hold what looks like the end of a detection."""
    path = tmp_path_factory.mktemp("parts") / "a.json"
    longer = [{**r, **extra} for r, extra in zip(results, more, strict=False)]
    path.write_text(json.dumps(longer, indent=indent))
    whole = load_predictions(path, annotations)
    assert whole.bbox.tolist() == [r["bbox"] for r in results]
    for part in (1, 60, 300):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(results_file, "_PART", part)
            again = load_predictions(path, annotations)
        for field in ("image_index", "labels", "bbox", "scores"):
            np.testing.assert_array_equal(getattr(again, field), getattr(whole, field))


@given(st.data())
@settings(max_examples=60)
def test_a_file_that_is_cut_off_is_refused_in_one_line(tmp_path_factory, annotations, data):
    text = json.dumps([entry(score=i / 10) for i in range(8)], indent=1).encode()
    end = data.draw(st.integers(1, len(text) - 1))
    path = tmp_path_factory.mktemp("cut") / "a.json"
    path.write_bytes(text[:end])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_file, "_PART", data.draw(st.sampled_from([1, 100, 10**6])))
        with pytest.raises(ValueError, match=r"a.json: not JSON \(.* at line") as caught:
            load_predictions(path, annotations)
    # A number may be cut in two, and its first half is read as one.
    in_value = text[end - 1 : end] in b".-"
    assert in_value or str(caught.value).count("where the text ends") == 1
    lines = {part.count(b"\n") + 1 for part in (text[:end], text[:end].rstrip())}
    assert any(f"at line {line}, column" in str(caught.value) for line in lines)


def test_a_fault_is_placed_in_the_whole_file(tmp_path, annotations, monkeypatch):
    monkeypatch.setattr(results_file, "_PART", 150)
    path = tmp_path / "a.json"
    sound = [json.dumps(entry()) for _ in range(9)]
    wrong = json.dumps(entry(score="high"))
    path.write_text("[" + ",\n".join([*sound, wrong, *sound, wrong]) + "]")
    with pytest.raises(ValueError, match=r"2 of 20 detections have a score .*first: detection 9,"):
        load_predictions(path, annotations)
    path.write_text("[" + ",\n".join([*sound, "{oops}", *sound]) + "]")
    with pytest.raises(ValueError, match=r"not JSON .* at line 10, column 2"):
        load_predictions(path, annotations)
    monkeypatch.setattr(results_file, "_LONGEST_PART", 200)
    path.write_text("[" + ",\n".join([*sound, '{"a": [{"k": 1}', *sound]) + "]")
    with pytest.raises(ValueError, match=r"not JSON .* at line 1"):
        load_predictions(path, annotations)


def test_reading_stops_when_faults_are_many(tmp_path, annotations, monkeypatch):
    monkeypatch.setattr(results_file, "_PART", 100)
    monkeypatch.setattr(results_file, "_ENOUGH_FAULTS", 5)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry(score=None)] * 1000))
    with pytest.raises(ValueError, match=r"[5-7] of the first [5-7] detections have a score that"):
        load_predictions(path, annotations)


def test_a_list_in_another_encoding(load):
    assert load(json.dumps([entry()]).encode("utf-16")).num_predictions == 1
    assert load(b"\xef\xbb\xbf" + json.dumps([entry()]).encode()).num_predictions == 1


def test_memory_is_little_more_than_the_arrays(tmp_path, annotations):
    count = 30_000
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry(score=i / count) for i in range(count)]))
    tracemalloc.start()
    loaded = load_predictions(path, annotations)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loaded.num_predictions == count
    assert held < 80 * count  # eight numbers, and what arrays grow ahead
    assert peak < 110 * count + 2**20


def test_reading_can_be_interrupted(tmp_path, annotations):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry()] * 100_000))
    annotations.save(tmp_path / "val.json")
    script = (
        "import signal, sys; from detbalance.data import load_annotations as a;"
        "from detbalance.data import load_predictions as p; truth = a(sys.argv[1]);"
        # Ignored where the tests run in the background of a shell.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "print(flush=True)\nwhile True: p(sys.argv[2], truth)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "val.json", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as reading:
        reading.stdout.readline()
        reading.send_signal(signal.SIGINT)
        try:
            _, errors = reading.communicate(timeout=20)
        finally:
            reading.kill()
    assert b"KeyboardInterrupt" in errors


def test_saving_in_parts_gives_one_list(tmp_path, annotations, monkeypatch):
    monkeypatch.setattr("detbalance.data.predictions._CHUNK", 2)
    many = Predictions([0, 1, 2, 0, 1], [1] * 5, np.ones((5, 4)), np.arange(5))
    save_predictions(tmp_path / "many.json", many, annotations)
    assert [r["score"] for r in json.loads((tmp_path / "many.json").read_text())] == [*range(5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [entry(), entry(image_id=5), entry(image_id=6)],
            "2 of 3 detections have an image_id that .*val.json does not list "
            ".first: detection 1, image_id 5",
        ),
        (
            [entry(category_id=1)],
            "1 of 1 detections have a category_id that .*val.json .*category_id 1",
        ),
        (
            [entry(score=float("nan"))],
            "have a score that is not finite .first: detection 0, score nan",
        ),
        ([entry(bbox=[0, 0, -1, 5])], "bbox that is not finite or has a negative size"),
        ([entry(bbox=[0, 0, 5, -1])], "bbox that is not finite or has a negative size"),
        ([entry(bbox=[0, 0, float("inf"), 5])], "bbox that is not finite or has a negative size"),
        (
            [entry(bbox=[0, 0, 5])],
            r"have a bbox that is not four numbers .first: detection 0, bbox \[0, 0, 5\]",
        ),
        (
            [entry(), entry(image_id="x.jpg"), entry(image_id="11")],
            "2 of 3 detections have an image_id that is no id in .*val.json, and not every "
            'image_id is the name of just one image file there .first: detection 1, image_id "x.j',
        ),
        ([entry(image_id=True)], "an image_id that is not a whole number .first: detection 0, im"),
        ([entry(image_id=2**64)], r"have an image_id beyond 64 bits, above 2\^63 - 1 .first: det"),
        (
            [entry(category_id="owl")],
            "a category_id that is not a whole number .first: detection 0",
        ),
        ([entry(category_id=2**64)], r"have a category_id beyond 64 bits, above 2\^63 - 1 .first"),
        ([entry(), {"image_id": 10}], "1 of 2 detections have no category_id"),
        (
            [{"image_id": 10, "category_id": 4, "segmentation": {}, "score": 1}],
            "have a segmentation and no bbox .first: detection 0, mask results",
        ),
        ([entry(), 5], "are not JSON objects .first: detection 1, 5"),
        ([entry(score=True)], "have a score that is not a number"),
        ({"images": [], "annotations": []}, "looks like an annotation file"),
        ({}, "the file is a JSON object. Expected a list of detections"),
        (
            b'\n{"image_id": 10}\n{"image_id": 10}\n',
            "the file holds JSON lines, one object a line, in place of one list. Expected",
        ),
        ({"results": [entry()]}, 'the file is a JSON object with the list in "results". Expected'),
        ("text", 'the file holds "text"'),
        (b"[{]", "not JSON .*line 1, column 3"),
        (b"", "the file is empty"),
        (
            gzip.compress(b"[]", mtime=0),
            r"the file is compressed \(gzip\)\. Expected JSON\. Unpack it first",
        ),
        (b'{"images": [1, ', "the file is a JSON object. Expected a list"),
        (b"[]]", "not JSON .Extra data at line 1, column 3"),
        (b"[1, \xff]", "not JSON .byte 4 is not utf-8"),
        (b"[" * 100_000, "not JSON .nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "not JSON .Exceeds the limit"),
        (
            b'[{"image_id": 10,\n "category_id": 4, "bbox": [1, 2, 3, 4, "score": 0.5}]',
            r"not JSON .Expecting ',' delimiter at line 2, column 48\)",
        ),
    ],
)
def test_wrong_results_are_refused_in_one_line(load, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(content)
    assert "\n" not in str(caught.value)
    assert "results.json: " in str(caught.value)


def test_all_kinds_are_named_at_once(load):
    with pytest.raises(ValueError, match=r"image_id 5\); .*category_id 1\)\. Expected results"):
        load([entry(image_id=5), entry(category_id=1)])


def test_ids_are_looked_up_in_blocks(load, monkeypatch):
    monkeypatch.setattr("detbalance.data.results_file._BLOCK", 2)
    sound = [entry(image_id=i) for i in (30, 0, 10, 30, 0)]
    assert load(sound).image_index.tolist() == [0, 2, 1, 0, 2]
    message = r"3 of 8 detections have an image_id .*first: detection 5, image_id 77\)"
    with pytest.raises(ValueError, match=message):
        load([*sound, *(entry(image_id=i) for i in (77, 78, 79))])


def test_only_ids_advise_another_annotation_file(load):
    for wrong, advised in (
        (entry(bbox=[9, 9, -5, 5]), False),
        (entry(score=float("inf")), False),
        (entry(image_id=5), True),
        (entry(category_id=5), True),
    ):
        with pytest.raises(ValueError, match=r"Expected") as caught:
            load([entry(), wrong])
        assert ("Name the annotation file" in str(caught.value)) == advised
        assert ("left, top, width and height" in str(caught.value)) != advised


@pytest.mark.parametrize("part", [1, 10**6])
def test_ids_as_text_are_read_with_a_note(load, caplog, monkeypatch, part):
    monkeypatch.setattr(results_file, "_PART", part)
    ids = [30, "10", "010", 0, "30"]
    loaded = load([entry(image_id=i, category_id=str(4 * (n > 0))) for n, i in enumerate(ids)])
    assert loaded.image_index.tolist() == [0, 1, 1, 2, 0]
    assert loaded.labels.tolist() == [1, 2, 2, 2, 2]
    assert "3 of 5 detections have an image_id as text (kept, read as a number) (first: " in (
        caplog.text
    )
    assert "5 of 5 detections have a category_id as text (kept, read as a number)" in caplog.text


NAMES = {
    7: "a/one.jpg",
    8: "a/0012.jpg",
    9: "b/two.x.png",
    12: "b/0007.jpg",
    40: "c/two.x.jpg",
    99: "d/40.jpg",
}


@pytest.fixture
def named(tmp_path):
    images = [{"id": i, "file_name": name} for i, name in NAMES.items()]
    document = {"images": images, "categories": [{"id": 4, "name": "a"}], "annotations": []}
    (tmp_path / "val.json").write_text(json.dumps(document))
    truth = load_annotations(tmp_path / "val.json")

    def run(*image_ids):
        path = tmp_path / "results.json"
        path.write_text(json.dumps([entry(image_id=i) for i in image_ids]))
        return truth.image_ids[load_predictions(path, truth).image_index].tolist()

    return run


@pytest.mark.parametrize(
    ("image_ids", "expected"),
    [
        (["one"], [7]),
        (["one", "a/one", "one.jpg", "a/one.jpg"], [7] * 4),
        (["two.x.png", "c/two.x"], [9, 40]),
        # Names of digits are written as numbers by some, and belong to names in such a file.
        (["one", 12, 7, "0012"], [7, 8, 12, 8]),
        (["one", "one", 7], [7, 7, 12]),
        # All are ids, or are ids and names of the same images.
        ([12, 7, 8], [12, 7, 8]),
        (["40", "9"], [40, 9]),
    ],
)
def test_images_are_named_by_file_where_that_is_unique(named, caplog, image_ids, expected):
    assert named(*image_ids) == expected
    by_file = "image_id is the name of an image file of" in caplog.text
    assert by_file == ("one" in image_ids or "two.x.png" in image_ids)


def test_numbers_that_are_no_ids_may_all_be_names(tmp_path):
    images = [{"id": i, "file_name": f"{i + 3:04}.jpg"} for i in range(5)]
    document = {"images": images, "categories": [{"id": 4, "name": "a"}], "annotations": []}
    (tmp_path / "val.json").write_text(json.dumps(document))
    truth = load_annotations(tmp_path / "val.json")
    for ids, expected in (([3, 7, 5], [0, 4, 2]), ([3, 4], [3, 4])):
        (tmp_path / "results.json").write_text(json.dumps([entry(image_id=i) for i in ids]))
        loaded = load_predictions(tmp_path / "results.json", truth)
        assert loaded.image_index.tolist() == expected
    (tmp_path / "results.json").write_text(json.dumps([entry(image_id=i) for i in (3, 9)]))
    with pytest.raises(ValueError, match=r"1 of 2 detections have an image_id that .* not list"):
        load_predictions(tmp_path / "results.json", truth)


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [
        (["two.x"], 'the name of just one image file there .*image_id "two.x"'),
        (
            ["40"],
            'image_id fits the ids of .* other images .first: "40" is an id, and the image d/40',
        ),
        (["one", 9], '1 of 2 detections have an image_id that is no id in .*image_id "one"'),
    ],
)
def test_names_that_fit_several_images_are_refused(named, image_ids, message):
    with pytest.raises(ValueError, match=message):
        named(*image_ids)


def test_missing_file(tmp_path, annotations):
    with pytest.raises(ValueError, match="no such file"):
        load_predictions(tmp_path / "none.json", annotations)


def test_empty_list_is_fine(load):
    empty = load([])
    assert empty.num_predictions == 0
    assert empty.bbox.shape == (0, 4)


def test_predictions_are_read_only_and_checked():
    one = Predictions([0], [1], [[1, 2, 3, 4]], [0.5])
    with pytest.raises(ValueError, match="read-only"):
        one.scores[0] = 1
    with pytest.raises(ValueError, match=r"labels is \[2\] beside 1 scores. Expected \[1\]"):
        Predictions([0], [1, 2], [[1, 2, 3, 4]], [0.5])
    with pytest.raises(ValueError, match=r"bbox is \[4\] beside 1 scores. Expected \[1, 4\]"):
        Predictions([0], [1], [1, 2, 3, 4], [0.5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_index": [3]}, "image row 3 does not exist. .*rows 0 to 2"),
        ({"labels": [0]}, "label 0 has no category_id"),
        ({"scores": [np.nan]}, "1 detections have a score or bbox that is not finite"),
        ({"bbox": [[0, 0, np.inf, 1]]}, "1 detections have a score or bbox that is not finite"),
    ],
)
def test_save_refuses_what_could_not_be_read_back(tmp_path, annotations, changes, message):
    arrays = {"image_index": [0], "labels": [1], "bbox": [[1, 2, 3, 4]], "scores": [0.5]}
    with pytest.raises(ValueError, match=message):
        save_predictions(tmp_path / "x.json", Predictions(**{**arrays, **changes}), annotations)
    assert not list(tmp_path.iterdir())


def test_real_results(shared, tmp_path):
    folder = shared / "eval/coco_fakebbox100"
    truth = load_annotations(folder / "instances_val2014_100.json")
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    loaded = load_predictions(folder / "instances_val2014_fakebbox100_results.json", truth)
    assert truth.image_ids[loaded.image_index].tolist() == [r["image_id"] for r in results]
    assert loaded.bbox.tolist() == [r["bbox"] for r in results]
    save_predictions(tmp_path / "again.json", loaded, truth)
    keys = ("image_id", "category_id", "bbox", "score")
    assert json.loads((tmp_path / "again.json").read_text()) == [
        {key: r[key] for key in keys} for r in results
    ]
    with pytest.raises(ValueError, match="segmentation and no bbox"):
        load_predictions(folder / "instances_val2014_fakesegm100_results.json", truth)
