"""`detbalance report` from outside: what it prints, writes, refuses, and what it does without."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from scenes import load, make_scene, training_file

from detbalance.cli import evaluating, printing
from detbalance.evaluation import load_report

pytest.importorskip("rich")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with val.json, results.json and train.json."""
    truth, found = make_scene(1)
    counts = (30, 5, 120, 2, 60, 5)
    names = [category["name"] for category in truth["categories"]]
    training_file(tmp_path, dict(zip(names, counts, strict=True)))
    load(tmp_path, truth, found)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], folder: Path, *options: object) -> tuple[int, str, str]:
    """Status, output and errors of a report on the folder's files."""
    return run_bare(capsys, folder / "val.json", folder / "results.json", *options)


def run_bare(capsys, *arguments: object) -> tuple[int, str, str]:
    return run_command(capsys, "report", *arguments)


# What it does


def test_files_are_named_one_after_the_other_or_by_option(files, capsys):
    status, out, err = run(capsys, files, "--train", files / "train.json")
    assert (status, err) == (0, "")
    assert "rare, mean of" in out
    assert "AP50 that each kind costs" in out
    assert sorted(path.name for path in files.iterdir()) == [
        "results.json",
        "train.json",
        "val.json",
    ]
    named = ("--predictions", files / "results.json", "--annotations", files / "val.json")
    assert run_bare(capsys, *named, "--train", files / "train.json") == (0, out, "")


def test_report_is_written_and_not_overwritten_unasked(files, capsys):
    folder = files / "runs" / "one"
    status, out, _ = run(capsys, files, "--output", folder)
    assert status == 0
    written = {path.name for path in folder.iterdir()}
    assert {"report.json", "report.csv", "report.md"} <= written
    assert all(str(folder / name) in out for name in written)
    before = load_report(folder / "report.json")
    status, _, err = run(capsys, files, "--output", folder, "--beta", 2)
    assert status == 2
    assert "already holds a report" in err
    assert load_report(folder / "report.json").to_dict() == before.to_dict()
    status, _, _ = run(capsys, files, "--output", folder, "--beta", 2, "--overwrite")
    assert status == 0
    assert load_report(folder / "report.json").settings.beta == 2


def test_slices_are_printed_written_and_shown_on_the_page(files, capsys):
    truth = json.loads((files / "val.json").read_text())
    for i, image in enumerate(truth["images"]):
        image["camera"] = "<b>|north" if i % 2 else None
    (files / "val.json").write_text(json.dumps(truth))
    status, out, _ = run(capsys, files, "--slice", "camera", "--output", files / "one")
    assert status == 0
    assert "Slices by camera" in out
    assert re.search(r"^<b>\|north +\d", out, re.MULTILINE)
    rows = load_report(files / "one" / "report.json").slices
    assert [row.value for row in rows] == ["<b>|north", None]
    assert all(set(row.figures) == {"AP50", "recall"} for row in rows)
    table = (files / "one" / "report.csv").read_text()
    assert "\nslice,camera=<b>|north," in table
    assert "\nslice,camera=," in table
    assert "&lt;b&gt;\\|north" in (files / "one" / "report.md").read_text()
    page = (files / "one" / "report.html").read_text()
    assert '<section id="slices">' in page
    assert "&lt;b&gt;|north" in page
    status, out, err = run(capsys, files, "--slice", "camra")
    assert (status, out) == (2, "")
    assert 'no image has the key "camra"' in err
    assert len(err.strip().splitlines()) == 1


def test_options_reach_the_report(files, capsys):
    options = {
        "score-threshold": 0.4,
        "rules": "coco",
        "num-bootstrap": 20,
        "confidence": 0.8,
        "beta": 0.5,
        "min-precision": 0.6,
        "max-fppi": 0.25,
    }
    train = ("--train", files / "train.json", "--rare", 5, "--common", 50)
    for seed in (1, 1, 2):
        folder = files / f"out{len(list(files.iterdir()))}"
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        status, _, err = run(capsys, files, *given, *train, "--seed", seed, "--output", folder)
        assert status == 0, err
    one, same, other = (load_report(path) for path in sorted(files.glob("out*/report.json")))
    settings = one.settings
    found = {name: getattr(settings, name.replace("-", "_")) for name in options}
    assert found == options
    assert [row.group for row in one.classes] == ["rare"] * 3 + ["common"] + ["frequent"] * 2
    assert one.classes[2].intervals == same.classes[2].intervals
    assert one.classes[2].intervals != other.classes[2].intervals
    assert one.classes[2].AP == other.classes[2].AP


def test_intervals_of_ap_come_without_asking_where_that_is_quick(
    files, capsys, monkeypatch, caplog
):
    _, out, err = run(capsys, files)
    assert "95%, from 1,000 draws of the images" in out
    assert err == ""
    _, without, _ = run(capsys, files, "--num-bootstrap", 0)
    assert "95%, of recall and prec., by Wilson from the number of boxes" in without
    assert "--num-bootstrap" not in without
    monkeypatch.setattr(printing, "QUICK", -1.0)
    monkeypatch.setattr(evaluating, "_PATIENCE", -1.0)
    _, slow, _ = run(capsys, files)
    assert slow.splitlines()[:-1] == without.splitlines()
    assert "Pass --num-bootstrap 1000" in slow.splitlines()[-1]
    assert not caplog.records
    caplog.set_level(logging.INFO)
    assert run(capsys, files, "--num-bootstrap", 1000) == (0, out, "")
    assert caplog.messages[0].startswith("drawing the images 1,000 times: about ")


def test_each_class_can_have_its_own_score_threshold(files, capsys):
    names = [
        category["name"] for category in json.loads((files / "val.json").read_text())["categories"]
    ]
    floors = {name: 0.1 * i for i, name in enumerate(names)}
    content = {"schema": "detbalance.thresholds/1", "thresholds": floors}
    (files / "floors.json").write_text(json.dumps(content))
    one, per_class = files / "one", files / "per_class"
    for folder, options in (
        (one, ("--score-threshold", 0.2)),
        (per_class, ("--thresholds", files / "floors.json")),
    ):
        status, out, err = run(capsys, files, "--output", folder, *options)
        assert status == 0, err
    assert "score >= the threshold of the class" in out
    report, other = load_report(per_class / "report.json"), load_report(one / "report.json")
    assert {row.name: row.score_threshold for row in report.classes} == floors
    assert {row.score_threshold for row in other.classes} == {0.2}
    assert report.settings.thresholds == str(files / "floors.json")
    rows = {row.name: row for row in other.classes}
    for row in report.classes:
        known = rows[row.name]
        assert row.errors["missed"].count == known.errors["missed"].count  # of any score
        if row.score_threshold == 0.2:
            expected = (known.true_positives, known.false_positives, known.errors)
            assert (row.true_positives, row.false_positives, row.errors) == expected
        else:
            fewer = row.score_threshold > 0.2
            assert (row.true_positives <= known.true_positives) == fewer or (
                row.true_positives == known.true_positives
            )


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["val.json"], r"1 file is given \(.*val\.json\)\. Two are expected"),
        ([], r"0 files are given\. Two are expected"),
        (["val.json", "results.json", "train.json"], "3 files are given"),
        (["val.json", "--predictions", "results.json"], "2 files are given"),
        (
            ["val.json", "results.json", "--num-bootstrap", "1"],
            "--num-bootstrap: is 1. auto is expected",
        ),
        (["val.json", "results.json", "--num-bootstrap", "9" * 5000], r"is 9+\. .* 2 to 1,000,000"),
        (["val.json", "results.json", "--num-bootstrap", "many"], "--num-bootstrap: is many"),
        (["val.json", "results.json", "--rare", "3"], "only one of them is given"),
        (["val.json", "results.json", "--rare", "3", "--common", "9"], "--train is missing"),
        (["val.json", "results.json", "--images", "."], "--output is missing"),
        (["val.json", "results.json", "--rules", "lvis"], "LVIS's rules need neg_category_ids"),
        (["val.json", "absent.json"], r"absent\.json: no such file"),
    ],
)
def test_wrong_calls_end_in_one_line(files, capsys, monkeypatch, arguments, match):
    import re

    monkeypatch.chdir(files)
    status, out, err = run_bare(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(match, err), err


def test_ctrl_c_ends_it_in_one_line(files):
    load(files, *make_scene(5, crowded=True))
    arguments = ["report", str(files / "val.json"), str(files / "results.json")]
    arguments += ["--num-bootstrap", "1000000", "--output", str(files / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", f"from detbalance.cli import main; main({arguments})"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("drawing the images 1,000,000 times")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "error: interrupted"
    assert not (files / "out").exists()


# What it does without


BLOCKED = """
import sys

sys.modules.update(dict.fromkeys({blocked}))
from detbalance.cli import main
try:
    main({arguments})
finally:
    print([name for name in {unwanted} if name in sys.modules], file=sys.stderr)
"""


def test_the_console_report_loads_little(files):
    heavy = ["torch", "torchvision", "matplotlib", "jinja2", "vl_convert", "PIL", "scipy", "cv2"]
    arguments = ["report", str(files / "val.json"), str(files / "results.json")]
    script = BLOCKED.format(blocked=[], arguments=arguments, unwanted=heavy)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"


def test_it_works_without_the_training_stack_and_without_a_compiled_evaluator(files):
    blocked = ["torch", "torchvision", "albumentations", "cv2", "pydantic", "yaml"]
    outputs = []
    for more in ([], ["hotcoco"]):
        folder = files / f"without{len(more)}"
        arguments = ["report", str(files / "val.json"), str(files / "results.json")]
        arguments += ["--output", str(folder)]
        script = BLOCKED.format(blocked=[*blocked, *more], arguments=arguments, unwanted=[])
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        outputs.append(load_report(folder / "report.json"))
    one, other = (report.to_dict() for report in outputs)
    assert other["settings"].pop("backend") == "numpy"
    del one["settings"]["backend"]
    assert one == other


# With a baseline


def test_a_baseline_is_compared_with_and_written(files, capsys):
    found = json.loads((files / "results.json").read_text())
    half = [{**one, "score": one["score"] / 2} for one in found[::2]]
    (files / "before.json").write_text(json.dumps(half))
    out_folder = files / "out"
    options = ["--baseline", files / "before.json", "--train", files / "train.json"]
    status, out, err = run(capsys, files, *options, "--output", out_folder)
    assert (status, err) == (0, "")
    written = {path.name for path in out_folder.iterdir()}
    assert {"report.json", "comparison.json", "comparison.csv", "comparison.md"} <= written
    content = json.loads((out_folder / "comparison.json").read_text())
    assert content["verdict"] in out
    assert content["settings"]["baseline"] == [str(files / "before.json")]
    assert content["settings"]["ours"] == [str(files / "results.json")]
    rows = {row.name: row for row in load_report(out_folder / "report.json").classes}
    for row in content["classes"]:
        ours = row["figures"]["AP"]["ours"]
        assert ours is None or ours == pytest.approx(rows[row["name"]].AP, abs=1e-9)


def test_a_baseline_needs_draws(files, capsys):
    options = ["--baseline", files / "results.json", "--num-bootstrap"]
    status, out, err = run(capsys, files, *options, 0)
    assert (status, out) == (2, "")
    assert "Leave --num-bootstrap out." in err
    status, out, _ = run(capsys, files, *options, 20)
    assert status == 0
    assert "95%, from 20 draws of the images" in out


# Pictures


def test_pictures_need_a_page(files, capsys):
    status, out, err = run(capsys, files, "--images", files)
    assert (status, out) == (2, "")
    assert "Add --output FOLDER." in err
    missing = ("--images", files / "nowhere", "--output", files / "out")
    status, out, err = run(capsys, files, *missing)
    assert (status, out) == (2, "")  # before any work
    assert "nowhere is no folder" in err


def test_pictures_of_errors_are_on_the_page(files, capsys):
    pytest.importorskip("jinja2")
    cv2 = pytest.importorskip("cv2")
    for image in json.loads((files / "val.json").read_text())["images"]:
        pixels = np.full((image["height"], image["width"], 3), 200, np.uint8)
        cv2.imwrite(str(files / image["file_name"]), pixels)
    out_folder = files / "out"
    status, out, err = run(capsys, files, "--images", files, "--output", out_folder)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].endswith(str(out_folder / "report.html"))
    assert (out_folder / "report.html").read_text().count('<figure class="picture"') > 5


def test_a_page_that_cannot_be_made_costs_no_report(files, capsys, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    status, out, _ = run(capsys, files, "--output", files / "out")
    assert status == 0
    assert "report.html" not in out.splitlines()[-1]
    assert (files / "out/report.json").exists()
    assert "report.html is not written" in caplog.text
    assert re.search(r"pip install .*\[page\]", caplog.text)
