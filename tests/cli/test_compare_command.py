"""`detbalance compare` from outside: what it prints, writes and refuses, and its exit status."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from scenes import load, make_scene, training_file
from shown_documents import comparison_markdown, print_comparison

from detbalance.data import load_predictions
from detbalance.evaluation import compare, evaluate
from detbalance.reporting import comparison_document

rich_console = pytest.importorskip("rich.console")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with val.json, train.json and four results files, each scored anew."""
    truth, found = make_scene(1)
    names = [category["name"] for category in truth["categories"]]
    training_file(tmp_path, dict(zip(names, (30, 5, 120, 2, 60, 5), strict=True)))
    load(tmp_path, truth, found)
    for name in "abcd":
        rng = np.random.default_rng(ord(name))
        again = [{**one, "score": round(float(rng.random()), 3)} for one in found]
        (tmp_path / f"{name}.json").write_text(json.dumps(again))
    return tmp_path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    return run_command(capsys, "compare", *arguments)


def common(files: Path) -> list[object]:
    return ["--annotations", files / "val.json", "--train", files / "train.json"]


def test_two_files_one_after_the_other_or_by_option(files, capsys) -> None:
    status, out, err = run(capsys, files / "a.json", files / "b.json", *common(files))
    assert (status, err) == (0, "")
    assert re.search(r"^AP: rare [-+.\d]+ \[", out, re.MULTILINE)
    by_option = ["--ours", files / "b.json", "--baseline", files / "a.json"]
    assert run(capsys, *by_option, *common(files))[1] == out
    other = run(capsys, files / "b.json", files / "a.json", *common(files))[1]
    assert other != out


def test_several_baselines_stand_side_by_side_each_as_on_its_own(files, capsys) -> None:
    run_folder = files / "plain"
    run_folder.mkdir()
    (files / "b.json").rename(run_folder / "predictions.json")
    ours = files / "c.json"
    baselines = {"a": files / "a.json", "plain": run_folder}
    arguments = [*baselines.values(), ours, *common(files)]
    status, out, err = run(capsys, *arguments, "--output", files / "out")
    assert (status, err) == (0, "")
    content = json.loads((files / "out/comparison.json").read_text())
    assert [one.pop("name") for one in content["comparisons"]] == list(baselines)
    table = list(csv.DictReader(io.StringIO((files / "out/comparison.csv").read_text())))
    text = (files / "out/comparison.md").read_text()
    for (name, file), one in zip(baselines.items(), content["comparisons"], strict=True):
        alone = json.loads(run(capsys, file, ours, *common(files), "--json")[1])
        assert one == alone
        assert f"{name}: {alone['verdict']}" in out
        assert re.search(rf"AP, {name}\b", out)
        assert f"AP, {name} base ours" in text
        rows = [row for row in table if row["baseline"] == name and row["kind"] == "class"]
        expected = [row["figures"]["AP"]["difference"] for row in alone["classes"]]
        assert [float(row["AP_difference"] or "nan") for row in rows] == pytest.approx(
            [math.nan if value is None else value for value in expected], nan_ok=True
        )
    assert json.loads(run(capsys, *arguments, "--json")[1])["comparisons"][0]["name"] == "a"
    status, _, err = run(capsys, *arguments, "--fail-if", "all.AP > -2")
    assert status == 1
    assert [line.split(":")[1] for line in err.splitlines()] == [" a", " plain"]


def test_several_baselines_refuse_one_twice_and_pictures(files, capsys) -> None:
    twice = [files / "a.json", files / "a.json", files / "b.json", *common(files)]
    status, out, err = run(capsys, *twice)
    assert (status, out) == (2, "")
    assert "is given 2 times" in err
    images = ["--images", files, "--output", files / "out"]
    three = [files / f"{name}.json" for name in "abc"]
    status, out, err = run(capsys, *three, *common(files), *images)
    assert (status, out) == (2, "")
    assert err.startswith("error: --images: 2 baselines are given")
    assert not (files / "out").exists()


def test_several_runs_a_side_and_folders_of_runs(files, capsys) -> None:
    folder = files / "run"
    folder.mkdir()
    (files / "d.json").rename(folder / "predictions.json")
    sides = ["--baseline", files / "a.json", "--baseline", files / "b.json"]
    sides += ["--ours", files / "c.json", "--ours", folder]
    status, out, err = run(capsys, *sides, *common(files), "--output", files / "out")
    assert (status, err) == (0, "")
    assert f"2 runs: {files / 'c.json'}, {folder / 'predictions.json'}" in out
    assert "One run of a side" not in out
    content = json.loads((files / "out/comparison.json").read_text())
    assert content["settings"]["ours"][1] == str(folder / "predictions.json")


def test_files_hold_what_the_comparison_holds(files, capsys) -> None:
    out_folder = files / "out"
    pair = (files / "a.json", files / "b.json")
    status, out, _ = run(capsys, *pair, *common(files), "--output", out_folder, "--seed", 3)
    assert status == 0
    assert out.splitlines()[-1].startswith(f"Written: {out_folder / 'comparison.json'}, ")
    content = json.loads((out_folder / "comparison.json").read_text())
    assert content["schema"] == "detbalance.comparison/2"
    assert content["settings"]["seed"] == 3
    assert content["verdict"] in out
    # The same from Python.
    truth, _ = load(files, *make_scene(1))
    runs = [evaluate(truth, load_predictions(f, truth), predictions_file=str(f)) for f in pair]
    figures = compare(runs[:1], runs[1:], seed=3).to_dict()["classes"]
    expected = {row["name"]: row["figures"] for row in figures}
    assert {row["name"]: row["figures"] for row in content["classes"]} == expected
    rows = list(csv.DictReader(io.StringIO((out_folder / "comparison.csv").read_text())))
    assert [row["name"] for row in rows] == [r["name"] for r in content["classes"]] + [
        *content["groups"]
    ]
    for row, entry in zip(rows, content["classes"], strict=False):
        for figure, parts in entry["figures"].items():
            for part, value in parts.items():
                cell = row[f"{figure}_{part}"]
                assert (cell == "") if value is None else float(cell) == value
    markdown = (out_folder / "comparison.md").read_text()
    table = markdown.split("| class | group |")[2].split("\n\n")[0].splitlines()[2:]
    names = [row["name"] for row in content["classes"]]
    assert [line.split(" | ")[0] for line in table] == [f"| {name}" for name in names]
    status, _, err = run(capsys, *pair, *common(files), "--output", out_folder)
    assert status == 2
    assert "already holds a comparison" in err
    assert run(capsys, *pair, *common(files), "--output", out_folder, "--overwrite")[0] == 0


def test_a_condition_ends_the_build_after_everything_is_written(files, capsys) -> None:
    pair = (files / "a.json", files / "b.json")
    command = (*pair, *common(files), "--output", files / "out", "--overwrite")
    status, out, err = run(capsys, *command, "--fail-if", "all.AP > -2", "--fail-if", "all.AR < -2")
    assert status == 1
    assert "Written: " in out
    lines = err.splitlines()
    assert re.fullmatch(
        r"fails: all\.AP is \d\.\d+ to \d\.\d+, [-+.\d]+ \[[-+.\d]+, [-+.\d]+\]"
        r" \(--fail-if all\.AP > -2\)",
        lines[0],
    )
    assert lines[1].startswith("holds: all.AR is ")
    assert run(capsys, *command, "--fail-if", "all.AR < -2")[0] == 0


def test_conditions_that_cannot_be_judged_are_errors(files, capsys) -> None:
    pair = (files / "a.json", files / "b.json")
    status, out, err = run(capsys, *pair, *common(files), "--fail-if", "rara.AP < 0")
    assert (status, out) == (2, "")  # before any work
    assert '"rara" is neither a group nor a class' in err
    without_groups = ["--annotations", files / "val.json", "--fail-if", "rare.AP < 0"]
    status, out, err = run(capsys, *pair, *without_groups, "--fail-if", "all.AP > -2")
    assert status == 2
    assert "AP: all classes" in out
    assert "pass --train" in err
    status, _, err = run(capsys, *pair, *common(files), "--fail-if", "rare.AP")
    assert status == 2
    assert "is no condition" in err


def test_wrong_numbers_of_files_are_said(files, capsys) -> None:
    a, b = files / "a.json", files / "b.json"
    for given in ([a], [a, "--ours", b], ["--baseline", a], []):
        status, out, err = run(capsys, *given, *common(files))
        assert (status, out) == (2, "")
        assert "Run: detbalance compare BASELINE.JSON OURS.JSON" in err
    status, _, err = run(capsys, a, files, *common(files))
    assert status == 2
    assert str(files / "predictions.json") in err


def test_names_are_escaped_in_markdown_and_whole_on_the_console(files, capsys) -> None:
    truth, found = make_scene(1)
    truth["categories"][0]["name"] = "<script>|a*b"
    truth["categories"][1]["name"] = "a very long name of a class " * 4
    annotations, predictions = load(files, truth, found)
    result = evaluate(annotations, predictions)
    comparison = compare([result], [result])
    markdown = comparison_markdown(comparison)
    assert "<script>" not in markdown
    assert r"&lt;script&gt;\|a\*b" in markdown
    buffer = io.StringIO()
    print_comparison(comparison, console=rich_console.Console(file=buffer, width=40))
    text = buffer.getvalue()
    assert ("a very long name of a class " * 4).strip() in text
    assert "…" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert "No class differs in AP, AP50, AR, recall, precision." in text


def test_a_comparison_fits_100_columns_and_many_classes_are_cut(files, monkeypatch) -> None:
    annotations, predictions = load(files, *make_scene(1))
    comparison = compare([evaluate(annotations, predictions)], [evaluate(annotations, predictions)])
    buffer = io.StringIO()
    console = rich_console.Console(file=buffer, width=100, force_terminal=True, color_system=None)
    print_comparison(comparison, console=console)
    assert max(map(len, buffer.getvalue().splitlines())) <= 100
    assert "…" not in buffer.getvalue()
    buffer.truncate(0)
    monkeypatch.setattr(comparison_document, "MANY_CLASSES", 3)
    monkeypatch.setattr(comparison_document, "KEPT_OF_MANY", 3)
    print_comparison(comparison, console=console)
    assert "3 classes are not listed; the group rows count all" in buffer.getvalue()


def test_no_torch_is_imported(files) -> None:
    script = f"""
import sys
from detbalance.cli import main
try:
    main(["compare", {str(files / "a.json")!r}, {str(files / "b.json")!r},
          "--annotations", {str(files / "val.json")!r}])
except SystemExit as stop:
    assert not stop.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
