"""`detbalance split` as a user runs it: files, table, notes, and one line for what goes wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_command

from detbalance.data import load_annotations

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def all_json(tmp_path):
    """Twenty videos of three frames; one class is in two videos, one in a single one."""
    classes = [{"id": 5, "name": "car"}, {"id": 9, "name": "[red] owl"}, {"id": 11, "name": "elk"}]
    images, annotations = [], []
    for i in range(60):
        video, frame = divmod(i, 3)
        name = f"clips/video{video:02}_{frame}.jpg"
        images.append({"id": i, "file_name": name, "video": video, "width": 64, "height": 64})
        shown = [5, *([9] if video in (3, 8) else []), *([11] if video == 4 else [])]
        annotations += [
            {"id": 10 * i + n, "image_id": i, "category_id": c, "bbox": [1, 1, 20, 20]}
            for n, c in enumerate(shown)
        ]
    document = {"images": images, "categories": classes, "annotations": annotations}
    path = tmp_path / "all.json"
    path.write_text(json.dumps(document))
    return path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    return run_command(capsys, "split", *arguments)


def videos(path: Path) -> set[str]:
    annotations = load_annotations(path)
    names = (annotations.file_name(i) for i in range(annotations.num_images))
    return {name.removeprefix("clips/video")[:2] for name in names}


@pytest.mark.parametrize("by", [("--group-key", "video"), ("--group-regex", r"video(\d+)_")])
def test_split_writes_both_parts_and_shows_the_shares(by, all_json, tmp_path, capsys):
    output = tmp_path / "new" / "parts"
    status, out, _ = run(capsys, all_json, "--output", output, *by, "--val-share", "0.25")
    assert status == 0
    assert not videos(output / "train.json") & videos(output / "val.json")
    assert len(videos(output / "val.json")) == 5
    lines = [line.split() for line in out.splitlines()]
    assert ["elk", "1", "3", "0", "0.0%", "3", "0", "0.0%"] in lines
    assert ["[red]", "owl", "2", "3", "3", "50.0%", "3", "3", "50.0%"] in lines
    assert ["all", "20", "45", "15", "25.0%", "51", "18", "26.1%"] in lines
    assert "Note: Shown by one group only, which stays in training: elk." in out
    assert f"{output / 'val.json'} (15 images), in 20 groups" in out


def test_same_seed_same_files_and_names_as_they_were(all_json, tmp_path, capsys):
    texts = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(capsys, all_json, "--output", tmp_path / folder, "--seed", seed)[0] == 0
        texts.append((tmp_path / folder / "val.json").read_text())
    assert texts[0] == texts[1] != texts[2]
    entries = json.loads(texts[0])["images"]
    assert len(entries) == 12
    assert all(re.fullmatch(r"clips/video\d\d_\d\.jpg", entry["file_name"]) for entry in entries)
    assert all("video" in entry for entry in entries)


def test_results_are_replaced_only_when_asked(all_json, tmp_path, capsys):
    assert run(capsys, all_json, "--output", tmp_path / "a")[0] == 0
    before = (tmp_path / "a" / "val.json").read_text()
    status, out, err = run(capsys, all_json, "--output", tmp_path / "a", "--seed", 1)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'a' / 'train.json'}: exists already.")
    assert (tmp_path / "a" / "val.json").read_text() == before
    assert run(capsys, all_json, "--output", tmp_path / "a", "--seed", 1, "--overwrite")[0] == 0
    assert (tmp_path / "a" / "val.json").read_text() != before


def test_invalid_annotations_are_left_out_when_asked(all_json, tmp_path, capsys):
    document = json.loads(all_json.read_text())
    document["annotations"][0]["bbox"] = [1, 1, 0, 5]
    all_json.write_text(json.dumps(document))
    status, _, err = run(capsys, all_json, "--output", tmp_path / "a")
    assert status == 2
    assert "1 annotation has a bbox of zero width" in err
    assert not (tmp_path / "a").exists()
    assert run(capsys, all_json, "--output", tmp_path / "a", "--drop-invalid")[0] == 0
    parts = [load_annotations(tmp_path / "a" / f"{name}.json") for name in ("train", "val")]
    assert sum(part.num_annotations for part in parts) == len(document["annotations"]) - 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--group-key", "patient"], '60 of 60 images have no "patient"'),
        (["--group-regex", "photo"], 'a file_name that the regular expression "photo" misses'),
        (["--group-regex", "(video"], r'--group-regex: "\(video" is no regular expression'),
        (["--group-regex", "a{99999999999}"], "is no regular expression .the repetition number"),
        (["--group-regex", "(" * 4000 + ")" * 4000], "is no regular expression .*recursion"),
        (["--group-regex", "[[a"], "is no regular expression .unterminated character set"),
        (["--group-key", "video", "--group-regex", "a"], "both are given.*Leave one out"),
        (["--group-regex", "clips"], "all 60 images are one group"),
        (["--val-share", "1"], "1.0 is not in the range 0<x<1. See: detbalance split --help"),
        (["--val-share", "20"], "20.0 is not in the range 0<x<1"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, words, all_json, tmp_path, capsys):
    status, out, err = run(capsys, all_json, "--output", tmp_path / "a", *arguments)
    assert (status, out) == (2, "")
    assert re.search(words, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_missing_file_or_a_file_as_folder_is_one_line(all_json, tmp_path, capsys):
    status, _, err = run(capsys, tmp_path / "none.json", "--output", tmp_path / "a")
    assert status == 2
    assert "none.json: no such file" in err
    status, _, err = run(capsys, all_json, "--output", all_json)
    assert status == 2
    assert err.count("\n") == 1


def test_many_classes_are_listed_from_the_rarest(tmp_path, capsys):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(200)]
    classes = [{"id": c, "name": f"class {c:03}"} for c in range(1, 101)]
    annotations = [
        {"id": 1000 * c + i, "image_id": (7 * c + i) % 200, "category_id": c, "bbox": [1, 1, 9, 9]}
        for c in range(1, 101)
        for i in range(c + 1)
    ]
    path = tmp_path / "all.json"
    document = {"images": images, "categories": classes, "annotations": annotations}
    path.write_text(json.dumps(document))
    status, out, _ = run(capsys, path, "--output", tmp_path / "a")
    assert status == 0
    assert "class 001" in out
    assert "class 060" in out
    assert "class 061" not in out
    assert "40 more frequent classes" in out


def test_the_tool_is_the_command(all_json, tmp_path):
    command = [sys.executable, ROOT / "tools" / "split.py", all_json, "--output", tmp_path / "a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "train.json").exists()
    assert "Written: " in done.stdout
