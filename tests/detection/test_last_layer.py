"""The last layer of a classification head: when it is replaced, and what it starts from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectors import BUILDERS, COUNTS, ONE_STAGE, K, batch, detections_of, last_layer, rcnn
from every_loss import build
from torch import nn

from detbalance.detection.heads import CosineLinear, set_classification_loss
from detbalance.losses import LOSSES, SigmoidFocalLoss, SoftmaxCrossEntropyLoss


class WideSigmoid(SigmoidFocalLoss):
    """K + 1 outputs, background in column 0; its score is the highest of all."""

    def __init__(self, counts, **options):
        super().__init__(counts, **options)
        self.num_outputs = self.num_classes

    def scores(self, logits):
        return torch.sigmoid(logits)

    def forward(self, logits, labels, *, normalizer=None):
        return logits.sum() * 0


class WideSoftmax(SoftmaxCrossEntropyLoss):
    """K + 2 outputs."""

    def __init__(self, counts, **options):
        super().__init__(counts, **options)
        self.num_outputs = self.num_classes + 1

    def scores(self, logits):
        return logits[:, :-1].softmax(1)

    def forward(self, logits, labels, *, normalizer=None):
        return logits.sum() * 0


class CosineSoftmax(SoftmaxCrossEntropyLoss):
    """Cosines, 20 times."""

    last_layer = "cosine"

    def scores(self, logits):
        return super().scores(20 * logits)


# CosineLinear


def test_cosines_are_those_of_the_angles():
    layer = CosineLinear(7, 3).double()
    x = torch.randn(5, 7, dtype=torch.float64)
    expected = nn.functional.cosine_similarity(x[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(layer(x), expected)
    assert torch.autograd.gradcheck(layer, x.requires_grad_())
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_cosines_do_not_depend_on_lengths_and_stay_in_range():
    layer = CosineLinear(4, 2)
    x = layer.weight.detach().repeat(50, 1)
    torch.testing.assert_close(layer(1e3 * x), layer(x))
    assert (layer(x).abs() <= 1).all()
    zero = torch.zeros(1, 4, requires_grad=True)
    assert layer(zero).tolist() == [[0.0, 0.0]]
    layer(zero).sum().backward()
    assert zero.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


def test_cosines_are_weights_normalised_by_tau_1(shared):
    # The reference gives NaN for a class whose weights are all zero (QUIRKS 31), this 0.
    z = np.load(shared / "golden/tau_norm.npz")
    features = torch.tensor(z["feat"], dtype=torch.float64)
    layer = CosineLinear(features.shape[1], len(z["weight"])).double()
    layer.load_state_dict({"weight": torch.tensor(z["weight"], dtype=torch.float64)})
    logits = layer(features).detach() * features.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(logits, z["tau1.0__logits_f64"], rtol=1e-10, atol=1e-12)
    assert np.isnan(z["zero__tau1_weight_f64"]).any()
    layer.load_state_dict({"weight": torch.tensor(z["zero__weight"], dtype=torch.float64)})
    assert layer(features).isfinite().all()


def test_cosines_are_float32_under_autocast():
    layer, x = CosineLinear(64, 8), torch.randn(16, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer(x.clone()))
        assert layer(x).dtype == torch.float32
    torch.testing.assert_close(layer(x.bfloat16()), layer(x), atol=0.02, rtol=0)


# Which layer


@pytest.mark.parametrize("name", BUILDERS)
def test_background_in_an_output_of_its_own_is_never_detected(name):
    images, _ = batch()
    model = set_classification_loss(BUILDERS[name](), WideSigmoid(COUNTS))
    layer = last_layer(model)
    assert layer.weight.shape[0] % (K + 1) == 0
    with torch.no_grad():
        layer.bias.view(-1, K + 1)[:, 0] = 5.0
        layer.bias.view(-1, K + 1)[:, 1:] = 0.0
    (model if name in ONE_STAGE else model.roi_heads).score_thresh = 0.0
    for found in detections_of(model, images):
        assert len(found["labels"]) > 0
        assert (found["labels"] > 0).all()


def test_an_rcnn_head_may_have_more_outputs_than_classes():
    images, _ = batch()
    model = set_classification_loss(rcnn(), WideSoftmax(COUNTS))
    assert last_layer(model).out_features == K + 2
    assert {*torch.cat([f["labels"] for f in detections_of(model, images)]).tolist()} <= {
        1,
        2,
        3,
        4,
    }


def test_a_cosine_layer_comes_and_goes_with_its_loss():
    images, _ = batch()
    stock = rcnn()
    model = set_classification_loss(rcnn(), CosineSoftmax(COUNTS))
    layer = last_layer(model)
    assert isinstance(layer, CosineLinear)
    assert (layer.in_features, layer.out_features) == (1024, K + 1)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert all(len(found["scores"]) for found in detections_of(model, images))
    set_classification_loss(model, CosineSoftmax(COUNTS))
    assert last_layer(model) is layer
    for loss in (SoftmaxCrossEntropyLoss(COUNTS), None):
        set_classification_loss(model, CosineSoftmax(COUNTS))
        set_classification_loss(model, loss)
        assert type(last_layer(model)) is nn.Linear
    assert model.state_dict().keys() == stock.state_dict().keys()


def test_softmax_outputs_do_not_become_sigmoid_outputs():
    model = rcnn()
    layer = last_layer(model)
    set_classification_loss(model, SoftmaxCrossEntropyLoss(COUNTS))
    assert last_layer(model) is layer
    set_classification_loss(model, WideSigmoid(COUNTS, prior=0.001))
    assert last_layer(model) is not layer
    bias = last_layer(model).bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.001))
    layer = last_layer(model)
    set_classification_loss(model, None)
    assert last_layer(model) is not layer


# What it starts from


@pytest.mark.parametrize("name", BUILDERS)
def test_an_untrained_bias_follows_the_prior_of_the_loss(name):
    model = set_classification_loss(BUILDERS[name](), SigmoidFocalLoss(COUNTS))
    layer = last_layer(model)
    weight = layer.weight.clone()
    set_classification_loss(model, SigmoidFocalLoss(COUNTS, prior=0.001))
    assert last_layer(model) is layer
    assert torch.equal(layer.weight, weight)
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, 0.001))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_trained_layer_is_kept(name):
    model = set_classification_loss(BUILDERS[name](), SigmoidFocalLoss(COUNTS))
    layer = last_layer(model)
    with torch.no_grad():
        layer.bias[1] += 1e-3
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    set_classification_loss(model, SigmoidFocalLoss(COUNTS, prior=0.001))
    assert last_layer(model) is layer
    assert all(torch.equal(state[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", ONE_STAGE)
def test_a_stock_layer_of_the_same_width_takes_the_start_of_the_loss(name):
    model = BUILDERS[name]()
    layer = last_layer(model)
    set_classification_loss(model, WideSigmoid(COUNTS, prior=0.2))
    assert last_layer(model) is layer
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, 0.2))
    set_classification_loss(model, None)
    assert last_layer(model) is layer
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, 0.01))


@pytest.mark.parametrize("loss", LOSSES)
def test_layers_stand_on_the_device_and_in_the_precision_of_the_model(loss):
    model = rcnn().double()
    set_classification_loss(model, build(loss))
    assert {p.dtype for p in last_layer(model).parameters()} == {torch.float64}


def test_each_anchor_starts_from_the_bias_of_each_class():
    model = BUILDERS["retinanet"]()
    loss = build("equalization_v2")
    assert len(loss.initial_bias().unique()) > 1
    set_classification_loss(model, SigmoidFocalLoss(COUNTS))
    set_classification_loss(model, loss)
    nn.init.zeros_(last_layer(model).weight)
    x = [torch.rand(1, 32, 2, 2)]
    logits = model.train().head(x)["cls_logits"]
    torch.testing.assert_close(logits, loss.initial_bias().expand_as(logits))
