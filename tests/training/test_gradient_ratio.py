"""The gradient that each class gets, as logged and reported, and what the settings multiply."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from killed_runs import train_until_killed
from PIL import Image
from squares import make_data, write_config

from detbalance.augmentation import Compose, DonorBank, Mixup, Mosaic, RarePaste
from detbalance.cli.runs import train_run
from detbalance.data import Categories, load_annotations
from detbalance.data.frequency import class_frequency
from detbalance.detection.dataset import DetectionDataset, Draw
from detbalance.losses import LOSSES, SigmoidFocalLoss, SoftmaxCrossEntropyLoss
from detbalance.losses.statistics import GradientGauge
from detbalance.sampling import RepeatFactorSampler, repeat_factors
from detbalance.training.checkpoint import load_checkpoint
from detbalance.training.config import load_config
from detbalance.training.gradient_ratio import (
    GradientTotals,
    SettingsGradientRatio,
    positive_share,
    settings_gradient_ratio,
)
from detbalance.training.loop import train
from detbalance.training.metrics import MetricsLog, read_metrics

CPU = torch.device("cpu")
NAMES = Categories(ids=(1, 2), names=("red", "green"))


# The gauge


def step(loss: SigmoidFocalLoss) -> np.ndarray:
    """One training call; returns |gradient| by hand, [2, K + 1], positive and negative."""
    logits = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, -1])
    (gradient,) = torch.autograd.grad(loss(logits, labels, normalizer=1.0), logits)
    own = torch.nn.functional.one_hot(labels.clamp(min=0), 3)[:, 1:].bool()
    sums = [(gradient.abs() * rows).sum(dim=0).numpy() for rows in (own, ~own)]
    return np.pad(sums, ((0, 0), (1, 0)))


def test_shares_are_those_of_the_gradients():
    loss = SigmoidFocalLoss([0, 9, 1], alpha=[0.3, 0.6])
    totals = GradientTotals(loss, 3)
    first = step(loss) + step(loss)
    totals.collect(CPU)
    record = totals.record(NAMES)
    shares = np.array(
        [list(record[key].values()) for key in ("positive_gradient", "negative_gradient")]
    )
    np.testing.assert_allclose(shares, first[:, 1:] / first.sum(), rtol=1e-5)
    assert list(record["positive_gradient"]) == ["red", "green"]
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    second = step(loss)
    totals.collect(CPU)
    record = totals.record(NAMES)
    assert record["positive_gradient"]["green"] == pytest.approx(
        second[0, 2] / second.sum(), rel=1e-5
    )
    both = (first + second)[:, 1:]
    np.testing.assert_allclose(totals.positive_share()[1:], both[0] / both.sum(axis=0), rtol=1e-12)
    assert np.isnan(totals.positive_share()[0])
    assert totals.record(NAMES) == {}


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropyLoss([0, 9, 1]), None])
def test_losses_without_a_gauge_tell_nothing(loss):
    totals = GradientTotals(loss, 3)
    totals.collect(CPU)
    assert totals.record(NAMES) == {}
    assert np.isnan(totals.positive_share()).all()


def test_a_class_without_gradient_is_unknown():
    share = positive_share(torch.tensor([[0.0, 0, 1], [0, 0, 3]], dtype=torch.float64))
    np.testing.assert_array_equal(share, [np.nan, np.nan, 0.25])


# In a run


def gradient_records(folder):
    return [r for r in read_metrics(folder) if "positive_gradient" in r]


def test_every_call_of_a_run_adds_up(config_file, monkeypatch):
    """Accumulated steps and images that are normalised one by one are calls like all others."""
    calls, add = [], GradientGauge.add

    def listen(self, positive, negative):
        calls.append(torch.stack([positive, negative]).numpy().astype(np.float64))
        add(self, positive, negative)

    monkeypatch.setattr(GradientGauge, "add", listen)
    overrides = ["train.accumulation=2", "train.log_every=2", "loss.normalizer=image"]
    config = load_config(config_file, overrides)
    report = train_run(config)
    assert len(calls) >= 12  # 6 steps of 2 batches
    sums = np.sum(calls, axis=0)
    shares = {row.name: row.positive_share for row in report.classes}
    expected = sums[0] / sums.sum(axis=0)
    np.testing.assert_allclose([shares["red"], shares["green"]], expected, rtol=1e-5)
    records = gradient_records(config.output)
    assert [r["iteration"] for r in records] == [2, 4, 6]
    for record in records:
        parts = [*record["positive_gradient"].values(), *record["negative_gradient"].values()]
        assert sum(parts) == pytest.approx(1, abs=1e-4)
    first = np.sum(calls[: len(calls) // 3], axis=0)
    assert records[0]["negative_gradient"]["green"] == pytest.approx(
        first[1, 1] / first.sum(), rel=1e-4
    )


def test_shares_go_on_where_a_killed_run_was_saved(config_file, tmp_path):
    """Also where checkpoints and log records fall on different iterations."""
    overrides = ["train.log_every=3", "train.checkpoint_every=2"]
    whole = load_config(config_file, [*overrides, f"output={tmp_path / 'whole'}"])
    config = load_config(config_file, overrides)
    train(whole)

    train_until_killed(config, 5)
    train(config, resume=True)
    assert [r["iteration"] for r in gradient_records(config.output)] == [3, 6]
    for ours, theirs in zip(
        gradient_records(config.output), gradient_records(whole.output), strict=True
    ):
        assert ours["positive_gradient"] == pytest.approx(theirs["positive_gradient"], rel=1e-4)
        assert ours["negative_gradient"] == pytest.approx(theirs["negative_gradient"], rel=1e-4)
    ours, theirs = (load_checkpoint(c.output / "last.pt")["push"]["run"] for c in (config, whole))
    assert theirs.sum() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)


def test_a_softmax_run_reports_no_share(config_file):
    overrides = ["model.detector=fasterrcnn", "loss.name=cross_entropy", "train.iterations=1"]
    report = train_run(load_config(config_file, [*overrides, "model.head_convs=0"]))
    assert all(np.isnan(row.positive_share) for row in report.classes)


def test_trackers_get_no_charts_of_very_many_classes(tmp_path):
    tracked = {}
    log = MetricsLog(tmp_path, lambda numbers, iteration: tracked.update({iteration: numbers}))
    log.write(0, {"sampling_factor": {"red": 2.0}}, track=False)
    many = {f"class {i}": 0.005 for i in range(101)}
    few = dict(list(many.items())[:100])
    log.write(1, {"loss": 2.0, "few": few, "positive_gradient": many, "val": {"AP": None}})
    log.close()
    assert [r["iteration"] for r in read_metrics(tmp_path)] == [0, 1]
    assert len(read_metrics(tmp_path)[1]["positive_gradient"]) == 101
    assert tracked == {1: {"loss": 2.0, **{f"few/{name}": 0.005 for name in few}}}


def test_very_many_classes_are_logged_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr("detbalance.training.loop.MANY_CLASSES", 2)
    config_file = write_config(make_data(tmp_path / "data"), tmp_path)
    config = load_config(config_file)
    train(config)
    assert [r["iteration"] for r in gradient_records(config.output)] == [2, 4, 6]


# What the settings make a box count


@pytest.fixture
def scattered(tmp_path):
    """96 x 96 images with small boxes: 60 of "many", 8 of "few", 2 of "one", crowds, an empty."""
    draw = np.random.default_rng(1)
    names = ["many"] * 60 + ["few"] * 8 + ["one"] * 2
    images, annotations = [], []
    for i in range(40):
        Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 96, "height": 96})
    kinds = {"many": 1, "few": 2, "one": 3, "none": 4}
    for number, name in enumerate(names):
        x, y = (int(v) for v in draw.integers(0, 85, 2))
        annotations.append(
            {
                "id": number,
                "image_id": int(draw.integers(0, 39)),
                "category_id": kinds[name],
                "bbox": [x, y, 9, 9],
                "area": 81,
                "iscrowd": int(name == "few" and number % 4 == 0),
            }
        )
    categories = [{"id": c, "name": name} for name, c in kinds.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(content))
    return load_annotations(tmp_path / "train.json")


def test_sampling_factor_is_what_draws_count(scattered):
    factors = repeat_factors(scattered, target_length=58)
    sampler = RepeatFactorSampler(factors, seed=0)
    draws = np.zeros(40)
    for epoch in range(500):
        sampler.set_epoch(epoch)
        draws += np.bincount(list(sampler), minlength=40)
    counted = ~scattered.is_crowd
    labels, images = scattered.labels[counted], scattered.image_index[counted]
    boxes = np.bincount(labels, minlength=5).clip(1)
    shown = np.bincount(labels, draws[images], minlength=5) / boxes
    ratio = settings_gradient_ratio(scattered, factors)
    assert ratio.reference == 1
    assert ratio.sampling[3] > 2
    np.testing.assert_allclose(ratio.sampling[1:4], (shown / shown[1])[1:4], rtol=0.01)
    np.testing.assert_array_equal(ratio.paste, 1)


@pytest.mark.parametrize(("mixed", "epochs", "tolerance"), [(False, 40, 0.08), (True, 8, 0.2)])
def test_product_is_what_draws_and_pastes_count(scattered, tmp_path, mixed, epochs, tolerance):
    factors = repeat_factors(scattered, target_length=58)
    bank = DonorBank(scattered, tmp_path, classes=["few", "one"], margin=0.0, min_size=4.0)
    paste = RarePaste(bank, probability=0.6, max_pastes=3, scale=(1.0, 1.0))
    load = DetectionDataset(scattered, tmp_path).load
    mixing = [Mosaic(load, factors, probability=0.8), Mixup(load, factors)] if mixed else []
    dataset = DetectionDataset(scattered, tmp_path, augmentation=Compose([*mixing, paste]))
    sampler = RepeatFactorSampler(factors, seed=0)
    own, pasted = np.zeros(5), np.zeros(5)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for position, index in enumerate(sampler):
            target = dataset[Draw(index, (epoch << 32) | position)][1]
            labels = target["labels"][target["iscrowd"] == 0].numpy()
            put = target["pasted"][target["iscrowd"] == 0].numpy()
            own += np.bincount(labels[~put], minlength=5)
            pasted += np.bincount(labels[put], minlength=5)
    ratio = settings_gradient_ratio(scattered, factors, paste=paste, mixing=mixing)
    boxes = class_frequency(scattered).instance_counts[1:4]
    realised = ((own + pasted) / own.clip(1))[1:4]
    np.testing.assert_allclose(ratio.paste[1:4], realised, rtol=tolerance)
    shown = (own + pasted)[1:4] / boxes
    np.testing.assert_allclose(ratio.product[1:4], shown / shown[0], rtol=tolerance)
    assert ratio.product[3] > (4 if mixed else 10)
    for factor in (ratio.sampling, ratio.loss, ratio.paste):
        assert factor[[0, 4]].tolist() == [1, 1]  # background, and a class without a box


def test_without_balancing_every_factor_is_one(scattered):
    loss = SigmoidFocalLoss(class_frequency(scattered))
    ratio = settings_gradient_ratio(scattered, np.ones(40), loss=loss)
    np.testing.assert_allclose(ratio.product, 1, rtol=1e-12)
    assert ratio.warning(scattered.categories, 1.001) is None


def test_dropped_images_and_weights_of_zero_are_no_fault(scattered):
    factors = np.where(np.isin(np.arange(40), scattered.image_index), 0.0, 1.0)
    ratio = settings_gradient_ratio(scattered, factors)
    ratio.warning(scattered.categories, 100)
    json.dumps(ratio.record(scattered.categories), allow_nan=False)


def test_weights_are_those_of_the_gradients(scattered):
    loss = SigmoidFocalLoss(
        class_frequency(scattered), alpha={"few": 0.75, "one": 0.5}, class_weights={"one": 3.0}
    )
    ratio = settings_gradient_ratio(scattered, np.ones(40), loss=loss)
    logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    loss(logits, torch.tensor([1, 2, 3])).backward()
    slopes = logits.grad.diagonal().abs().numpy()
    np.testing.assert_allclose(ratio.loss[1:4], slopes / slopes[0], rtol=1e-12)
    assert ratio.loss[3] == pytest.approx(6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_tells_its_class_weights(scattered, name):
    loss = LOSSES[name](class_frequency(scattered), class_weights={"few": 5.0, "one": 7.0})
    ratio = settings_gradient_ratio(scattered, np.ones(40), loss=loss)
    np.testing.assert_allclose(ratio.loss[1:4], [1, 5, 7], rtol=1e-12)


def test_warning_is_one_line_with_factors_and_product():
    one = np.ones(9)
    ratio = SettingsGradientRatio(one * 4, np.arange(9.0), one * 2, reference=1)
    names = Categories(ids=tuple(range(1, 9)), names=tuple("abcdefgh"))
    line = ratio.warning(names, 20)
    assert line.startswith("train.gradient_ratio_limit: ")
    assert "\n" not in line
    assert "6 classes count more than 20 times as much as one of a: h 4 x 8 x 2 = 64, g " in line
    assert "d 4 x 4 x 2 = 32, ..." in line
    assert ratio.warning(names, 64) is None


def test_a_run_warns_once_and_keeps_the_factors(config_file, tmp_path, caplog):
    caplog.set_level(logging.WARNING)

    def warnings(*overrides):
        caplog.clear()
        train(load_config(config_file, ["train.iterations=2", *overrides]), overwrite=True)
        return [m for m in caplog.messages if "train.gradient_ratio_limit" in m]

    piled = ["loss.class_weights={green: 60}", "augmentation.paste.probability=1"]
    (line,) = warnings(*piled)
    assert "1 class count more than 100 times as much as one of red: green" in line
    factors = read_metrics(tmp_path / "run")[0]
    assert factors["iteration"] == 0
    assert factors["loss_factor"] == {"red": 1, "green": 60}
    assert factors["paste_factor"]["green"] > 1
    assert warnings(*piled, "train.gradient_ratio_limit=null") == []
    assert warnings(*piled, "train.gradient_ratio_limit=5000") == []
    assert warnings() == []
