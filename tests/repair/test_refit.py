"""Refitting a linear classifier to region features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectors import BUILDERS, K
from every_loss import build
from region_samples import made_samples
from scipy.optimize import minimize
from torch import nn

from detbalance.cli.region_data import parse_params
from detbalance.detection.heads import set_classification_loss
from detbalance.losses import LOSSES
from detbalance.repair import refit as refitting
from detbalance.repair.classifier import classifier_of
from detbalance.repair.fitting import (
    Change,
    FitSettings,
    RegionLoss,
    class_weights,
    fit_change,
    mean_loss,
)
from detbalance.repair.refit import METHODS, RefitContext, fits_of, refit, tau_scale
from detbalance.repair.region_features import CHUNK, FrozenLogits, LazyColumn, image_folds, linear

QUICK = FitSettings(iterations=60, batch_size=128, learning_rate=3.0)


def sigmoid_objective(logits, labels, weights):
    """Plain logistic loss of each class's output."""
    targets = nn.functional.one_hot(labels, logits.shape[1] + 1)[:, 1:].float()
    rows = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (rows.sum(dim=1) * weights).sum()


def problem(counts=(300, 60, 20), width=5, seed=0):
    samples = made_samples(counts, width=width, outputs=len(counts) - 1, seed=seed)
    return samples, torch.zeros(1, len(counts) - 1)


@pytest.mark.parametrize("decay", [0.01, 1.0])
def test_the_change_is_the_minimum_that_a_float64_twin_finds(decay):
    samples, bias = problem()
    weights = class_weights(samples, 3, 1.0)
    settings = FitSettings(iterations=1500, batch_size=512)
    change = fit_change(samples, weights, bias, sigmoid_objective, decay=decay, settings=settings)
    x = samples.features.astype(np.float64)
    rms = np.sqrt((x**2).mean(axis=0))
    targets = np.stack([samples.labels == 1, samples.labels == 2], axis=1)
    total = weights[samples.labels > 0].sum()

    def twin(flat):
        w, b = flat[:10].reshape(2, 5), flat[10:]
        z = (x / rms) @ w.T + b
        rows = np.logaddexp(0, z) - targets * z
        return (rows.sum(axis=1) * weights).sum() / total + 0.5 * decay * (flat**2).sum()

    best = minimize(twin, np.zeros(12), method="L-BFGS-B", options={"maxiter": 5000})
    ours = np.concatenate([(change.weight.numpy() * rms).ravel(), change.bias.numpy()])
    assert twin(np.zeros(12)) > 1.3 * best.fun
    assert twin(ours) < best.fun * 1.01
    np.testing.assert_allclose(ours, best.x, atol=0.1 * abs(best.x).max())


def test_decay_pulls_to_no_change():
    samples, bias = problem()
    weights = class_weights(samples, 3, 1.0)
    sizes = [
        float(fit_change(samples, weights, bias, sigmoid_objective, decay=d, settings=QUICK)
              .weight.norm())
        for d in (0.01, 1.0, 10.0)
    ]  # fmt: skip
    assert sizes[0] > 1.5 * sizes[1] > 3 * sizes[2]


def test_scales_only_are_learned_where_asked():
    samples, bias = problem()
    samples = replace(samples, logits=samples.features[:, 1:3] - 1.0)
    bias = bias - 1.0
    weights = class_weights(samples, 3, 1.0)
    change = fit_change(
        samples, weights, bias, sigmoid_objective, decay=0.001, free="scale", settings=QUICK
    )
    assert not change.weight.any()
    assert not torch.allclose(change.scale, torch.ones(2), atol=0.05)
    before = mean_loss(samples, weights, bias, sigmoid_objective, None)
    after = mean_loss(samples, weights, bias, sigmoid_objective, change)
    assert after < 0.97 * before


def test_a_change_of_the_logits_is_the_change_of_the_classifier():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 4, 8, generator=generator), torch.randn(3, 4, generator=generator)
    samples = made_samples((40, 9, 5), slots=3)
    features, slots = torch.from_numpy(samples.features), torch.from_numpy(samples.slots)
    samples = replace(samples, logits=linear(features, slots, weight, bias).numpy())
    change = Change(
        torch.randn(4, 8, generator=generator),
        torch.randn(4, generator=generator),
        torch.rand(4, generator=generator) + 0.5,
    )
    new = change.apply(weight, bias)
    torch.testing.assert_close(
        change.logits(samples, bias), linear(features, slots, *new), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_class_weights_share_the_objects_weight_and_leave_background(balance):
    samples = made_samples((500, 90, 10, 0, 1))
    samples = replace(samples, weights=np.linspace(1, 3, len(samples)).astype(np.float32))
    found = class_weights(samples, 5, balance).astype(np.float64)
    sums = np.bincount(samples.labels, weights=found, minlength=5)
    own = np.bincount(samples.labels, weights=samples.weights, minlength=5)
    np.testing.assert_array_equal(found[samples.labels == 0], samples.weights[samples.labels == 0])
    assert sums[1:].sum() == pytest.approx(own[1:].sum(), rel=1e-5)
    present = [1, 2, 4]
    expected = own[present] ** (1 - balance)
    np.testing.assert_allclose(
        sums[present] / sums[present].sum(), expected / expected.sum(), rtol=1e-5
    )


def test_folds_keep_images_whole_and_share_rare_classes_out():
    samples = made_samples((200, 60, 6))
    fold = image_folds(samples, 3)
    for image in np.unique(samples.images):
        assert len(set(fold[samples.images == image])) == 1
    # Three images show the rare class; each fold has one.
    rare = samples.labels == 2
    assert set(fold[rare]) == {0, 1, 2}
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 2


def test_tau_is_the_references_up_to_a_factor(shared):
    golden = np.load(shared / "golden" / "tau_norm.npz")
    weight = torch.from_numpy(golden["weight"].astype(np.float64))
    for tau in (0.0, 0.3, 0.7, 1.0, 1.5):
        ours = weight * tau_scale(weight.norm(dim=1), tau)[:, None]
        reference = torch.from_numpy(golden[f"tau{tau}__weight_f64"])
        factor = (ours / reference).flatten()
        torch.testing.assert_close(factor, factor[:1].expand_as(factor), rtol=1e-9, atol=0)
    # Differs: a row of length 0 stays, where the reference has NaN.
    zero = torch.from_numpy(golden["zero__weight"].astype(np.float64))
    scaled = zero * tau_scale(zero.norm(dim=1), 1.0)[:, None]
    assert torch.isfinite(scaled).all()
    assert np.isnan(golden["zero__tau1_weight_f64"]).any()


def test_tau_by_a_plain_twin():
    lengths = torch.tensor([0.5, 2.0, 0.0, 8.0], dtype=torch.float64)
    assert torch.equal(tau_scale(lengths, 0.0), torch.ones(4, dtype=torch.float64))
    new = lengths * tau_scale(lengths, 1.0)
    torch.testing.assert_close(new, torch.tensor([2.0, 2.0, 0.0, 2.0], dtype=torch.float64))
    half = lengths * tau_scale(lengths, 0.5)
    torch.testing.assert_close(half[3] / half[0], torch.tensor(4.0, dtype=torch.float64))
    assert torch.equal(tau_scale(torch.zeros(2), 1.0), torch.ones(2))


OBJECTIVES = [("retinanet", None), ("fcos", None), ("fasterrcnn", None)]
OBJECTIVES += [("retinanet", name) for name, kind in LOSSES.items() if kind.activation == "sigmoid"]
OBJECTIVES += [("fasterrcnn", n) for n, kind in LOSSES.items() if kind.activation == "softmax"]


def detector(name, loss):
    model = set_classification_loss(BUILDERS[name](), None)
    if loss is not None:
        set_classification_loss(model, build(loss))
    return model.eval()


@pytest.mark.parametrize(("name", "loss"), OBJECTIVES)
def test_a_weight_of_two_is_the_region_twice(name, loss):
    classifier = classifier_of(detector(name, loss))
    objective = RegionLoss(classifier)
    outputs = classifier.weights()[1].shape[1]
    logits = torch.randn(30, outputs, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % (K + 1)
    weights = torch.ones(30)
    weights[7] = 2.0
    twice = torch.cat([torch.arange(30), torch.tensor([7])])
    a = objective(logits, labels, weights)
    b = objective(logits[twice], labels[twice], torch.ones(31))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert a > 0


def trained_task(name, loss=None, counts=(400, 60, 30, 12, 4), options=None, seed=0):
    """A detector whose classifier was never trained, and regions that it could be fitted to."""
    classifier = classifier_of(detector(name, loss))
    weight, bias = classifier.weights()
    weight = 0.05 * weight
    classifier.write(weight, bias)
    samples = made_samples(
        counts, width=weight.shape[2], slots=len(weight), spread=0.2, shift=4.0, seed=seed
    )
    samples = replace(
        samples,
        logits=linear(
            torch.from_numpy(samples.features), torch.from_numpy(samples.slots), weight, bias
        ).numpy(),
    )
    return RefitContext(classifier, samples, QUICK, options or {}, folds=2)


def recalls(classifier, samples, weight, bias):
    """The part of each class's regions whose best class is right and beats background's chance."""
    features, slots = torch.from_numpy(samples.features), torch.from_numpy(samples.slots)
    scores = classifier.scores(linear(features, slots, weight, bias))[:, 1:]
    right = scores.argmax(dim=1).numpy() + 1 == samples.labels
    return np.array([right[samples.labels == c].mean() for c in range(1, K + 1)])


@pytest.mark.parametrize("method", [*METHODS, "SMOTE", "RandomOverSampler"])
@pytest.mark.parametrize("name", ["retinanet", "fasterrcnn"])
def test_every_method_does_better_on_held_out_images_or_says_so(name, method):
    task = trained_task(name)
    found = refit(task, method)
    assert found.weight.shape == task.present[0].shape
    assert found.regions.tolist() == [400, 60, 30, 12, 4]
    best = min(found.held_out, key=found.held_out.get)
    assert (found.chosen or "as it was") == best
    if method != "tau":  # lengths of untrained weights say nothing
        assert found.held_out[best] < 0.97 * found.held_out["as it was"]
        fresh = trained_task(name, seed=1).samples
        before = recalls(task.classifier, fresh, *task.present)
        after = recalls(task.classifier, fresh, found.weight, found.bias)
        if method != "lws":  # which cannot turn untrained weights
            assert after.mean() > before.mean() + 0.2


def test_a_classifier_that_nothing_betters_stays_to_the_last_bit(monkeypatch):
    task = trained_task("retinanet")
    weight, bias = task.present
    worse = Change(weight[0] * 50.0, bias[0] * 0 + 9.0, torch.ones(weight.shape[1]))
    monkeypatch.setitem(METHODS, "worse", lambda task: iter([("very bad", lambda s: worse)]))
    found = refit(task, "worse")
    assert found.chosen is None
    assert torch.equal(found.weight, weight)
    assert torch.equal(found.bias, bias)
    assert found.held_out["very bad"] > found.held_out["as it was"]


def test_what_is_chosen_is_judged_on_images_that_the_fit_has_not_seen(monkeypatch):
    task = replace(trained_task("retinanet"), folds=3)
    seen, judged = [], []

    def spy(samples):
        seen.append(set(samples.images.tolist()))
        return Change(torch.zeros(K + 1, 288), torch.zeros(K + 1), torch.ones(K + 1))

    def judge(samples, weights, bias, objective, change):
        if change is not None:
            judged.append(set(samples.images.tolist()))
        return 1.0 if change is None else 0.5

    monkeypatch.setitem(METHODS, "spy", lambda task: iter([("spied", spy)]))
    monkeypatch.setattr(refitting, "mean_loss", judge)
    refit(task, "spy")
    everything = set(task.samples.images.tolist())
    assert set.union(*judged) == everything
    for fit, judge_of_it in zip(seen[:3], judged, strict=True):
        assert not fit & judge_of_it
        assert fit | judge_of_it == everything
    assert seen[3] == everything  # what is taken is fitted to all


def test_classes_with_few_regions_or_none_are_no_trouble():
    task = trained_task("fasterrcnn", counts=(300, 60, 0, 1, 2))
    found = refit(task, "crt")
    assert torch.isfinite(found.weight).all()
    assert found.regions.tolist() == [300, 60, 0, 1, 2]


def test_regions_without_objects_are_refused():
    task = trained_task("retinanet", counts=(50, 0, 0, 0, 0))
    with pytest.raises(ValueError, match="the region features show no object"):
        refit(task, "crt")


def test_an_unknown_method_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r'the method is "smote"\. Known: crt, .*SMOTE'):
        fits_of("smote")


def test_the_same_seed_gives_the_same_classifier():
    a, b = (refit(trained_task("retinanet"), "SMOTE") for _ in range(2))
    assert torch.equal(a.weight, b.weight)
    assert a.held_out == b.held_out


def test_progress_ends_at_the_last_fit():
    told = []
    refit(replace(trained_task("fasterrcnn"), progress=lambda d, n: told.append((d, n))), "lws")
    assert told[-1][0] == told[-1][1] == 11
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("method", ["crt", "lws", "tau"])
def test_a_refit_reads_features_a_few_at_a_time(method):
    asked = []

    def read(rows):
        asked.append(len(rows))
        return whole.features[rows]

    classifier = classifier_of(detector("fasterrcnn", None))
    weight, bias = (values.detach() for values in classifier.weights())
    whole = made_samples((9000, 5000, 3000, 0), width=weight.shape[2], outputs=weight.shape[1])
    features = LazyColumn(read, np.arange(len(whole)), weight.shape[2])
    logits = FrozenLogits(features, whole.slots, weight, bias)
    samples = replace(whole, features=features, logits=logits)
    task = RefitContext(classifier, samples, FitSettings(iterations=3), folds=2)
    found = refit(task, method)
    assert max(asked) <= CHUNK < len(samples) / 2
    assert sum(asked) >= len(samples)
    # And what comes of it is what comes of features in memory.
    there = replace(samples, features=whole.features, logits=samples.logits[:])
    same = refit(replace(task, samples=there), method)
    assert found.held_out == pytest.approx(same.held_out, rel=1e-4)
    torch.testing.assert_close(found.weight, same.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", "[1, NaN]", '{"a": 1e999}', "inf", "1" + "0" * 40]
)
def test_options_of_methods_are_finite_numbers(text):
    with pytest.raises(ValueError, match=r"--param: .* has a number that is not finite"):
        parse_params((f"balance={text}",))
    assert parse_params(("a=0.5", "b=[1, 2]", "c=text", "d=null")) == {
        "a": 0.5, "b": [1, 2], "c": "text", "d": None,
    }  # fmt: skip
