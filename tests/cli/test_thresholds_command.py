"""`detbalance thresholds`, `rescore` and `evaluate --thresholds` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calibration_sets import make_set
from commands import run_command as run
from scenes import training_file
from squares import make_data, write_config

from detbalance.calibration import apply_thresholds, load_thresholds, rescore
from detbalance.cli.runs import train_run
from detbalance.data import load_annotations, load_predictions
from detbalance.training.config import load_config

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("[red] owl", "c2", "c3")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Three classes with scores of their own; the first has a name that rich would read."""
    make_set(tmp_path, [200, 60, 25], shifts=[2, -2, 0])
    for name in ("val.json", "train.json"):
        if name == "train.json":
            training_file(tmp_path, {"c1": 500, "c2": 40, "c3": 5})
        document = json.loads((tmp_path / name).read_text())
        for category in document["categories"]:
            category["name"] = category["name"].replace("c1", NAMES[0])
        (tmp_path / name).write_text(json.dumps(document))
    # training_file writes predictions of its own, none.
    (tmp_path / "again").mkdir()
    make_set(tmp_path / "again", [200, 60, 25], shifts=[2, -2, 0])
    (tmp_path / "again" / "results.json").replace(tmp_path / "results.json")
    return {name: tmp_path / f"{name}.json" for name in ("val", "results", "train", "out")}


def common(files: dict[str, Path], command: str) -> list[object]:
    return [command, "--annotations", files["val"], "--predictions", files["results"]]


def test_thresholds_are_shown_and_written(files, capsys) -> None:
    arguments = [*common(files, "thresholds"), "--train", files["train"], "--output", files["out"]]
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    thresholds = load_thresholds(files["out"])
    assert set(thresholds.values) == set(NAMES)
    lines = [line.split() for line in out.splitlines()]
    rows = [line for line in lines if line[:2] in (["c3", "rare"], ["c2", "common"])]
    assert [row[:4] for row in rows] == [["c3", "rare", "5", "25"], ["c2", "common", "40", "60"]]
    assert rows[1][4] == f"{thresholds.values['c2']:.3f}".lstrip("0")
    assert ["[red]", "owl", "frequent", "500", "200"] in [line[:5] for line in lines]
    for text in (
        "one shared threshold",
        "own, not shrunk",
        "own, shrunk (n0 ",
        "On held-out images mean F1 is .",
        "Each class gets its own threshold.",
        f"Written: {files['out']}",
    ):
        assert text in out
    status, _, err = run(capsys, *arguments)
    assert (status, err) == (
        2,
        f"error: {files['out']}: is there already. A new file is expected. Pass --overwrite to"
        " replace it.\n",
    )
    assert run(capsys, *arguments, "--overwrite")[0] == 0


def test_floors_show_which_classes_keep_them(files, capsys) -> None:
    status, out, _ = run(capsys, *common(files, "thresholds"), "--for", "recall=.8")
    assert status == 0
    assert "recall>=0.8 at IoU 0.5, with 90% confidence" in out
    assert "keep the floor" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("c")}
    assert rows["c2"][-1] in ("kept", "unsure", "missed")
    assert "The order is by boxes here" in out


def test_many_classes_are_cut_to_the_rarest(tmp_path, capsys) -> None:
    make_set(tmp_path, [0] * 5 + [6] * 70)
    files = {"val": tmp_path / "val.json", "results": tmp_path / "results.json"}
    status, out, _ = run(capsys, *common(files, "thresholds"))
    assert status == 0
    assert "not listed: 30 more frequent classes, 5 without boxes in the calibration file" in out


def test_rescored_detections_are_written(files, tmp_path, capsys) -> None:
    # Scores held down by the square root of the counts, as in `training_file` above.
    make_set(tmp_path, [200, 60, 40], shifts=[0, -1.3, -2.3])
    document = json.loads(files["val"].read_text())
    document["categories"][0]["name"] = NAMES[0]
    files["val"].write_text(json.dumps(document))
    status, out, err = run(
        capsys, *common(files, "rescore"), "--train", files["train"], "--output", files["out"]
    )
    assert (status, err) == (0, "")
    assert "What each strength is worth" in out
    assert "Scores are rebalanced with gamma 0." in out
    annotations = load_annotations(files["val"])
    before = load_predictions(files["results"], annotations)
    after = load_predictions(files["out"], annotations)
    gamma = float(out.split("rebalanced with gamma ")[1].split(";")[0])
    np.testing.assert_array_equal(
        after.scores, rescore(before, [0, 500, 40, 5], gamma=gamma).scores
    )
    np.testing.assert_array_equal(after.bbox, before.bbox)


def test_rescoring_other_images_takes_their_annotations(files, tmp_path, capsys) -> None:
    test = json.loads(files["val"].read_text())
    test["images"] = [{"id": 990, "file_name": "990.png", "width": 99, "height": 99}]
    del test["annotations"]  # images and classes suffice
    (tmp_path / "test.json").write_text(json.dumps(test))
    row = {"image_id": 990, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.25}
    (tmp_path / "test_results.json").write_text(json.dumps([row]))
    arguments = [*common(files, "rescore"), "--train", files["train"], "--output", files["out"]]
    arguments += ["--apply-to", tmp_path / "test_results.json"]
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert "image_id 990" in err
    status, out, err = run(capsys, *arguments, "--apply-annotations", tmp_path / "test.json")
    assert (status, err) == (0, "")
    assert f"1 detection of {tmp_path / 'test_results.json'}" in out
    [written] = json.loads(files["out"].read_text())
    assert {**written, "score": None} == {**row, "score": None}
    test["categories"][0]["name"] = "other"
    (tmp_path / "test.json").write_text(json.dumps(test))
    status, _, err = run(
        capsys, *arguments, "--overwrite", "--apply-annotations", tmp_path / "test.json"
    )
    assert status == 2
    assert "test.json: its classes are not those of" in err


@pytest.mark.parametrize("factor", [100, -4])
def test_scores_that_are_no_probabilities(files, capsys, factor: int) -> None:
    rows = json.loads(files["results"].read_text())
    for row in rows:
        row["score"] *= factor
    files["results"].write_text(json.dumps(rows))
    odd = sum(not 0 <= row["score"] <= 1 for row in rows)
    status, out, _ = run(capsys, *common(files, "thresholds"))
    assert status == 0
    looks = "per cent" if factor > 0 else "logits"
    assert f"Note: {odd} of {len(rows)} detections have a score outside 0..1 (first" in out
    assert f"they look like {looks}. The thresholds hold for" in out
    status, _, err = run(capsys, *common(files, "rescore"), "--train", files["train"])
    assert status == 2
    assert f"{files['results']}: {odd} of {len(rows)} detections have a score" in err


def test_faults_end_in_one_line(files, tmp_path, capsys) -> None:
    held = [*common(files, "rescore"), "--train", files["train"]]
    for arguments, message in (
        ([*common(files, "thresholds"), "--for", "recall"], "has no floor. Expected"),
        ([*common(files, "thresholds"), "--for", "map"], 'objective: "map" cannot be read'),
        ([*common(files, "thresholds"), "--iou", "0.52"], "iou: 0.52 is none of the thresholds"),
        ([*common(files, "thresholds"), "--folds", "61"], "61 folds of the 60 images"),
        ([*common(files, "thresholds"), "--output", tmp_path], "is a folder. A file to write"),
        ([*common(files, "thresholds"), "--train", files["val"]], "is the training file too"),
        ([*common(files, "thresholds"), "--rules", "lvis"], "LVIS's rules need"),
        ([*held, "--apply-to", files["results"]], "--output is missing"),
        (common(files, "rescore"), "Missing option '--train'"),
    ):
        status, _, err = run(capsys, *arguments)
        assert (status, len(err.splitlines())) == (2, 1), err
        assert message in err


def test_the_tools_are_the_commands_and_need_no_torch(files) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = sys.argv.pop(1);"
        "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for tool in ("thresholds", "rescore"):
        arguments = [str(a) for a in common(files, tool)[1:]] + ["--train", str(files["train"])]
        done = subprocess.run(
            [sys.executable, "-c", script, str(ROOT / "tools" / f"{tool}.py"), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "images" in done.stdout


def test_evaluate_counts_and_writes_what_reaches_the_thresholds(tmp_path, capsys) -> None:
    data = make_data(tmp_path / "data")
    train_run(load_config(write_config(data, tmp_path)))
    path = tmp_path / "thresholds.json"
    path.write_text(
        json.dumps({"schema": "detbalance.thresholds/1", "thresholds": {"red": 0.0, "green": 1.0}})
    )
    arguments = ["evaluate", "--checkpoint", tmp_path / "run" / "best.pt", "--workers", 0]
    arguments += ["--annotations", data / "train.json", "--images", data / "images"]
    output = tmp_path / "results"
    status, out, err = run(capsys, *arguments, "--output", output, "--thresholds", path)
    assert status == 0, err
    assert str(output / "shown.json") in out
    annotations = load_annotations(data / "train.json")
    every = load_predictions(output / "predictions.json", annotations)
    shown = load_predictions(output / "shown.json", annotations)
    kept = apply_thresholds(every, load_thresholds(path), annotations.categories)
    np.testing.assert_array_equal(shown.scores, kept.scores)
    assert 0 < shown.num_predictions < every.num_predictions
    report = json.loads((output / "report.json").read_text())
    rows = {row["name"]: row for row in report["classes"]}
    assert (rows["red"]["score_threshold"], rows["green"]["score_threshold"]) == (0.0, 1.0)
    assert rows["green"]["true_positives"] + rows["green"]["false_positives"] == 0
    assert report["settings"]["thresholds"] == str(path)
    # Without thresholds no selection of other detections is left behind.
    status, out, err = run(capsys, *arguments, "--output", output, "--overwrite")
    assert status == 0, err
    assert not (output / "shown.json").exists()
    path.write_text('{"schema": "detbalance.thresholds/1", "thresholds": {"red": 0.1}}')
    status, _, err = run(capsys, *arguments, "--thresholds", path)
    assert status == 2
    assert 'no threshold for 1 of the classes (first: "green"' in err
