"""Detections of whole data sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detbalance.data import load_annotations
from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.models import build_detector
from detbalance.detection.predict import predict


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    sizes = [(64, 48), (48, 64), (64, 64), (40, 56), (64, 48)]
    for i, (width, height) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    document = {
        "images": [
            {"id": 50 - i, "file_name": f"{i}.png", "width": w, "height": h}
            for i, (w, h) in enumerate(sizes)
        ],
        "categories": [{"id": 5, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": [],
    }
    (folder / "notes.json").write_text(json.dumps(document))
    return DetectionDataset(load_annotations(folder / "notes.json"), folder)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_detector(3, backbone="tiny", min_size=48, max_size=64, detections_per_image=7)
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.1)
    return model


def test_predictions_are_the_models_in_the_order_of_the_images(model, data):
    found = predict(model, data, batch_size=2)
    expected = []
    with torch.no_grad():
        for i in range(len(data)):
            output = model.eval()([data[i][0]])[0]
            for box, label, score in zip(
                *(output[k] for k in ("boxes", "labels", "scores")), strict=True
            ):
                x1, y1, x2, y2 = box.double().tolist()
                expected.append((i, label.item(), [x1, y1, x2 - x1, y2 - y1], score.item()))
    model.train()
    assert found.num_predictions == len(expected) == 35
    assert found.image_index.tolist() == [row[0] for row in expected]
    assert found.labels.tolist() == [row[1] for row in expected]
    # Batches are padded to their largest image, which moves the edges' features a little.
    np.testing.assert_allclose(found.bbox[7 * 4 :], [row[2] for row in expected[7 * 4 :]])
    np.testing.assert_allclose(found.scores, [row[3] for row in expected], atol=0.05)
    assert found.bbox.dtype == np.float64


def test_boxes_lie_in_their_images(model, data):
    found = predict(model, data)
    limits = data.annotations.sizes[found.image_index]
    assert (found.bbox[:, :2] >= 0).all()
    assert (found.bbox[:, :2] + found.bbox[:, 2:] <= limits + 1e-3).all()


def test_workers_and_threads_change_nothing(model, data):
    one, two = predict(model, data, batch_size=3), predict(model, data, batch_size=3, workers=1)
    for name in ("image_index", "labels", "bbox", "scores"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored(model, data, training):
    model.train(training)
    model.backbone.body.stem.eval()  # a part that somebody froze
    before = {name: module.training for name, module in model.named_modules()}
    predict(model, data, device="cpu")
    assert {name: module.training for name, module in model.named_modules()} == before
    model.train()


def test_modes_are_restored_after_an_error(model, data):
    class Broken(Exception):
        pass

    def stop(done, total):
        raise Broken

    model.train()
    with pytest.raises(Broken):
        predict(model, data, progress=stop)
    assert model.training


def test_nothing_is_learnt_and_no_global_random_state_moves(model, data):
    model.train()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    predict(model, data, workers=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_progress_counts_images(model, data):
    calls = []
    predict(model, data, batch_size=2, progress=lambda *call: calls.append(call))
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_no_detections_are_fine(data):
    model = build_detector(
        3, backbone="tiny", min_size=48, max_size=64, score_threshold=1.0, detector="fasterrcnn"
    )
    found = predict(model, data)
    assert found.num_predictions == 0
    assert found.bbox.shape == (0, 4)


def test_a_data_set_without_images_is_fine(model, data):
    empty = DetectionDataset(data.annotations.subset([]), data.image_dir)
    assert predict(model, empty).num_predictions == 0


def test_autocast_keeps_detections_close(model, data):
    exact, half = predict(model, data), predict(model, data, autocast=True)
    assert half.num_predictions == exact.num_predictions
    np.testing.assert_allclose(half.scores, exact.scores, atol=0.1)
    assert not np.array_equal(half.scores, exact.scores)
    assert half.bbox.dtype == np.float64


def test_impossible_arguments_are_refused(model, data):
    augmented = DetectionDataset(
        data.annotations,
        data.image_dir,
        augmentation=lambda image, target, generator: (image, target),
    )
    with pytest.raises(ValueError, match="the data set has an augmentation"):
        predict(model, augmented)
    with pytest.raises(ValueError, match=r"batch_size is 0. Expected a whole number >= 1"):
        predict(model, data, batch_size=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("autocast", [False, True])
def test_a_gpu_gives_the_same_and_the_model_comes_back(model, data, autocast):
    exact = predict(model, data)
    found = predict(model, data, device="cuda", autocast=autocast)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    np.testing.assert_allclose(found.scores, exact.scores, atol=0.1 if autocast else 1e-3)
