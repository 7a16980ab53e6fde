"""Losses: what the classes add to their kernels, and the promises that all of them keep."""

from __future__ import annotations

import copy
import inspect
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
    ClassCounts,
    ClassificationLoss,
    GroupSoftmaxLoss,
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

NAMED = ClassCounts(COUNTS, [0, 300, 30, 3, 0], 400, ["ant", "bee", "cat", "dog"])
LABELS = torch.tensor([0, 3, -1, 1, 2, 0])
STATEFUL = {"equalization_v2", "equalized_focal", "equalized_quality_focal", "ldam", "seesaw"}


@pytest.fixture(params=LOSSES, ids=str)
def name(request) -> str:
    return request.param


@pytest.fixture
def loss(name) -> ClassificationLoss:
    return LOSSES[name](NAMED, class_weights="inverse_sqrt")


def rows_for(loss, rows=6, dtype=torch.float32, *, spread=1.0):
    generator = torch.Generator().manual_seed(5)
    logits = spread * torch.randn(rows, loss.num_outputs, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_()


def inputs_for(loss, labels):
    """The extra inputs of the loss, as a head would give them."""
    generator = torch.Generator().manual_seed(6)
    lists = torch.randint(-1, 2, (2, loss.num_classes), generator=generator).to(torch.int8)
    inputs = {
        "quality": torch.linspace(0, 1, len(labels)).masked_fill(labels < 1, 0),
        "image_index": torch.arange(len(labels)) % 2,
        "image_labels": lists,
    }
    return {key: inputs[key] for key in loss.extra_inputs}


def value_of(loss, logits, labels, **options):
    """The loss of the next step, on a copy; those that draw at random draw the same each time."""
    torch.manual_seed(0)
    return copy.deepcopy(loss)(logits, labels, **inputs_for(loss, labels), **options)


def gradient_of(loss, logits, labels, **options):
    """Value and gradient of the next step."""
    logits = logits.detach().clone().requires_grad_()
    value = value_of(loss, logits, labels, **options)
    value.backward()
    return value.detach(), logits.grad


def class_columns(loss):
    """The columns of the classes 1..K."""
    if isinstance(loss, GroupSoftmaxLoss):
        return loss.columns[1:]
    return torch.arange(loss.num_outputs)[-(loss.num_classes - 1) :]


def buffers_of(loss):
    return {key: value.clone() for key, value in loss.named_buffers()}


def test_loss_says_what_its_head_must_have(name, loss):
    assert loss.activation in {"sigmoid", "softmax"}
    assert loss.normalized_by in {"foreground", "rows"}
    assert loss.last_layer in {"linear", "cosine"}
    assert loss.extra_inputs <= {"quality", "image_index", "image_labels"}
    assert loss.num_classes == 5
    further = {"equalization_v2": 1, "seesaw": 1, "group_softmax": 1 + 4}.get(name, 0)
    assert loss.num_outputs == {"sigmoid": 4, "softmax": 5}[loss.activation] + further
    assert loss.initial_bias().shape == (loss.num_outputs,)
    assert loss.initial_bias().dtype == torch.float32
    assert loss.initial_bias().isfinite().all()


def test_loss_takes_what_it_wants_as_keywords(loss):
    parameters = inspect.signature(type(loss).forward).parameters
    keywords = [o for o in parameters.values() if o.kind is inspect.Parameter.KEYWORD_ONLY]
    assert {o.name for o in keywords} == {"normalizer", *loss.extra_inputs}
    assert all(o.default is None for o in keywords)
    assert value_of(loss, rows_for(loss), LABELS).isfinite()
    # A detector without such inputs gives none.
    assert copy.deepcopy(loss)(rows_for(loss), LABELS).isfinite()


def test_loss_saves_its_name_and_its_statistics_only(name, loss):
    assert not list(loss.parameters())
    keys = set(loss.state_dict())
    assert "_extra_state" in keys
    assert (len(keys) > 1) == (name in STATEFUL)


def test_loss_state_continues_bit_for_bit(loss):
    for _ in range(2):
        loss(rows_for(loss), LABELS, **inputs_for(loss, LABELS))
    other = type(loss)(NAMED, class_weights="inverse_sqrt")
    other.load_state_dict(loss.state_dict())
    for key, value in loss.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(other.state_dict()[key], value)
    ours = gradient_of(loss, rows_for(loss), LABELS)
    theirs = gradient_of(other, rows_for(loss), LABELS)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_loss_refuses_the_state_of_another(name, loss):
    for other in LOSSES:
        if other != name:
            state = LOSSES[other](NAMED).state_dict()
            with pytest.raises(ValueError, match=rf"trained with {LOSSES[other].__name__}, this"):
                loss.load_state_dict(state, strict=False)


def test_loss_state_rests_outside_of_training(loss):
    for _ in range(2):
        loss(rows_for(loss), LABELS)
    before = buffers_of(loss)
    with torch.no_grad():
        loss(rows_for(loss), LABELS)
    loss(rows_for(loss).detach(), LABELS)
    loss.eval()(rows_for(loss), LABELS)
    loss.scores(rows_for(loss))
    for key, value in buffers_of(loss).items():
        assert torch.equal(value, before[key])


def test_loss_scores_are_probabilities_with_background_first(name, loss):
    for dtype in (torch.float16, torch.float32, torch.bfloat16, torch.float64):
        for spread in (1.0, 1e4):
            scores = loss.scores(rows_for(loss, dtype=dtype, spread=spread))
            assert scores.shape == (6, 5)
            assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert ((scores >= 0) & (scores <= 1)).all()
    # Bins of group softmax do not know of each other; the class columns of sigmoid never do.
    if loss.activation == "softmax" and name != "group_softmax":
        torch.testing.assert_close(scores.sum(1), torch.ones_like(scores[:, 0]))
    if loss.num_outputs == 4:
        assert (scores[:, 0] == 0).all()
    assert loss.scores(rows_for(loss, rows=0)).shape == (0, 5)


def test_loss_scores_rise_with_the_logit_of_the_class(loss):
    logits = rows_for(loss, spread=0.1).detach()
    for c, column in enumerate(class_columns(loss), start=1):
        raised = logits.clone()
        raised[:, column] += 0.1
        assert (loss.scores(raised)[:, c] > loss.scores(logits)[:, c]).all()


@pytest.mark.parametrize("labels", [[], [-1, -1], [0, 0], [4], [2, 2]], ids=str)
def test_loss_is_finite_and_has_a_gradient_whatever_the_labels(loss, labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    value, gradient = gradient_of(loss, rows_for(loss, rows=len(labels)), labels)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (value > 0) == bool((labels >= 0).any())
    if not (labels >= 0).any():
        assert (gradient == 0).all()


def test_loss_works_with_one_class(name):
    loss = LOSSES[name](ClassCounts([0, 7], [0, 5], 9))
    value, gradient = gradient_of(loss, rows_for(loss, 4), torch.tensor([1, 0, -1, 1]))
    assert value > 0
    assert gradient.isfinite().all()
    assert loss.scores(rows_for(loss)).shape == (6, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [50.0, 1e4])
def test_loss_is_finite_for_extreme_logits(loss, dtype, spread):
    logits = rows_for(loss, dtype=dtype, spread=1.0).detach().sign() * spread
    for _ in range(3):
        x = logits.clone().requires_grad_()
        value = loss(x, LABELS, **inputs_for(loss, LABELS))
        value.backward()
        assert value.isfinite()
        assert x.grad.isfinite().all()
    for buffer in loss.buffers():
        assert buffer.isfinite().all()


def test_loss_ignores_rows_labelled_minus_one(loss):
    logits = rows_for(loss, dtype=torch.float64).detach()
    labels = torch.tensor([0, 3, -1, 1, -1, 0])
    other = logits.clone()
    other[labels < 0] = 100 * torch.randn(2, loss.num_outputs, dtype=torch.float64)
    value, gradient = gradient_of(loss, logits, labels)
    again, same = gradient_of(loss, other, labels)
    assert value == again
    assert torch.equal(gradient, same)
    assert (gradient[labels < 0] == 0).all()
    if not loss.extra_inputs:  # those have one entry per row
        kept = labels >= 0
        alone, alone_gradient = gradient_of(loss, logits[kept], labels[kept])
        assert alone.item() == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(alone_gradient, gradient[kept], rtol=1e-11, atol=1e-15)


def test_loss_divides_by_the_normalizer(loss):
    logits = rows_for(loss, dtype=torch.float64)
    total, gradient = gradient_of(loss, logits, LABELS, normalizer=1.0)
    for normalizer in (8, 8.0, torch.tensor(8.0), torch.full((6,), 8.0)):
        value, slope = gradient_of(loss, logits, LABELS, normalizer=normalizer)
        torch.testing.assert_close(value, total / 8, rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, gradient / 8, rtol=1e-12, atol=1e-18)
    own = {"foreground": 3, "rows": 5}[loss.normalized_by]
    assert loss.counted_rows(LABELS) == loss.own_normalizer(LABELS) == own
    torch.testing.assert_close(value_of(loss, logits, LABELS), total / own)
    assert loss.own_normalizer(LABELS[:0]) == 1


def test_loss_divides_each_row_by_its_own_normalizer(loss):
    logits = rows_for(loss, dtype=torch.float64)
    normalizer = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    _, whole = gradient_of(loss, logits, LABELS, normalizer=1.0)
    _, divided = gradient_of(loss, logits, LABELS, normalizer=normalizer)
    torch.testing.assert_close(divided, whole / normalizer[:, None], rtol=1e-11, atol=1e-18)


def test_loss_permutes_with_the_classes(name, loss):
    images = np.array([0, 300, 30, 3, 0])
    order = torch.tensor([2, 4, 1, 3])
    counts = [
        ClassCounts(np.array(COUNTS)[i], images[i], 400) for i in ([0, 1, 2, 3, 4], [0, *order])
    ]
    plain, permuted = (LOSSES[name](c, class_weights="inverse_sqrt") for c in counts)
    labels = torch.tensor([0, 3, -1, 1, 2, 0, 4])
    new_label = torch.cat([torch.zeros(1, dtype=torch.int64), order.argsort() + 1])
    moved = torch.where(labels > 0, new_label[labels.clamp(min=0)], labels)
    logits = rows_for(plain, 7, torch.float64)
    columns, new_columns = class_columns(plain), class_columns(permuted)
    place = torch.arange(plain.num_outputs)
    place[new_columns] = columns[order - 1]
    torch.manual_seed(0)
    value, gradient = run(plain, logits, labels)
    torch.manual_seed(0)
    other, other_gradient = run(permuted, logits[:, place], moved)
    assert other == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(other_gradient, gradient[:, place], rtol=1e-11, atol=1e-18)


def test_loss_gradient_is_the_derivative(name, loss):
    if name == "seesaw":
        pytest.skip("its scores take no gradient; tests/test_seesaw.py holds them fixed")
    loss.eval()
    logits = rows_for(loss, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: value_of(loss, x, LABELS), logits)


def test_loss_survives_casts_and_copies(loss):
    expected = gradient_of(loss, rows_for(loss), LABELS)
    for other in (copy.deepcopy(loss).half(), pickle.loads(pickle.dumps(loss)), loss.to("cpu")):
        assert [b.dtype for b in other.buffers()] == [b.dtype for b in loss.buffers()]
        again = gradient_of(other, rows_for(loss), LABELS)
        assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_loss_computes_in_float32_under_autocast(loss):
    logits = rows_for(loss, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        value = value_of(loss, logits, LABELS)
    value.backward()
    assert value.dtype == torch.float32
    assert value == value_of(loss, logits.detach().float().requires_grad_(), LABELS)
    assert logits.grad.dtype == torch.bfloat16


def test_loss_options_are_a_schema(loss):
    signature = inspect.signature(type(loss).__init__)
    hints = typing.get_type_hints(type(loss).__init__)
    options = list(signature.parameters.values())[2:]
    assert all(o.kind is inspect.Parameter.KEYWORD_ONLY for o in options)
    assert all(o.default is not inspect.Parameter.empty and o.name in hints for o in options)


def test_loss_takes_class_weights_by_name(name):
    by_name = LOSSES[name](NAMED, class_weights={"cat": 3.0})
    plain = LOSSES[name](NAMED)
    logits = rows_for(plain, 2, torch.float64)
    for labels, factor in (([3, 3], 3.0), ([1, 4], 1.0), ([0, 0], 1.0)):
        labels = torch.tensor(labels)
        weighted, expected = (value_of(v, logits, labels) for v in (by_name, plain))
        assert weighted.item() == pytest.approx(factor * expected.item(), rel=1e-12)
    title = type(plain).__name__
    with pytest.raises(ValueError, match=rf'{title}: class_weights .*"kat".*Did you mean "cat"'):
        LOSSES[name](NAMED, class_weights={"kat": 2.0})


def test_loss_refuses_what_does_not_fit(name, loss):
    logits, title = rows_for(loss).detach(), type(loss).__name__
    with pytest.raises(
        ValueError, match=rf"{title}: logits have the shape \(6, 99\). Expected \[row"
    ):
        loss(torch.zeros(6, 99), LABELS)
    with pytest.raises(ValueError, match=r"labels have the shape \(5,\). Expected \[6\]"):
        loss(logits, LABELS[:5])
    with pytest.raises(TypeError, match=r"labels are torch.float32.*Call labels.long\(\)"):
        loss(logits, LABELS.float())
    for wrong in (5, -2):
        with pytest.raises(ValueError, match=rf"a label is {wrong}. Expected -1 \(ignored\), 0"):
            loss(logits, torch.tensor([0, 3, -1, 1, 2, wrong]))
    with pytest.raises(ValueError, match=r"class_counts: the shape is \(1,\)"):
        type(loss)([3])
    with pytest.raises(ValueError, match="method is 'median'"):
        type(loss)(NAMED, class_weights="median")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loss_is_the_same_on_the_gpu(loss):
    labels = torch.randint(-1, 5, (50,), generator=torch.Generator().manual_seed(0))
    inputs = inputs_for(loss, labels)
    logits = rows_for(loss, 50).detach()
    on_gpu = copy.deepcopy(loss).cuda()
    for _ in range(2):
        x, y = logits.clone().requires_grad_(), logits.cuda().requires_grad_()
        value = loss(x, labels, **inputs)
        other = on_gpu(y, labels.cuda(), **{k: v.cuda() for k, v in inputs.items()})
        value.backward()
        other.backward()
        torch.testing.assert_close(other.cpu(), value, rtol=2e-5, atol=0)
        torch.testing.assert_close(y.grad.cpu(), x.grad, rtol=2e-5, atol=1e-7)
    for key, buffer in loss.named_buffers():
        torch.testing.assert_close(
            dict(on_gpu.named_buffers())[key].cpu(), buffer, rtol=2e-5, atol=0
        )
