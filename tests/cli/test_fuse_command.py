"""`detbalance fuse` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calibration_sets import make_set, member
from commands import failing_command, run_command
from scenes import training_file

from detbalance.calibration import Options, choose_fusion, fuse
from detbalance.data import Predictions, load_annotations, load_predictions, save_predictions

ROOT = Path(__file__).resolve().parents[2]
CAP = Options(max_detections=100)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    return run_command(capsys, "fuse", *arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two detectors with scores of their own, on `val.json` and on `cal.json`."""
    for name, seed in (("cal", 1), ("val", 0)):
        annotations, predictions = make_set(tmp_path, [60, 25, 10], images=40, seed=seed)
        for i, (slope, shift) in enumerate([(1.0, 0.0), (0.5, 4.0)]):
            one = member(predictions, 10 * seed + i, slope=slope, shift=shift)
            save_predictions(tmp_path / f"{name}_{i}.json", one, annotations)
        (tmp_path / "val.json").rename(tmp_path / f"{name}.json")
    training_file(tmp_path, {"c1": 300, "c2": 40, "c3": 4})
    return tmp_path


def pair(folder: Path, name: str = "val") -> list[Path]:
    return [folder / f"{name}_{i}.json" for i in range(2)]


def basic(folder: Path) -> list[object]:
    return [*pair(folder), "--annotations", folder / "val.json", "--output", folder / "out.json"]


def read(folder: Path, *names: str) -> list[Predictions]:
    annotations = load_annotations(folder / "val.json")
    return [load_predictions(folder / name, annotations) for name in names]


def assert_same(one: Predictions, other: Predictions) -> None:
    for name in ("image_index", "labels", "bbox", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_files_are_fused_without_calibration(folder: Path, capsys) -> None:
    before = {file: file.read_bytes() for file in folder.glob("*.json")}
    status, out, err = run(capsys, *basic(folder))
    assert (status, err) == (0, "")
    one, other, fused = read(folder, "val_0.json", "val_1.json", "out.json")
    assert_same(fused, fuse([one, other], options=CAP))
    assert "Note: scores of different files were taken as they are. With --calibrate-on" in out
    total = one.num_predictions + other.num_predictions
    assert f"({fused.num_predictions} detections of {total} in 2 files)" in out
    assert all(file.read_bytes() == content for file, content in before.items())
    error = failing_command(capsys, "fuse", *basic(folder))
    assert "out.json: is there already. A new file is expected. Pass --overwrite" in error
    options = ["--method", "nms", "--weight", "3", "--weight", "1", "--iou", "0.7"]
    options += ["--score-threshold", "0.1", "--min-fused-score", "0.2", "--max-detections", "4"]
    status, _, _ = run(capsys, *basic(folder), *options, "--overwrite")
    assert status == 0
    wanted = Options(iou_threshold=0.7, score_threshold=0.1, min_fused_score=0.2, max_detections=4)
    expected = fuse([one, other], "nms", weights=[3, 1], options=wanted)
    assert_same(read(folder, "out.json")[0], expected)


def test_one_file_and_a_run_folder_and_an_empty_file(folder: Path, capsys) -> None:
    (folder / "run").mkdir()
    (folder / "val_0.json").rename(folder / "run" / "predictions.json")
    (folder / "nothing.json").write_text("[]")
    common = ["--annotations", folder / "val.json", "--method", "nms"]
    status, out, _ = run(capsys, folder / "run", *common, "--output", folder / "one.json")
    assert (status, "Note" in out) == (0, False)
    arguments = [folder / "run", folder / "nothing.json", *common, "--output", folder / "two.json"]
    assert run(capsys, *arguments)[0] == 0
    own, one, two = read(folder, "run/predictions.json", "one.json", "two.json")
    assert_same(one, two)
    assert_same(one, fuse([own], "nms", options=CAP))


def test_calibrated_on_other_images(folder: Path, capsys) -> None:
    arguments = ["--calibrate-on", folder / "cal.json", "--train", folder / "train.json"]
    for file in pair(folder, "cal"):
        arguments += ["--calibration-predictions", file]
    status, out, err = run(capsys, *basic(folder), *arguments, "--folds", "3")
    assert (status, err) == (0, "")
    calibration = load_annotations(folder / "cal.json")
    known = [load_predictions(file, calibration) for file in pair(folder, "cal")]
    choice = choose_fusion(calibration, known, options=CAP, num_folds=3)
    one, other, fused = read(folder, "val_0.json", "val_1.json", "out.json")
    assert_same(fused, choice.fuse([one, other]))
    lines = [line.split() for line in out.splitlines()]
    assert ["calibrated", "on", str(folder / "cal.json")] in lines
    assert ["c3", "rare", "4", "10"] in [line[:4] for line in lines]
    for text in (
        "judged by      3 folds of images, seed 0, by COCO's rules",
        f"1 {folder / 'val_0.json'}",
        "equal weights, scores as they are",
        "equal weights, calibrated",
        choice.verdict,
    ):
        assert text in out
    assert "was fused by what the others say" not in out


def test_calibrated_on_the_images_that_are_fused(folder: Path, capsys) -> None:
    arguments = ["--calibrate-on", folder / "val.json", "--folds", "4", "--seed", "1"]
    status, out, err = run(capsys, *basic(folder), *arguments, "--method", "soft_nms")
    assert (status, err) == (0, "")
    one, other, fused = read(folder, "val_0.json", "val_1.json", "out.json")
    annotations = load_annotations(folder / "val.json")
    choice = choose_fusion(annotations, [one, other], "soft_nms", options=CAP, num_folds=4, seed=1)
    order = np.lexsort((choice.held_out.scores, choice.held_out.image_index))
    back = np.lexsort((fused.scores, fused.image_index))
    np.testing.assert_array_equal(choice.held_out.scores[order], fused.scores[back])
    assert f"each of the 4 parts of {folder / 'val.json'} was fused by what the others say" in out


def test_what_is_worse_is_said_at_the_end(folder: Path, capsys) -> None:
    annotations = load_annotations(folder / "val.json")
    (good,) = read(folder, "val_0.json")
    # Beside every object, within the IoU that makes boxes one: fused boxes find nothing.
    moved = np.array([8.0, 0, 0, 0])
    poor = Predictions(good.image_index, good.labels, good.bbox + moved, good.scores)
    name = folder / "[red] poor.json"
    save_predictions(name, poor, annotations)
    files = [folder / "val_0.json", name]
    arguments = ["--calibrate-on", folder / "val.json", "--iou", "0.1"]
    status, out, _ = run(capsys, *files, *basic(folder)[2:], *arguments)
    assert status == 0
    assert f"2 {name}" in out
    warning = f"Warning: Fusion is worse than {folder / 'val_0.json'} alone on held-out images"
    assert warning in out.split("No clear gain on held-out images")[1]


def test_what_a_user_can_get_wrong(folder: Path, capsys) -> None:
    command = basic(folder)
    calibrate = ["--calibrate-on", folder / "cal.json"]
    both = [x for file in pair(folder, "cal") for x in ("--calibration-predictions", file)]
    cases: list[tuple[list[object], str]] = [
        ([*command, "--weight", "1"], "--weight: 1 weights for 2 results files. One for each"),
        ([*command, "--weight", "1", "--weight", "-1"], "1 weights are negative or not finite"),
        ([*command, "--weight", "0", "--weight", "0"], "all weights are 0. At least one above 0"),
        ([*command, "--weight", "nan", "--weight", "1"], "nan is not a finite number"),
        (
            [*command, *calibrate, *both, "--weight", "1", "--weight", "1"],
            "--weight, --calibrate-on: both are given",
        ),
        ([*command, *both], "--calibration-predictions: --calibrate-on is missing"),
        ([*command, "--train", folder / "train.json"], "--train: --calibrate-on is missing"),
        ([*command, "--iou", "0.5", "--iou", "0.6"], "--iou, more than one: --calibrate-on is"),
        ([*command, *calibrate, *both[:2]], "--calibration-predictions: 1 for 2 results files"),
        (
            [*command, "--calibrate-on", folder / "val.json", *both],
            "--calibrate-on is the file of --annotations, whose results are given",
        ),
        ([*command, *calibrate, *both, "--folds", "41"], "folds: 41 folds of the 40 images"),
        (
            [*command, *calibrate, *both, "--train", folder / "cal.json"],
            f"--calibrate-on: {folder / 'cal.json'} is the training file too",
        ),
        ([folder / "none.json", *command[2:]], "none.json: no such file"),
        ([*command[2:]], "Missing argument 'RESULTS.JSON...'"),
        ([*command, "--method", "mean"], "'mean' is not one of"),
        ([*command[:-1], folder / "val_0.json", "--overwrite"], "is one of the files to read"),
        ([*command[:-1], folder], "is a folder. A file to write is expected"),
    ]
    for arguments, expected in cases:
        assert expected in failing_command(capsys, "fuse", *arguments), expected
    assert not (folder / "out.json").exists()


def test_files_that_do_not_fit_are_refused(folder: Path, capsys) -> None:
    sound = json.loads((folder / "val_1.json").read_text())
    changes: list[tuple[dict[str, object], str]] = [
        ({"image_id": 999}, "1 of {n} detections have an image_id that"),
        ({"category_id": 77}, "1 of {n} detections have a category_id that"),
        ({"score": float("nan")}, ""),
        ({"score": 3.5}, "1 of {n} detections have a score outside 0..1 (first: detection 0,"),
        ({"score": -0.5}, "1 of {n} detections have a score outside 0..1"),
        ({"bbox": [0, 0, -5, 5]}, "bbox that is not finite or has a negative size"),
    ]
    for change, expected in changes:
        (folder / "val_1.json").write_text(json.dumps([{**sound[0], **change}, *sound[1:]]))
        error = failing_command(capsys, "fuse", *basic(folder))
        assert "val_1.json" in error
        assert expected.format(n=len(sound)) in error
    flat = [{**sound[0], "bbox": [0, 0, 0, 5]}, *sound[1:]]
    (folder / "val_1.json").write_text(json.dumps(flat))
    assert run(capsys, *basic(folder))[0] == 0
    document = json.loads((folder / "cal.json").read_text())
    document["categories"][0]["name"] = "another"
    (folder / "cal.json").write_text(json.dumps(document))
    both = [x for file in pair(folder, "cal") for x in ("--calibration-predictions", file)]
    arguments = [*basic(folder), "--overwrite", "--calibrate-on", folder / "cal.json", *both]
    assert "its classes are not those of" in failing_command(capsys, "fuse", *arguments)


def test_the_tool_is_the_command(folder: Path) -> None:
    script = [sys.executable, str(ROOT / "tools/fuse.py"), *map(str, basic(folder))]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Written:" in done.stdout


def test_what_the_cap_of_an_image_cuts_is_said(folder: Path, capsys) -> None:
    one, other = read(folder, "val_0.json", "val_1.json")
    every = np.bincount(fuse([one, other]).image_index)
    cap = int(np.median(every))
    status, out, _ = run(capsys, *basic(folder), "--max-detections", cap)
    cut, full = np.maximum(every - cap, 0).sum(), (every > cap).sum()
    assert status == 0
    assert cut > 1
    assert (
        f"Note: {cut} of {every.sum():,} fused detections were cut: an image keeps its best {cap}"
        f" (--max-detections), and {full} images have more." in out
    )
    assert f"({every.sum() - cut} detections of " in out
    _, out, _ = run(capsys, *basic(folder), "--overwrite", "--max-detections", every.max())
    assert "were cut" not in out
    itself = ["--overwrite", "--calibrate-on", folder / "val.json", "--folds", "3"]
    _, out, _ = run(capsys, *basic(folder), *itself, "--max-detections", cap)
    (fused,) = read(folder, "out.json")
    full = (np.bincount(fused.image_index) == cap).sum()
    assert f"Note: {full} images have {cap} detections and may have had more: an image" in out


def test_a_file_of_images_and_classes_suffices_where_no_box_is_asked_for(
    folder: Path, capsys
) -> None:
    assert run(capsys, *basic(folder))[0] == 0
    expected = (folder / "out.json").read_bytes()
    document = json.loads((folder / "val.json").read_text())
    del document["annotations"]
    (folder / "val.json").write_text(json.dumps(document))
    assert run(capsys, *basic(folder), "--overwrite")[0] == 0
    assert (folder / "out.json").read_bytes() == expected
    arguments = [*basic(folder), "--overwrite", "--calibrate-on", folder / "val.json"]
    assert '"annotations" is missing' in failing_command(capsys, "fuse", *arguments)
    del document["images"]
    (folder / "val.json").write_text(json.dumps(document))
    assert '"images" is missing' in failing_command(capsys, "fuse", *basic(folder), "--overwrite")
