"""`detbalance plan` from outside: what it prints, writes, refuses, and what it does without."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from plans import coco, long_tail, write

from detbalance.data import load_annotations
from detbalance.data.images import check_images
from detbalance.planning import load_plan

pytest.importorskip("rich")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path):
    """A training file with a fault and a validation file."""
    document = coco(long_tail())
    document["annotations"][0]["category_id"] = 99
    write(tmp_path / "train.json", document)
    write(tmp_path / "val.json", coco([["snow"]] * 5 + [["road"]] * 30, prefix="val"))
    return tmp_path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    return run_command(capsys, "plan", *arguments)


def test_plan_is_printed_with_its_findings_and_status_0(files, capsys, caplog):
    status, out, err = run(capsys, files / "train.json", "--val", files / "val.json")
    assert status == 0
    assert "1 finding to look at before training" in out
    assert 'a category_id that "categories" does not list' in out
    assert "Recommended: " in out
    assert "Nothing is written. --output DIR keeps plan.json" in out
    assert err == ""
    assert not caplog.records  # the fault is in the plan, not on the log as well
    assert sorted(path.name for path in files.iterdir()) == ["train.json", "val.json"]


def test_plan_is_written_and_not_overwritten_unasked(files, capsys):
    pytest.importorskip("matplotlib")
    folder = files / "runs" / "plan"
    command = (files / "train.json", "--output", folder)
    status, out, _ = run(capsys, *command)
    assert status == 0
    names = ["plan.csv", "plan.json", "plan.png", "plan.svg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all(str(folder / name) in out for name in names)
    assert "plan.svg" in out
    before = load_plan(folder / "plan.json")
    status, _, err = run(capsys, *command, "--target-length", 700)
    assert status == 2
    assert "already holds a plan" in err
    assert load_plan(folder / "plan.json").to_dict() == before.to_dict()
    status, _, _ = run(capsys, *command, "--target-length", 700, "--overwrite")
    assert status == 0
    assert load_plan(folder / "plan.json").target_length == 700


def test_options_reach_the_plan(files, capsys):
    limits = ("--rare", 10, "--common", 100, "--images-per-second", 2)
    status, out, _ = run(capsys, files / "train.json", *limits)
    assert status == 0
    assert "rare: up to 10 train images" in out
    assert "183 s" not in out
    assert "3 min" in out  # 366 images at 2 a second


def sized(images, **options):
    """A document of images as large as those of `picture`."""
    document = coco(images, **options)
    for image in document["images"]:
        image["width"] = image["height"] = 64
    return document


def picture(path: Path, seed: int) -> None:
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image.fromarray(small).resize((64, 64)).save(path)


def test_images_in_both_sets_are_found(tmp_path, capsys):
    pytest.importorskip("PIL")
    write(tmp_path / "train.json", sized([["a"], ["b"], ["a"]]))
    write(tmp_path / "val.json", sized([["a"], ["b"]], prefix="val"))
    for i, name in enumerate(("0", "1", "2", "val0")):
        picture(tmp_path / f"{name}.png", i)
    (tmp_path / "val1.png").write_bytes((tmp_path / "2.png").read_bytes())
    folders = ("--images", tmp_path, "--val-images", tmp_path)
    status, out, _ = run(capsys, tmp_path / "train.json", "--val", tmp_path / "val.json", *folders)
    assert status == 0
    assert "1 image is byte for byte in" in out
    assert "val1.png as 2.png" in out
    assert "cannot be used" not in out
    (tmp_path / "val0.png").unlink()
    status, out, _ = run(capsys, tmp_path / "train.json", "--val", tmp_path / "val.json", *folders)
    assert "1 of 2 images cannot be used" in out
    assert "val0.png is missing" in out


def test_images_that_training_would_refuse_are_findings(tmp_path, capsys):
    """What training says of the files, the plan says before it: sizes, orientation, damage."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("PIL")
    document = sized([["a"], ["b"], ["a"], ["b"], ["a"]])
    document["images"][1]["width"] = 32
    train = write(tmp_path / "train.json", document)
    for i in range(4):
        picture(tmp_path / f"{i}.png", i)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-60])
    data = bytearray((tmp_path / "0.png").read_bytes())
    data[len(data) // 2] ^= 255  # damaged in the middle: found by decoding only
    (tmp_path / "0.png").write_bytes(data)
    tall = image.new("RGB", (64, 48))
    tall.save(tmp_path / "3.png")
    status, out, _ = run(capsys, train, "--images", tmp_path)
    assert status == 0
    found = check_images(load_annotations(train), tmp_path)
    assert list(found) == ["1.png", "2.png", "3.png", "4.png"]
    assert "5 of 5 images cannot be used" in out
    assert f"1.png {found['1.png']}" in out
    assert found["1.png"] == "is 64x64 pixels, the annotations say 32x64"


def test_a_file_listed_twice_is_one_finding(tmp_path, capsys):
    pytest.importorskip("PIL")
    document = sized([["a"], ["b"], ["a"]])
    document["images"][2]["file_name"] = "0.png"
    train = write(tmp_path / "train.json", document)
    for i in range(2):
        picture(tmp_path / f"{i}.png", i)
    out = run(capsys, train, "--images", tmp_path)[1]
    assert "1 finding to look at before training" in out
    assert "1 file name is listed under several image ids (0.png)" in out


def test_images_that_training_has_twice_are_found(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("PIL")
    write(tmp_path / "train.json", sized([["a"], ["b"], ["a"]]))
    for i in range(2):
        picture(tmp_path / f"{i}.png", i)
    with image.open(tmp_path / "0.png") as opened:
        opened.save(tmp_path / "2.png", compress_level=0)
    status, out, _ = run(capsys, tmp_path / "train.json", "--images", tmp_path)
    assert status == 0
    assert "1 image is nearly the same picture here twice (2.png as 0.png)" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["absent.json"], "absent.json: no such file"),
        (["bad.json"], "bad.json: not JSON"),
        (["train.json", "--val", "absent.json"], "absent.json: no such file"),
        (["train.json", "--rare", "3"], "only one of them is given"),
        (["train.json", "--rare", "30", "--common", "3"], "limits are (30, 3)"),
        (["train.json", "--target-length", "0"], "--target-length"),
        (["train.json", "--images-per-second", "0"], "--images-per-second"),
        (["train.json", "--images-per-second", "inf"], "inf is not a finite number"),
        (["train.json", "--val-images", "."], "--val is missing"),
        (["train.json", "--val", "val.json", "--val-images", "."], "--images is missing"),
        (["train.json", "--val", "val.json", "--images", "."], "--val-images is missing"),
        (["train.json", "--images", "nowhere"], "nowhere is no folder"),
        (["train.json", "--output", "train.json"], "train.json: is a file. A folder is expected"),
        ([], "Missing argument"),
        (["train.json", "--vall", "x"], "No such option"),
    ],
)
def test_user_faults_end_in_one_line_and_status_2(files, capsys, monkeypatch, options, words):
    monkeypatch.chdir(files)
    (files / "bad.json").write_text("{")
    status, _, err = run(capsys, *options)
    assert status == 2
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(path.name for path in files.iterdir()) == ["bad.json", "train.json", "val.json"]


def test_a_missing_drawing_library_is_said_before_any_work(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = run(capsys, files / "train.json", "--output", files / "out")
    assert status == 2
    assert out == ""
    assert re.search(r"Install with: pip install .*\[plan\]", err)
    assert not (files / "out").exists()


BLOCKED = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)


sys.meta_path.insert(0, Blocked())
{script}
"""


def fresh(blocked: list[str], script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked, script=script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_needs_no_torch(files):
    pytest.importorskip("matplotlib")
    arguments = ["plan", str(files / "train.json"), "--val", str(files / "val.json")]
    arguments += ["--output", str(files / "out")]
    heavy = ["torch", "torchvision", "albumentations", "cv2", "pydantic", "pycocotools"]
    done = fresh(heavy, f"from detbalance.cli import main; main({arguments})")
    assert done.returncode == 0, done.stderr
    assert json.loads((files / "out" / "plan.json").read_text())["schema"] == "detbalance.plan/2"


def test_planning_needs_numpy_only(files):
    script = f"""
from detbalance.data import load_annotations
from detbalance.planning import make_plan
plan = make_plan(load_annotations({str(files / "train.json")!r}, drop_invalid=True))
print(plan.recommendation.lines)
"""
    done = fresh(["torch", "rich", "matplotlib", "PIL", "imagehash", "scipy", "cv2"], script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sampling:\n")


@pytest.mark.slow
def test_a_plan_of_the_size_of_lvis_takes_seconds(tmp_path, capsys):
    import time

    draw = np.random.default_rng(0)
    share = 1.0 / np.arange(1, 1204) ** 1.3
    labels = draw.choice(1203, 1_270_000, p=share / share.sum())
    images = draw.integers(0, 100_000, len(labels))
    document = {
        "images": [{"id": i} for i in range(100_000)],
        "categories": [{"id": i, "name": f"thing {i}"} for i in range(1203)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 20, 30]}
            for n, (i, c) in enumerate(zip(images.tolist(), labels.tolist(), strict=True))
        ],
    }
    path = write(tmp_path / "train.json", document)
    start = time.perf_counter()
    status, _, _ = run(capsys, path, "--output", tmp_path / "out")
    assert status == 0
    assert time.perf_counter() - start < 40
