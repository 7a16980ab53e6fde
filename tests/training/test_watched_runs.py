"""What a run says while it trains and at its end; lengthened runs, trackers, the best model."""

from __future__ import annotations

import logging
import re
import shlex
from types import SimpleNamespace

import pytest
from commands import failing_command, run_command
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detbalance.cli.runs import train_run
from detbalance.training import run as training_run
from detbalance.training.checkpoint import load_checkpoint
from detbalance.training.config import load_config
from detbalance.training.loop import train
from detbalance.training.metrics import read_metrics


def settings(*overrides):
    return [word for override in overrides for word in ("--set", override)]


def test_train_says_whether_it_learnt_what_is_where_and_what_is_next(
    config_file, data, capsys, caplog, tmp_path
):
    caplog.set_level(logging.INFO)
    val = tmp_path / "val of mine.json"  # a name that must be quoted
    val.write_bytes((data / "train.json").read_bytes())
    slow = "train.learning_rate=1e-7"
    options = settings("train.evaluate_every=2", "train.trackers=[]", f"data.val={val}", slow)
    status, out, _ = run_command(capsys, "train", "--config", config_file, *options)
    assert status == 0
    told = caplog.text
    assert "at the end: the detector has not begun to learn" in " ".join(out.split())
    assert "6 iterations of 4 images, 2.4 epochs" in out
    run = tmp_path / "run"
    assert f"{run}: best.pt, last.pt, predictions.json, report.json, metrics.jsonl" in out
    assert told.count("evaluating: 10 of 10") == 3
    shown = r"[\d.]+"
    groups = rf"AP50 {shown} \(rare {shown}, common -, frequent {shown}\), AP {shown}"
    assert len(re.findall(groups, told)) == 3
    assert len(re.findall(rf"{groups}; best AP before: {shown} at iteration [24]", told)) == 2
    line = next(line for line in told.splitlines() if "training: 6 of 6" in line)
    for word in ("classification", "bbox_regression", "rate", "images/s", "GB", "0 s left"):
        assert word in line
    with Image.open(run / "curve.png") as picture:
        assert picture.width > picture.height > 300
    assert not (run / "tensorboard").exists()
    # What is next, pasted.
    lines = [line for line in out.splitlines() if line.startswith("  detbalance ")]
    report, thresholds = (run_command(capsys, *shlex.split(line)[1:]) for line in lines)
    assert report[0] == 0
    assert thresholds[0] == 0 or "no detection is right" in thresholds[2]


def test_records_say_how_long_the_model_waited_and_how_often_images_were_seen(config_file):
    config = load_config(config_file)
    train_run(config)
    records = read_metrics(config.output)
    assert all(0 < record["waiting"] < 1 for record in records if "loss" in record)
    (last,) = [record for record in records if "val" in record]
    assert last["epoch"] == pytest.approx(6 * 4 / 10)
    assert 0 < last["val"]["highest_score"] < 1


def test_a_finished_run_is_lengthened(config_file, caplog):
    train(load_config(config_file))
    longer = load_config(config_file, ["train.iterations=9"])
    caplog.set_level(logging.INFO)
    train(longer, resume=True)
    assert "lengthened from 6 to 9 iterations: the learning rate is that of a run" in caplog.text
    records = [r for r in read_metrics(longer.output) if "loss" in r]
    assert [r["iteration"] for r in records] == list(range(1, 10))
    rates = {r["iteration"]: r["learning_rate"] for r in records}
    whole = load_config(config_file, ["train.iterations=9", f"output={longer.output}2"])
    train(whole)
    expected = {
        r["iteration"]: r["learning_rate"] for r in read_metrics(whole.output) if "loss" in r
    }
    assert [rates[i] for i in (7, 8, 9)] == [expected[i] for i in (7, 8, 9)]
    with pytest.raises(ValueError, match=r"started with train.iterations 9, now it is 8"):
        train(load_config(config_file, ["train.iterations=8"]), resume=True)


def test_the_best_model_is_that_of_a_group(config_file, monkeypatch):
    values = iter([0.2, 0.5, 0.4])
    monkeypatch.setattr("detbalance.cli.runs.best_value", lambda *_: next(values))
    best = "evaluation.best_metric=frequent.recall_at_precision"
    config = load_config(config_file, ["train.evaluate_every=2", best])
    train_run(config)
    assert load_checkpoint(config.output / "best.pt")["iteration"] == 4
    found = [
        r["val"]["frequent.recall_at_precision"] for r in read_metrics(config.output) if "val" in r
    ]
    assert found == [0.2, 0.5, 0.4]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("AP51", "evaluation.best_metric"),
        ("tail.AP", "evaluation.best_metric"),
        ("rare.score", "there is no figure score of a group. Known: AP, AP50"),
        (
            "common.AP50",
            "has no box of a common class. A group that it shows is expected: all.AP50",
        ),
    ],
)
def test_a_best_metric_that_val_cannot_tell_is_refused_before_training(
    config_file, capsys, tmp_path, metric, message
):
    options = settings(f"evaluation.best_metric={metric}")
    error = failing_command(capsys, "train", "--config", config_file, "--quiet", *options)
    assert message in error
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_trackers_get_every_number(config_file):
    config = load_config(config_file)
    train_run(config)
    (events,) = (config.output / "tensorboard" / "detbalance").iterdir()
    board = EventAccumulator(str(events), {"scalars": 0})
    board.Reload()
    assert {"loss", "losses/classification", "val/AP50", "learning_rate"} <= set(
        board.Tags()["scalars"]
    )
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_a_tracker_that_is_not_installed_is_refused_in_a_line(config_file, capsys, monkeypatch):
    monkeypatch.setattr(training_run, "get_available_trackers", lambda: [])
    error = failing_command(
        capsys, "train", "--config", config_file, *settings("train.trackers=[wandb]")
    )
    assert 'train.trackers: "wandb" cannot be used here' in error
    assert "mlflow" in error


def test_memory_is_not_known_everywhere(monkeypatch):
    import sys

    from detbalance.training.loop import _memory

    monkeypatch.setitem(sys.modules, "resource", None)
    assert not _memory(SimpleNamespace(type="cpu")) >= 0
