"""Configuration files: what is accepted, and what the one line says when it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml

from detbalance.annotations import Categories
from detbalance.detection.heads import detector_classes
from detbalance.training.config import load_config
from detbalance.training.setup import build_model, build_optimizer, loader_workers

CONFIGS = sorted(Path(__file__).resolve().parents[1].glob("configs/**/*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Write a configuration whose data exist, with changes, and give its path."""
    for name in ("train", "val"):
        (tmp_path / f"{name}.json").write_text("{}")
        (tmp_path / name).mkdir()

    def _write(**changes):
        raw = {
            "output": str(tmp_path / "run"),
            "data": {
                "root": str(tmp_path),
                "train": "train.json",
                "train_images": "train",
                "val": "val.json",
                "val_images": "val",
            },
            "loss": {"name": "focal"},
        } | changes
        path = tmp_path / "x.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    return _write


def test_resolved_config_read_again_is_the_same(write, tmp_path):
    config = load_config(write(), ["train.iterations=7", "loss.gamma=1.5", "augmentation.paste={}"])
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again).to_dict() == config.to_dict()
    assert config.train.iterations == 7
    assert config.to_dict()["loss"]["gamma"] == 1.5


def test_numbers_in_exponent_form_are_numbers(write):
    """YAML 1.1 reads 1e-3 as text."""
    assert load_config(write(), ["train.learning_rate=1e-3"]).train.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.iteratons=5",
            r"train\.iteratons is not a known key\. Known: .*iterations.*"
            r' Did you mean "iterations"\?',
        ),
        ("trian.iterations=5", r'trian is not a known key\..*Did you mean "train"\?'),
        ("loss.gama=2", r'loss\.gama is not a known key\..*Did you mean "gamma"\?'),
        ("loss.name=focall", r'loss\.name is "focall"\. Known: .*focal.* Did you mean "focal"\?'),
        (
            "model.detector=retinanett",
            r'model\.detector is "retinanett"\..*Did you mean "retinanet"\?',
        ),
        ("augmentation.standard.flip=1", r"augmentation\.standard\.flip is not a known key"),
        (
            "train.iterations=many",
            r"train\.iterations is 'many': .*integer.*--set train\.iterations=",
        ),
        ("train.iterations=0", r"train\.iterations is 0: .*greater than 0"),
        ("train.learning_rate=-1", r"train\.learning_rate is -1: .*greater than 0"),
        ("sampling.method=repeat_factor", r"sampling: .*either threshold or epoch_length"),
        ("sampling.threshold=0.1", r"sampling: threshold has no effect"),
        ("train.accumulation=3", r"train: batch_size 16 is not a multiple of accumulation 3"),
        ("data.train=gone.json", r"data\.train is .*gone\.json, which is no file"),
        ("data.val_images=gone", r"data\.val_images is .*gone, which is no folder"),
        ("data.val=null", r"data\.val is None"),
        ("train.iterations", r'--set train\.iterations: has no "="'),
        ("output.x=1", r"--set output\.x=1: output holds .*not a section"),
        ("train.iterations=[", r"--set train\.iterations=\[: the value is not valid YAML"),
    ],
)
def test_faults_are_one_clear_line(write, override, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config(write(), [override])
    assert "\n" not in str(error.value)


def test_missing_section_is_named(write, tmp_path):
    path = write()
    raw = yaml.safe_load(path.read_text())
    del raw["data"]["train"]
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=r"x\.yaml: data\.train is missing"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\nb: 2", r"is not valid YAML at line"),
        ("- 1", r"holds list\. A mapping"),
        ("", r"holds NoneType\. A mapping"),
    ],
)
def test_files_that_hold_no_configuration(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(path)
    with pytest.raises(ValueError, match=r"gone\.yaml: cannot be read \(No such file"):
        load_config(tmp_path / "gone.yaml")


def test_data_root_comes_from_flag_then_file_then_environment(write, tmp_path, monkeypatch):
    path = write()
    monkeypatch.setenv("DETBALANCE_DATA", str(tmp_path / "nowhere"))
    assert load_config(path).data.root == tmp_path
    with pytest.raises(ValueError, match="elsewhere"):
        load_config(path, data_root=tmp_path / "elsewhere")
    raw = yaml.safe_load(path.read_text())
    del raw["data"]["root"]
    path.write_text(yaml.safe_dump(raw))
    monkeypatch.setenv("DETBALANCE_DATA", str(tmp_path))
    assert load_config(path).data.root == tmp_path
    monkeypatch.delenv("DETBALANCE_DATA")
    with pytest.raises(ValueError, match=r"--data-root DIR or DETBALANCE_DATA"):
        load_config(path)


def test_there_are_shipped_configs():
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configs_load_and_build(path, tmp_path):
    """Every shipped file is valid and gives a model; its data are stood in for."""
    raw = yaml.safe_load(path.read_text())
    for key in ("train", "val"):
        file = tmp_path / raw["data"][key]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        (tmp_path / raw["data"][f"{key}_images"]).mkdir(parents=True, exist_ok=True)
    config = load_config(path, data_root=tmp_path)
    model = build_model(config, Categories((1, 2), ("a", "b")), [0, 9, 1], pretrained=False)
    assert detector_classes(model) == 3
    assert len(build_optimizer(config.train, model).param_groups) >= 2


def test_loaders_take_no_cores_from_a_processor_that_trains(monkeypatch):
    assert loader_workers(3) == 3
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert loader_workers(None) == 0
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert loader_workers(None) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_workers(None) == 4
