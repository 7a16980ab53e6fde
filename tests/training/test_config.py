"""Configuration files: what is accepted, and what the one line says when it is not."""

from __future__ import annotations

import os
import re
import typing
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from squares import make_data

from detbalance.augmentation import DonorBank, RarePaste
from detbalance.data import Categories
from detbalance.data.frequency import Frequency
from detbalance.detection.heads import detector_classes
from detbalance.detection.models import build_detector
from detbalance.losses import LOSSES
from detbalance.training.config import PRETRAINED_RATE, load_config, parse_config
from detbalance.training.config_errors import read_yaml
from detbalance.training.setup import (
    build_model,
    build_optimizer,
    classification_loss,
    loader_workers,
)

DETECTORS = typing.get_args(typing.get_type_hints(build_detector)["detector"])
CONFIGS = sorted(Path(__file__).resolve().parents[2].glob("configs/**/*.yaml"))


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
        ("sampling.method=repeat_factor", r"sampling: .*either threshold or target_length"),
        ("sampling.threshold=0.1", r"sampling\.method is missing\. Known: .*repeat_factor.*Add it"),
        ("sampling={method: none, cap: 2}", r"sampling\.cap is not a known key\. Known: method"),
        (
            "sampling={method: balanced_exposur}",
            r'sampling\.method is "balanced_exposur"\..*Did you mean "balanced_exposure"\?',
        ),
        (
            "sampling={method: solve}",
            r'sampling\.method "solve" is called "balanced_exposure" now\. Change it\.',
        ),
        (
            "evaluation.score_floor=0.2",
            r"evaluation\.score_floor is called evaluation\.score_threshold now\. Change it\.",
        ),
        (
            "train.cycles=2",
            r"train\.cycles has left\. Remove it\.",
        ),
        (
            "sampling={method: balanced_exposure, also: [{method: background, share: 0, shar: 0}]}",
            r'sampling\.also\.0\.shar is not a known key\..*Did you mean "share"\?',
        ),
        (
            "sampling={method: balanced_exposure, also: [{share: 0.1}]}",
            r"sampling\.also\.0\.method is missing\. Known: background",
        ),
        (
            "sampling={method: balanced_exposure, also: [{method: background, share: many}]}",
            r"sampling\.also\.0\.share is 'many': .*number",
        ),
        ("train.accumulation=3", r"train: batch_size 4 is not a multiple of accumulation 3"),
        ("data.train=gone.json", r"data\.train is .*gone\.json, which is no file"),
        ("data.val_images=gone", r"data\.val_images is .*gone, which is no folder"),
        ("data.val=null", r"data\.val is None"),
        ('data.val="a\\nb"', r"data\.val is '\S*/a\\nb', which is no file"),
        ('loss.name="fo\\ncal"', r'loss\.name is "fo cal"\. Known: .*mean "focal"\?'),
        ("train.iterations", r'--set train\.iterations: has no "="'),
        ("output.x=1", r"--set output\.x=1: output holds .*not a section"),
        ("train.iterations=[", r"--set train\.iterations=\[: the value is not valid YAML"),
        (
            "loss.alpha=many",
            r"loss\.alpha is 'many'\. Expected a number, a list of numbers or numbers by"
            r" class name\. Change it in the file or with --set loss\.alpha=VALUE\.$",
        ),
        ("loss.alpha={crack: many, pit: 1}", r"loss\.alpha\.crack is 'many': .*number.*VALUE\.$"),
        ("loss.alpha={a: x, b: y}", r"loss\.alpha\.a is 'x': .* \(1 more faults follow\.\)$"),
        ("loss.alpha=[0.5, x]", r"loss\.alpha\.1 is 'x': .*number.*VALUE\.$"),
        ("loss.alpha={3: 0.5}", r"loss\.alpha\.3: 3 is no text\..*Put quotes on\.$"),
        (
            "loss.class_weights=invers",
            r'loss\.class_weights is "invers"\. Known: effective_number, .*none\. Did you mean'
            r' "inverse"\? Or: numbers by class name\.$',
        ),
        ("loss.class_weights={crack: x}", r"loss\.class_weights\.crack is 'x': .*number"),
        (
            "loss.name=equalised_focal",
            r'loss\.name is "equalised_focal"\. Known: .*Did you mean "equalized_focal"\?',
        ),
        (
            "train.gradient_ratio_limit=0.5",
            r"train\.gradient_ratio_limit is 0\.5: .*greater than 1",
        ),
        ("augmentation.mosaik={}", r'augmentation\.mosaik is not .*Did you mean "mosaic"\?'),
        ("augmentation.mosaic.scal=1", r'mosaic\.scal is not .*tries\. Did you mean "scale"\?'),
        ("augmentation.mosaic.factors=[1]", r"augmentation\.mosaic\.factors is not a known key"),
        ("augmentation.mosaic.exposure=[1]", r"augmentation\.mosaic\.exposure is not a known key"),
        ("augmentation.mosaic.scale=1", r"augmentation\.mosaic\.scale is 1: a list is expected"),
        ("augmentation.mosaic.scale=[1]", r"mosaic\.scale is \[1\]: more values are .*scale=VALUE"),
        ("augmentation.mosaic=1", r"augmentation\.mosaic is 1: keys with values are expected\."),
        ("augmentation.mosaic.scale=[x, 1]", r"mosaic\.scale\.0 is 'x': .*number.*VALUE\.$"),
        ("augmentation.mixup.alpha=high", r"augmentation\.mixup\.alpha is 'high': .*number"),
        (
            "augmentation.crop.classes=red",
            r"augmentation\.crop\.classes is 'red': a list is expected",
        ),
        (
            "augmentation.policy.preset=natural_",
            r'augmentation\.policy\.preset is "natural_"\. .*Did you mean "natural"\?',
        ),
        ("augmentation.policy.strength={rare: x}", r"policy\.strength\.rare is 'x': .*number"),
        (
            "augmentation.policy.pipelines={rare: [{Rotate: 10}]}",
            r"policy\.pipelines\.rare\.0\.Rotate is 10: keys with values are expected",
        ),
    ],
)
def test_faults_are_one_clear_line(write, override, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config(write(), [override])
    assert "\n" not in str(error.value)


def test_faults_of_other_values_are_counted_once(write):
    overrides = ["loss.alpha=many", "loss.prior=high", "loss.class_weights=invers"]
    with pytest.raises(ValueError, match=r"loss\.alpha is 'many'.*\(2 more faults follow\.\)$"):
        load_config(write(), overrides)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].activation == "softmax"])
@pytest.mark.parametrize("detector", [d for d in DETECTORS if d != "fasterrcnn"])
def test_softmax_loss_is_refused_by_one_stage_before_data_are_looked_at(write, name, detector):
    path = write()
    overrides = [f"loss.name={name}", f"model.detector={detector}", "data.train=gone.json"]
    with pytest.raises(ValueError, match=f'loss.name is "{name}", a softmax loss') as error:
        load_config(path, overrides)
    line = str(error.value)
    assert f'model.detector is "{detector}"' in line
    possible = line.split("Possible with it: ")[1].split(". ")[0].split(", ")
    sigmoid = {name for name in LOSSES if LOSSES[name].activation == "sigmoid"}
    assert set(possible) == sigmoid | {"torchvision"}
    for other in possible:
        load_config(path, [f"loss.name={other}", f"model.detector={detector}"])


def frequency(*counts: int) -> Frequency:
    """Classes "a", "b", ... with so many boxes, one an image."""
    boxes = np.array([0, *counts])
    ids = tuple(range(1, len(boxes)))
    categories = Categories(ids, tuple("abcdef"[: len(counts)]))
    return Frequency(categories, 2 * sum(counts), boxes, boxes, "train.json")


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_section_and_is_built_with_names_and_images(write, name, tmp_path):
    softmax = LOSSES[name].activation == "softmax"
    detector = "fasterrcnn" if softmax else "retinanet"
    raw = {"detector": detector, "backbone": "tiny"}
    path = write(loss={"name": name, "class_weights": {"b": 3}}, model=raw)
    config = load_config(path, ["train.accumulation=4"])
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again).to_dict() == config.to_dict()
    counts = frequency(90, 10)
    loss = classification_loss(build_model(config, counts.categories, counts, pretrained=False))
    assert type(loss) is LOSSES[name]
    assert loss.accumulation == 4
    assert loss.label_weights.tolist() == [1, 1, 3]


def test_values_by_class_name_reach_the_loss(write):
    config = load_config(write(), ["loss.alpha={b: 0.75}", "loss.gamma=[1, 3]"])
    counts = frequency(90, 10)
    loss = classification_loss(build_model(config, counts.categories, counts, pretrained=False))
    assert loss.alpha.tolist() == [0.25, 0.75]
    assert loss.gamma.tolist() == [1, 3]


def test_augmentation_is_off_but_for_the_standard_one_unless_a_policy_replaces_it(write, tmp_path):
    def parts(*overrides):
        section = load_config(write(), overrides).to_dict()["augmentation"]
        return [name for name, value in section.items() if value is not None]

    assert parts() == ["standard"]
    assert parts("augmentation.policy={}") == ["policy"]
    assert parts("augmentation.policy.preset=aerial", "augmentation.standard={}") == [
        "policy",
        "standard",
    ]
    assert parts("augmentation.policy=null") == ["standard"]
    every = ["mosaic", "mixup", "crop", "paste", "policy"]
    sections = [f"augmentation.{name}={{}}" for name in every]
    assert parts(*sections) == every
    config = load_config(write(), [*sections, "augmentation.mosaic.scale=[0.4, 0.8]"])
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again).to_dict() == config.to_dict()
    assert config.augmentation.mosaic.scale == (0.4, 0.8)


def test_no_key_of_a_section_belongs_to_two_constructors():
    keys = [
        [p.name for p in signature(c).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for c in (DonorBank, RarePaste)
    ]
    assert not set(keys[0]) & set(keys[1])


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
        ("- 1", r"holds list\. A YAML mapping"),
        ("", r"holds NoneType\. A YAML mapping"),
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
    counts = frequency(9, 1)
    model = build_model(config, counts.categories, counts, pretrained=False)
    assert detector_classes(model) == 3
    assert len(build_optimizer(config.train, model).param_groups) >= 2


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        (["model.weights=none"], 1.0),
        ([], PRETRAINED_RATE),
        (["model.weights=offline", "model.backbone=tf_efficientnet_lite0"], PRETRAINED_RATE),
        (["model.weights=run/last.pt"], PRETRAINED_RATE),
        (["model.weights=default", "train.backbone_rate=0.5"], 0.5),
        (["model.weights=default", "train.backbone_rate=0"], 0.0),
    ],
)
def test_a_backbone_with_loaded_weights_learns_slowly_unless_told(write, changes, rate):
    config = load_config(write(), changes)
    assert config.train.backbone_rate == rate
    written = load_config(write(**config.to_dict()))
    assert written.to_dict() == config.to_dict()
    assert config.is_written_in(config.to_yaml())
    model = build_detector(3, backbone="tiny")
    body = set(model.backbone.body.parameters())
    for group in build_optimizer(config.train, model).param_groups:
        inside = {parameter in body for parameter in group["params"]}
        assert len(inside) == 1  # no group mixes the two
        full = config.train.learning_rate
        assert group["lr"] == pytest.approx(full * rate if inside == {True} else full)


def test_loaders_take_no_cores_from_a_processor_that_trains(monkeypatch):
    assert loader_workers(3) == 3
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert loader_workers(None) == 0
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert loader_workers(None) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_workers(None) == 4


def test_a_value_that_is_given_as_one_is_not_read_as_yaml(write, tmp_path):
    """A path may hold what means something else in YAML: comments, numbers, nothing at all."""
    for name in ("x #2", "|", "123", "null", "a: b", "*x", "2024-01-01", "[", "~"):
        config = load_config(write(), ["output=elsewhere"], values={"output": tmp_path / name})
        assert config.output == tmp_path / name
        again = tmp_path / "again.yaml"
        again.write_text(config.to_yaml())
        assert load_config(again).output == tmp_path / name
        assert config.is_written_in(again.read_bytes())
        with pytest.raises(ValueError, match=r"--set output\.x=1: output holds .*not a section"):
            load_config(write(), values={"output": tmp_path / name, "output.x": 1})


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), r"is not valid YAML at line 2 \(an alias \(\*\); write the value out\)"),
        (
            b"a: 1\nb: " + b"[" * 5000,
            r"is not valid YAML at line 2 \(nested deeper than 50 levels\)",
        ),
        (
            b"a: 1\nb: !!timestamp soon",
            r"is not valid YAML at line 2 \('soon' is not of the kind timestamp\)",
        ),
        (b"a: 1\nb: 0b_", r"is not valid YAML at line 2 \('0b_' is not of the kind int\)"),
        (
            b"a: 1\nb: " + b"1" * 5000,
            r"is not valid YAML at line 2 \('1{40}' is not of the kind int\)",
        ),
        (b"a: !!bool maybe", r"is not valid YAML at line 1 \('maybe' is not of the kind bool\)"),
        (
            b"a: !!python/object:os.system x",
            r"is not valid YAML at line 1 \(could not determine a constructor",
        ),
        ("a: 1\nb: caf\xe9".encode("latin-1"), r"is not UTF-8 text at line 2 \(byte 11\)"),
        (b"\xff\xfea\x00:\x00\x00", r"is not UTF-16 text at line 1 "),
        (b"a: 1\n\nb: \x07", r"is not valid YAML at line 3 \(character 7\)"),
        (b"a: 1\n? [x]\n: 2", r"is not valid YAML at line 2 \(found unhashable key\)"),
        (b"#" * (2**20 + 1), r"is larger than 1 MB\. A YAML"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else "",
)
def test_yaml_that_cannot_be_used_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^\S*x\.yaml: {message}") as error:
        load_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["*a", "[" * 2000, "!!timestamp soon", "0x_"])
def test_yaml_in_an_override_is_read_as_in_a_file(write, value):
    with pytest.raises(ValueError, match=r"^--set seed=.*: the value is not valid YAML at line 1"):
        load_config(write(), [f"seed={value}"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dates_are_text_in_every_encoding(write, tmp_path, encoding):
    path = write()
    text = path.read_text().replace(str(tmp_path / "run"), "2024-13-01")
    path.write_bytes(text.encode(encoding))
    assert load_config(path).output == Path("2024-13-01")


@settings(max_examples=200)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6)), max_size=6))
def test_damaged_yaml_is_read_or_refused_with_a_line(edits):
    content = bytearray(next(p for p in CONFIGS if p.stem == "digits").read_bytes())
    for place, put in edits:
        content[place % len(content) : place % len(content) + 2] = put
    fault = ""
    try:
        read_yaml(bytes(content))
    except ValueError as error:
        fault = str(error)
    assert not fault or re.match(r"is not (valid YAML|UTF-(8|16) text) at line \d+ \(", fault)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"seed={2**63}", r"seed is 9223372036854775808: .*less than 9223372036854775808"),
        ("train.batch_size=1000000", r"batch_size is 1000000: .*less than or equal to 65536"),
        ("evaluation.batch_size=1000000", r"batch_size is 1000000: .*less than or equal to 65536"),
        ("train.workers=100000", r"train\.workers is 100000: .*less than or equal to 1024"),
    ],
)
def test_numbers_that_would_take_all_memory_or_overflow_are_refused(write, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(), [override])
    load_config(write(), [f"seed={2**63 - 1}"])


def test_a_config_of_data_and_loss_alone_trains_a_sensible_detector(config_file, tmp_path):
    """Pretrained and small, where the defaults were a ResNet-50 from scratch at 800 pixels."""
    raw = yaml.safe_load(config_file.read_text())
    config = parse_config({key: raw[key] for key in ("output", "data", "loss")}, "made")
    assert (config.model.backbone, config.model.weights) == ("tf_efficientnet_lite0", "offline")
    assert config.train.backbone_rate == 0.1
    model = build_detector(3, **config.model.model_dump(), load_weights=False)
    assert (model.transform.min_size, model.transform.max_size) == ((384,), 640)


def test_without_the_package_of_weights_the_default_is_none(config_file, monkeypatch):
    monkeypatch.setattr("detbalance.detection.defaults.find_spec", lambda name: None)
    raw = yaml.safe_load(config_file.read_text())
    config = parse_config({key: raw[key] for key in ("output", "data", "loss")}, "made")
    assert (config.model.weights, config.train.backbone_rate) == ("none", 1.0)
    assert not config.loads_weights


def test_shipped_configurations_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_data(tmp_path / "data")
    own = [f"data.{part}={data / name}" for part, name in FILES_OF_DATA.items()]
    assert load_config("configs/digits.yaml", own).model.backbone == "tiny"
    with pytest.raises(ValueError, match=r"^configs/nothing\.yaml: cannot be read"):
        load_config("configs/nothing.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.yaml").write_text("[]")  # one's own goes first
    with pytest.raises(ValueError, match="holds list"):
        load_config("configs/digits.yaml", own)


FILES_OF_DATA = {
    "train": "train.json",
    "val": "train.json",
    "train_images": "images",
    "val_images": "images",
}
