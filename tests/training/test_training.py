"""The training command on a small data set: what it writes, how it stops, how it goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from killed_runs import losses_of, train_until_killed
from squares import make_data

from detbalance.cli import main
from detbalance.cli.runs import train_run
from detbalance.data.files import lock_folder
from detbalance.training import load_detector
from detbalance.training.checkpoint import load_checkpoint
from detbalance.training.config import load_config
from detbalance.training.loop import TrainingStopped, train
from detbalance.training.metrics import MetricsLog, read_metrics
from detbalance.training.run import Interrupted

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_leaves_all_its_results(config_file, tmp_path):
    report = train_run(load_config(config_file))
    run = tmp_path / "run"
    files = {"config.yaml", "last.pt", "best.pt", "metrics.jsonl", "tensorboard"}
    files |= {"predictions.json", "report.json", "report.csv"}
    assert files <= {p.name for p in run.iterdir()}
    assert not list(run.glob("*.tmp"))
    assert [r["iteration"] for r in read_metrics(run) if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert {row.name for row in report.classes} == {"red", "green"}
    assert (
        json.loads((run / "report.json").read_text())["summary"]["AP50"] == report.summary["AP50"]
    )
    pasted = [r["pasted"] for r in read_metrics(run) if "pasted" in r]
    assert pasted
    assert all(set(p) <= {"red", "green"} for p in pasted)
    assert load_config(run / "config.yaml").to_dict() == load_config(config_file).to_dict()


def test_training_learns(config_file):
    overrides = ["train.iterations=120", "train.batch_size=8", "train.learning_rate=0.003"]
    overrides += ["augmentation.paste=null", "train.checkpoint_every=120"]
    report = train_run(load_config(config_file, overrides))
    assert report.summary["AP50"] > 0.5


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.workers=2"],
        ["train.ema_decay=0.9", "train.accumulation=2", "train.optimizer=sgd"],
        ["model.detector=fasterrcnn", "loss.normalizer=image", "train.mixed_precision=bf16"],
    ],
    ids=["plain", "workers", "ema-accumulation-sgd", "fasterrcnn-bf16"],
)
def test_killed_and_resumed_equals_uninterrupted(config_file, tmp_path, overrides):
    """Also within an epoch, with the records after the last checkpoint written again."""
    if "model.detector=fasterrcnn" in overrides:
        overrides = [*overrides, "model.head_convs=4", "model.head_norm=none"]
    whole = load_config(config_file, [*overrides, f"output={tmp_path / 'whole'}"])
    train(whole)

    config = load_config(config_file, overrides)
    train_until_killed(config, 5)
    assert load_checkpoint(config.output / "last.pt")["iteration"] == 4
    train(config, resume=True)
    records = [r["iteration"] for r in read_metrics(config.output)]
    assert records == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(losses_of(config.output), losses_of(whole.output), rtol=1e-5)
    ours, theirs = (load_checkpoint(c.output / "last.pt")["model"] for c in (config, whole))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


def test_number_of_workers_does_not_change_the_run(config_file, tmp_path):
    for workers in (0, 2):
        overrides = [f"train.workers={workers}", f"output={tmp_path / str(workers)}"]
        train(load_config(config_file, overrides))
    np.testing.assert_allclose(losses_of(tmp_path / "0"), losses_of(tmp_path / "2"), rtol=1e-6)


def test_two_processes_train_as_one(config_file, tmp_path):
    """Same global batches, batch-global normalisation: the same losses on 1 and on 2 processes.

    And the same state of a loss that keeps running sums, which all processes must add up.
    """
    overrides = ["train.iterations=3", "train.learning_rate=1e-4", "train.accumulation=2"]
    # One image a batch: without extra levels no map is so small that it cannot be normalised.
    overrides += ["loss.name=equalization_v2", "model.extra_levels=0"]
    # Batch statistics are a process's own; without them nothing depends on who has which image.
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pt")
    overrides += ["model.backbone=resnet18_fpn", f"model.weights={tmp_path / 'resnet18.pt'}"]
    train(load_config(config_file, [*overrides, f"output={tmp_path / 'one'}"]))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_port=29631", str(ROOT / "tools/train.py"), "--config", str(config_file)]
    for override in [*overrides, f"output={tmp_path / 'two'}"]:
        command += ["--set", override]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    np.testing.assert_allclose(losses_of(tmp_path / "two"), losses_of(tmp_path / "one"), rtol=1e-4)
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two"))
    sums = {key: value for key, value in one["model"].items() if "classification_loss" in key}
    sums = {key: value for key, value in sums.items() if isinstance(value, torch.Tensor)}
    assert len(sums) >= 2
    for key, value in {**sums, "push": one["push"]["run"]}.items():
        other = two["push"]["run"] if key == "push" else two["model"][key]
        assert value.sum() > 0, key
        torch.testing.assert_close(other, value, rtol=1e-5, atol=0, msg=key)
    # Both processes' boxes and pastes are counted.
    assert torch.equal(one["exposure"]["run"], two["exposure"]["run"])
    assert one["exposure"]["run"][0].sum() >= 12


def test_ctrl_c_saves_and_resume_goes_on(config_file, tmp_path):
    config = load_config(config_file, ["train.checkpoint_every=100"])

    def press(step):
        if step.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"after iteration 3; go on with --resume"):
        train(config, on_step=press)
    assert load_checkpoint(config.output / "last.pt")["iteration"] == 3
    train(config, resume=True)
    assert len(losses_of(config.output)) == 6


def test_folder_that_holds_a_run_is_refused(config_file, tmp_path):
    config = load_config(config_file, ["train.iterations=1"])
    train(config)
    kept = (config.output / "last.pt").read_bytes()
    (config.output / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"already holds a run.*--resume.*--overwrite"):
        train(config)
    assert (config.output / "last.pt").read_bytes() == kept
    changed = load_config(config_file, ["train.iterations=1", "seed=3"])
    with pytest.raises(ValueError, match=r"started with seed 0, now it is 3"):
        train(changed, resume=True)
    train(changed, overwrite=True)
    assert (config.output / "notes.txt").read_text() == "mine"
    (config.output / "last.pt").rename(config.output / "best.pt")
    with pytest.raises(ValueError, match=r"has no last\.pt to resume from, but best\.pt"):
        train(changed, resume=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(
    config_file, tmp_path, caplog
):
    config = load_config(config_file)
    train_until_killed(config, 1)
    assert (config.output / "metrics.jsonl").exists()
    assert not list(config.output.glob("*.pt"))
    caplog.set_level("INFO")
    train(config, resume=True)
    assert "run: has no checkpoint to resume from; the run starts anew" in caplog.text
    assert [r["iteration"] for r in read_metrics(config.output)] == [0, 1, 2, 3, 4, 5, 6]


def test_losses_since_the_last_record_survive_a_kill(config_file, tmp_path):
    """A record's losses are a mean over iterations from before and after the checkpoint."""
    overrides = ["train.log_every=3"]
    train(load_config(config_file, [*overrides, f"output={tmp_path / 'whole'}"]))
    config = load_config(config_file, overrides)
    train_until_killed(config, 5)
    assert load_checkpoint(config.output / "last.pt")["iteration"] == 4
    train(config, resume=True)
    assert len(losses_of(config.output)) == 2
    np.testing.assert_allclose(losses_of(config.output), losses_of(tmp_path / "whole"), rtol=1e-5)


def test_a_folder_that_another_run_writes_to_is_refused(config_file, tmp_path):
    config = load_config(config_file)
    with lock_folder(config.output), pytest.raises(ValueError, match=r"run: another run \(process"):
        train(config)
    train(load_config(config_file, ["train.iterations=1"]))
    assert not (config.output / ".lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("iteration", [3, 6])
def test_an_evaluation_is_stopped_at_once_and_made_up_for(config_file, tmp_path, number, iteration):
    asked = []

    def judge(model, data, share):
        asked.append(len(asked))
        if len(asked) == iteration // 3 and tmp_path / "run" == config.output:
            os.kill(os.getpid(), number)
            time.sleep(60)
        return {"AP": float(next(model.parameters()).detach().sum())}

    overrides = ["train.evaluate_every=3", "train.checkpoint_every=100"]
    config = load_config(config_file, [*overrides, f"output={tmp_path / 'whole'}"])
    train(config, evaluate=judge)
    whole, asked = read_metrics(config.output), []
    config = load_config(config_file, overrides)
    message = rf"stopped in the evaluation after iteration {iteration}; go on with --resume"
    with pytest.raises(Interrupted, match=message):
        train(config, evaluate=judge)
    assert load_checkpoint(config.output / "last.pt")["iteration"] == iteration
    asked = [0] * 5
    train(config, evaluate=judge, resume=True)
    values = [r["val"] for r in read_metrics(config.output) if "val" in r]
    assert len(values) == 2
    assert values == [r["val"] for r in whole if "val" in r]
    best = load_checkpoint(config.output / "best.pt")["best"]
    assert best == max(value["AP"] for value in values)


def test_loss_that_is_not_finite_names_the_images(config_file):
    overrides = ["train.learning_rate=1e30", "train.clip_norm=null", "train.warmup=0"]
    with pytest.raises(TrainingStopped, match=r"iteration \d: the loss is not finite.*\.png"):
        train(load_config(config_file, overrides))


def test_values_that_only_a_constructor_can_judge_leave_nothing_behind(config_file, tmp_path):
    for override, message in {
        "loss.alpha=3": "alpha",
        "loss.alpha={gren: 0.5}": r'names the class "gren"\. Known: red, green.*mean "green"\?',
        "model.backbone=resnet18fpn": "resnet18_fpn",
        "augmentation.paste.margin=7": "margin",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            train(load_config(config_file, [override]))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_batch_that_cannot_be_shared_is_refused(config_file):
    with pytest.raises(ValueError, match=r"batch_size 4 is not a multiple of accumulation 3"):
        load_config(config_file, ["train.accumulation=3"])


@pytest.fixture
def broken(data, tmp_path):
    """The data with one corrupt image and one missing."""
    root = make_data(tmp_path / "broken")
    (root / "images" / "3.png").write_bytes(b"no image")
    (root / "images" / "7.png").unlink()
    return root


def test_unreadable_images_stop_before_training_or_are_left_out(config_file, broken, tmp_path):
    config = load_config(config_file, data_root=broken)
    with pytest.raises(ValueError, match=r"2 of 10 images cannot be used \(first: .*[37]\.png"):
        train(config)
    assert not (tmp_path / "run").exists()
    skipping = load_config(config_file, ["data.skip_missing=true"], data_root=broken)
    train(skipping)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["frequency"]["num_images"] == 8


# It may raise within torch's own check of whether files can be opened, which leaves one open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_said_in_a_line_and_the_others_end(config_file, monkeypatch):
    """Torch raises from its signal handler when a second one dies, whatever is done then."""

    def kill_one(step):
        if step.iteration == 1:
            multiprocessing.active_children()[0].kill()

    def close(log):
        left.extend(multiprocessing.active_children())
        close_log(log)

    left, close_log = [], MetricsLog.close
    monkeypatch.setattr(MetricsLog, "close", close)
    config = load_config(config_file, ["train.workers=2", "train.iterations=500"])
    message = r"^a process that loads images died \(.*Lower train\.workers"
    with pytest.raises(ValueError, match=message) as error:
        train(config, on_step=kill_one)
    assert "\n" not in str(error.value)
    assert not left


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_only_decoding_finds_damaged_is_named(config_file, tmp_path, workers, capsys):
    root = make_data(tmp_path / "damaged")
    for path in (root / "images").iterdir():
        data = bytearray(path.read_bytes())
        data[60:-60] = bytes(len(data) - 120)  # header and end are whole
        path.write_bytes(data)
    command = ["train", "--config", config_file, "--data-root", root]
    status, _, err = run_command(capsys, *command, "--set", f"train.workers={workers}")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(lines) == 1
    assert re.match(r"error: .*damaged/images/\d\.png: the image cannot be read", lines[0]), err
    assert "Traceback" not in err


def test_boxes_of_val_of_unknown_classes_are_refused(config_file, data, tmp_path):
    other = make_data(tmp_path / "other", names=("red", "Green"))
    config = load_config(config_file, [f"data.val={other / 'train.json'}"])
    message = r"its classes are not those of .*: 2 boxes are of classes unknown there"
    with pytest.raises(ValueError, match=rf'{message} \(first: "Green"\).*mean "green"\?'):
        train(config)


def renumbered(data: Path, folder: Path, categories: dict[int, dict], drop: int = 0) -> Path:
    """The annotations with other category ids, without the boxes of one."""
    content = json.loads((data / "train.json").read_text())
    boxes = [box for box in content["annotations"] if box["category_id"] != drop]
    for box in boxes:
        box["category_id"] = categories[box["category_id"]]["id"]
    entries = [entry for old, entry in categories.items() if old != drop]
    path = folder / "val.json"
    path.write_text(
        json.dumps({"images": content["images"], "annotations": boxes, "categories": entries})
    )
    return path


SWAPPED = {1: {"id": 2, "name": "red"}, 2: {"id": 1, "name": "green"}}


def test_classes_of_val_are_found_by_name(config_file, data, tmp_path, caplog, capsys):
    """The report is that of the same boxes under the ids of train; files have val's own ids."""
    caplog.set_level("INFO")
    expected = train_run(load_config(config_file))
    assert "matched by their names" not in caplog.text
    val = renumbered(data, tmp_path, SWAPPED)
    overrides = [f"data.val={val}", f"output={tmp_path / 'other'}"]
    report = train_run(load_config(config_file, overrides))
    assert "val.json: its category ids are not those of" in caplog.text
    for ours, theirs in zip(report.classes, expected.classes, strict=True):
        assert (ours.name, ours.AP, ours.recall) == (theirs.name, theirs.AP, theirs.recall)
        assert ours.positive_share == theirs.positive_share
        assert ours.category_id == 3 - theirs.category_id
    command = ["report", "--annotations", val, "--predictions", tmp_path / "other"]
    status, _, err = run_command(capsys, *command, "--output", tmp_path / "again")
    assert status == 0, err
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["summary"]["AP"] == report.summary["AP"]


def test_val_may_list_fewer_classes_and_others_without_boxes(
    config_file, data, tmp_path, caplog, capsys
):
    caplog.set_level("INFO")
    expected = {row.name: row for row in train_run(load_config(config_file)).classes}
    unused = {3: {"id": 1, "name": "unused"}}
    val = renumbered(data, tmp_path, {1: {"id": 7, "name": "red"}, 2: {}, **unused}, drop=2)
    overrides = [f"data.val={val}", f"output={tmp_path / 'other'}"]
    report = train_run(load_config(config_file, overrides))
    assert re.search(r"val\.json: does not list green of \S*train\.json; what is", caplog.text)
    rows = {row.name: row for row in report.classes}
    assert set(rows) == {"red", "unused"}
    assert rows["red"].recall == expected["red"].recall
    assert rows["red"].positive_share == expected["red"].positive_share
    command = ["evaluate", "--checkpoint", tmp_path / "run" / "last.pt", "--annotations", val]
    command += ["--images", data / "images", "--output", tmp_path / "results", "--workers", 0]
    status, _, err = run_command(capsys, *command)
    assert status == 0, err
    evaluated = json.loads((tmp_path / "results" / "report.json").read_text())
    assert evaluated["summary"]["AP"] == report.summary["AP"]


def test_load_detector_gives_a_torchvision_model(config_file, tmp_path):
    train(load_config(config_file))
    model = load_detector(tmp_path / "run" / "last.pt")
    assert model.class_names == ["background", "red", "green"]
    assert not model.training
    with torch.inference_mode():
        (found,) = model([torch.rand(3, 64, 64)])
    assert set(found) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no readable checkpoint"),
        (b"junk" * 100, "no readable checkpoint"),
        (None, "cannot be"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path, content, message):
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_detector(path)
    torch.save({"model": {}}, tmp_path / "y.pt")
    with pytest.raises(ValueError, match=r"has the format None"):
        load_detector(tmp_path / "y.pt")


def run_command(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_commands_end_to_end(config_file, data, tmp_path, capsys):
    status, out, _ = run_command(capsys, "train", "--config", config_file)
    assert status == 0
    assert "green" in out
    checkpoint = tmp_path / "run" / "best.pt"
    common = ["--annotations", data / "train.json", "--images", data / "images"]
    results = tmp_path / "results"
    command = ["evaluate", "--checkpoint", checkpoint, *common, "--output", results]
    status, _, err = run_command(capsys, *command, "--workers", 0)
    assert status == 0, err
    evaluated = json.loads((results / "report.json").read_text())
    reported = tmp_path / "reported"
    command = ["report", "--annotations", data / "train.json", "--train", data / "train.json"]
    command += ["--predictions", results / "predictions.json", "--output", reported]
    status, _, err = run_command(capsys, *command)
    assert status == 0, err
    again = json.loads((reported / "report.json").read_text())
    for row in evaluated["classes"]:
        share = row["figures"].pop("positive_share")
        assert 0 < share < 1  # two files do not tell; a checkpoint does
    for row in again["classes"]:
        assert row["figures"].pop("positive_share") is None
    assert again["classes"] == evaluated["classes"]
    assert again["summary"] == evaluated["summary"]
    status, _, err = run_command(capsys, *command)
    assert status == 2
    assert "already holds a report" in err


def test_user_faults_end_in_one_line_and_status_2(config_file, data, tmp_path, capsys):
    train(load_config(config_file, ["train.iterations=1"]))
    other = make_data(tmp_path / "other", names=("red", "blue"))
    checkpoint = tmp_path / "run" / "last.pt"
    unknown = tmp_path / "unknown.json"
    unknown.write_text(
        json.dumps([{"image_id": 77, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}])
    )
    commands = {
        "is not a known key": ["train", "--config", config_file, "--set", "train.x=1"],
        "cannot be read": ["train", "--config", tmp_path / "gone.yaml"],
        "already holds a run": ["train", "--config", config_file, "--set", "train.iterations=1"],
        "its classes are not those of": [
            "evaluate", "--checkpoint", checkpoint, "--annotations", other / "train.json",
            "--images", other / "images",
        ],
        "77": ["report", "--annotations", data / "train.json", "--predictions", unknown],
        "Missing option '--config'": ["train"],
        "No such command 'trian'": ["trian"],
    }  # fmt: skip
    for message, command in commands.items():
        status, _, err = run_command(capsys, *command)
        lines = [line for line in err.splitlines() if not line.startswith("training in")]
        assert (status, len(lines)) == (2, 1), err
        assert message in lines[0]
        assert "Traceback" not in err
