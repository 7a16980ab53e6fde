"""Losses: what the classes add to their kernels, and the promises that all of them keep."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import typing

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focal import focal_twin, run
from hypothesis import given
from hypothesis import strategies as st

from detbalance.losses import (
    LOSSES,
    ClassificationLoss,
    SigmoidFocalLoss,
    SoftmaxCrossEntropyLoss,
    class_weights,
)

COUNTS = [0, 500, 40, 3, 0]  # four classes, the last without boxes


# ---- what the classes add ------------------------------------------------------------------------


def test_focal_alpha_and_gamma_by_class_are_in_class_order():
    logits, labels = np.linspace(-2, 2, 16).reshape(4, 4), np.array([0, 3, 1, 4])
    alpha, gamma = [0.1, 0.5, 0.9, -1], [0.0, 1.0, 2.0, 3.5]
    loss = SigmoidFocalLoss(COUNTS, alpha=alpha, gamma=gamma)
    expected, slope = focal_twin(
        logits, labels, positive=[0.1, 0.5, 0.9, 1], negative=[0.9, 0.5, 0.1, 1], gamma=gamma
    )
    value, gradient = run(loss, logits, labels)
    assert value == pytest.approx(expected.sum() / 3, rel=1e-12)
    np.testing.assert_allclose(gradient, slope / 3, rtol=1e-11)


@pytest.mark.parametrize("method", ["inverse", "inverse_sqrt", "effective_number"])
def test_class_weights_multiply_the_rows_of_a_class(method):
    generator = np.random.default_rng(4)
    labels = np.array([0, 1, 2, 3, 4, -1, 0, 1])
    weights = class_weights(COUNTS, method)[np.maximum(labels, 0)]
    logits = generator.normal(size=(8, 4))
    value, gradient = run(SigmoidFocalLoss(COUNTS, class_weights=method), logits, labels)
    expected, slope = focal_twin(logits, labels)
    assert value == pytest.approx((expected.sum(1) * weights).sum() / 5, rel=1e-12)
    np.testing.assert_allclose(gradient, slope * weights[:, None] / 5, rtol=1e-11)

    logits = torch.tensor(generator.normal(size=(8, 5)))
    value, _ = run(SoftmaxCrossEntropyLoss(COUNTS, class_weights=method), logits, labels)
    rows = F.cross_entropy(logits, torch.tensor(labels), ignore_index=-1, reduction="none")
    assert value == pytest.approx((rows.numpy() * weights).sum() / 7, rel=1e-12)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 10**6))
def test_cross_entropy_without_weights_is_pytorchs_to_the_last_bit(rows, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes + 1, generator=generator) * 4
    labels = torch.randint(0, classes + 1, (rows,), generator=generator)
    stock, ours = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = F.cross_entropy(stock, labels)
    value = SoftmaxCrossEntropyLoss([1] * (classes + 1))(ours, labels)
    (expected * 0.5).backward()
    (value * 0.5).backward()
    assert torch.equal(value, expected)
    assert torch.equal(ours.grad, stock.grad)


def test_initial_bias_gives_the_prior():
    loss = SigmoidFocalLoss(COUNTS, prior=0.02)
    assert loss.scores(loss.initial_bias()[None])[0, 1:].numpy() == pytest.approx([0.02] * 4)
    assert SoftmaxCrossEntropyLoss(COUNTS).initial_bias().tolist() == [0] * 5


# ---- promises of all losses ----------------------------------------------------------------------


@pytest.fixture(params=LOSSES, ids=str)
def loss(request) -> ClassificationLoss:
    return LOSSES[request.param](COUNTS, class_weights="inverse_sqrt")


def rows_for(loss, rows=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, loss.num_outputs, generator=generator, dtype=dtype).requires_grad_()


def test_loss_says_what_its_head_must_have(loss):
    assert loss.activation in {"sigmoid", "softmax"}
    assert loss.num_classes == 5
    assert loss.num_outputs == {"sigmoid": 4, "softmax": 5}[loss.activation]
    assert loss.initial_bias().shape == (loss.num_outputs,)
    assert loss.initial_bias().dtype == torch.float32


def test_loss_adds_nothing_to_a_models_state(loss):
    assert loss.state_dict() == {}
    assert not list(loss.parameters())
    loss.load_state_dict({})


def test_loss_scores_are_probabilities_with_background_first(loss):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        scores = loss.scores(rows_for(loss, dtype=dtype))
        assert scores.shape == (6, 5)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert ((scores >= 0) & (scores <= 1)).all()
    if loss.activation == "softmax":
        torch.testing.assert_close(scores.sum(1), torch.ones(6, dtype=scores.dtype))
    else:
        assert (scores[:, 0] == 0).all()
    assert loss.scores(rows_for(loss, rows=0)).shape == (0, 5)


@pytest.mark.parametrize("labels", [[], [-1, -1], [0, 0]])
def test_loss_is_finite_and_has_a_gradient_without_positives(loss, labels):
    logits = rows_for(loss, rows=len(labels))
    value = loss(logits, torch.tensor(labels, dtype=torch.int64))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if not {0} & set(labels):
        assert value == 0
        assert (logits.grad == 0).all()


def test_loss_ignores_rows_labelled_minus_one(loss):
    labels = torch.tensor([0, 3, -1, 1, -1, 0])
    value, gradient = run(loss, rows_for(loss).detach(), labels)
    kept, kept_gradient = run(loss, rows_for(loss).detach()[labels >= 0], labels[labels >= 0])
    assert value == pytest.approx(kept, rel=1e-12)
    np.testing.assert_allclose(gradient[labels >= 0], kept_gradient, rtol=1e-12)
    assert (gradient[labels < 0] == 0).all()


def test_loss_divides_by_the_normalizer(loss):
    labels = torch.tensor([0, 3, -1, 1, 2, 0])
    total = loss(rows_for(loss), labels, normalizer=1.0)
    assert loss(rows_for(loss), labels, normalizer=8) == total / 8
    assert loss(rows_for(loss), labels, normalizer=torch.tensor(8.0)) == total / 8
    own = 3 if loss.activation == "sigmoid" else 5
    torch.testing.assert_close(loss(rows_for(loss), labels), total / own)


def test_loss_survives_casts_and_copies(loss):
    labels = torch.tensor([0, 3, -1, 1, 2, 0])
    expected = loss(rows_for(loss), labels)
    for other in (copy.deepcopy(loss).half(), pickle.loads(pickle.dumps(loss)), loss.eval()):
        assert other(rows_for(loss), labels) == expected


def test_loss_computes_in_float32_under_autocast(loss):
    logits = rows_for(loss, dtype=torch.bfloat16)
    labels = torch.tensor([0, 3, -1, 1, 2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert value == loss(logits.detach().float(), labels)
    assert logits.grad.dtype == torch.bfloat16


def test_loss_options_are_a_schema(loss):
    signature = inspect.signature(type(loss).__init__)
    hints = typing.get_type_hints(type(loss).__init__)
    options = list(signature.parameters.values())[2:]
    assert all(o.kind is inspect.Parameter.KEYWORD_ONLY for o in options)
    assert all(o.default is not inspect.Parameter.empty and o.name in hints for o in options)


def test_loss_refuses_what_does_not_fit(loss):
    logits, name = rows_for(loss).detach(), type(loss).__name__
    labels = torch.tensor([0, 3, -1, 1, 2, 0])
    with pytest.raises(
        ValueError, match=rf"{name}: logits have the shape \(6, 9\). Expected \[row"
    ):
        loss(torch.zeros(6, 9), labels)
    with pytest.raises(ValueError, match=r"labels have the shape \(5,\). Expected \[6\]"):
        loss(logits, labels[:5])
    with pytest.raises(TypeError, match=r"labels are torch.float32.*Call labels.long\(\)"):
        loss(logits, labels.float())
    for wrong in (5, -2):
        with pytest.raises(ValueError, match=rf"a label is {wrong}. Expected -1 \(ignored\), 0"):
            loss(logits, torch.tensor([0, 3, -1, 1, 2, wrong]))
    with pytest.raises(ValueError, match=r"class_counts: the shape is \(1,\)"):
        type(loss)([3])
    with pytest.raises(ValueError, match="method is 'median'"):
        type(loss)(COUNTS, class_weights="median")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha is 1\.5. Expected numbers in \[0, 1\], or -1"),
        ({"alpha": -0.5}, r"alpha is -0\.5"),
        ({"alpha": [0.5, 0.5]}, "alpha has 2 values. Expected one number, or 4 for the classes"),
        ({"alpha": [0.5, 0.5, 0.5, math.nan]}, "alpha is .*nan"),
        ({"gamma": -1.0}, r"gamma is -1\.0. Expected finite numbers >= 0"),
        ({"gamma": math.inf}, "gamma is inf"),
        ({"gamma": [2.0] * 5}, "gamma has 5 values.*Leave background out"),
        ({"prior": 0.0}, r"prior is 0\.0. Expected a number in \(0, 1\)"),
    ],
)
def test_focal_refuses_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SigmoidFocalLoss(COUNTS, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_losses_are_the_same_on_the_gpu():
    for make in LOSSES.values():
        loss = make(COUNTS, class_weights="inverse_sqrt")
        logits, labels = rows_for(loss, 50), torch.randint(-1, 5, (50,))
        value, gradient = run(loss, logits.detach(), labels, torch.float32)
        on_gpu = logits.detach().cuda().requires_grad_()
        result = loss(on_gpu, labels.cuda())
        result.backward()
        assert result.item() == pytest.approx(value, rel=2e-5)
        np.testing.assert_allclose(on_gpu.grad.cpu().numpy(), gradient, rtol=2e-5, atol=1e-7)
