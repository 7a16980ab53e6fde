"""Federated loss: values on a given set, the draw of the set, the lists of LVIS."""

from __future__ import annotations

import inspect
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focal import focal_twin, run
from hypothesis import given
from hypothesis import strategies as st

from detbalance.losses import LOSSES, ClassCounts, FederatedLoss

RECORDED = ["fed_basic", "fed_extreme", "fed_allbg", "fed_oneclass", "fed_1203"]


def with_set(loss, judged):
    """The loss with a fixed set of classes, bool [K], in place of the draw."""
    mask = torch.tensor(np.r_[False, judged])
    loss.class_set = lambda labels: mask
    return loss


def labels_of(recorded, classes):
    """Ours, 0 = background, from detectron2's, `classes` = background."""
    return np.where(recorded == classes, 0, recorded + 1)


def drawn(loss, labels=()):
    """The set of one call, as labels."""
    return set(np.flatnonzero(loss.class_set(torch.tensor(labels, dtype=torch.int64)).numpy()))


# ---- values on a given set -----------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_federated_equals_the_recorded_values(shared, name):
    z = np.load(shared / f"golden/{name}.npz")
    classes = z["logits"].shape[1] - 1
    labels = labels_of(z["labels"], classes)
    # Their set holds the background index; ours are the classes in it.
    judged = np.isin(np.arange(classes), z["fed_classes"])
    loss = with_set(FederatedLoss([0, *z["image_counts"]]), judged)
    for dtype, suffix, rtol in ((torch.float64, "f64", 1e-10), (torch.float32, "f32", 2e-5)):
        value, gradient = run(loss, z["logits"][:, :classes], labels, dtype)
        expected = z[f"d2_sigmoid__grad_{suffix}"]
        assert value == pytest.approx(float(z[f"d2_sigmoid__loss_{suffix}"]), rel=rtol)
        atol = (1e-6 if suffix == "f32" else 1e-15) * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected[:, :classes], rtol=rtol, atol=atol)
        assert (expected[:, classes] == 0).all()


@st.composite
def problems(draw):
    rows, classes = draw(st.integers(0, 9)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    logits = generator.normal(0, draw(st.sampled_from([1.0, 5.0, 40.0])), (rows, classes))
    labels = generator.integers(-1, classes + 1, rows)
    judged = np.isin(np.arange(1, classes + 1), labels) | (generator.random(classes) < 0.4)
    return logits, labels, judged, generator


@given(problems(), st.booleans(), st.booleans())
def test_federated_equals_its_numpy_twin(problem, listed, weighted):
    logits, labels, judged, generator = problem
    rows, classes = logits.shape
    negative, weights, lists = judged.astype(float), None, {}
    if listed:
        notes = generator.integers(-1, 2, (3, classes + 1)).astype(np.int8)
        images = generator.integers(0, 3, rows)
        said = notes[images, 1:]
        negative = np.where(said == 1, 1.0, np.where(said == -1, 0.0, negative))
        lists = {"image_index": torch.tensor(images), "image_labels": torch.tensor(notes)}
    loss = FederatedLoss(
        [0, *range(1, classes + 1)], class_weights="inverse" if weighted else "none"
    )
    if weighted:
        weights = np.array([1, *(1 / np.arange(1, classes + 1))])
        weights[1:] *= classes / weights[1:].sum()
    expected, slope = focal_twin(
        logits, labels, positive=1.0, negative=negative, gamma=0.0, weights=weights
    )
    count = max(1, (labels >= 0).sum())
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        x = logits if dtype == torch.float64 else logits.astype(np.float32)
        value, gradient = run(with_set(loss, judged), x, labels, dtype, **lists)
        assert value == pytest.approx(expected.sum() / count, rel=rtol)
        atol = 1e-300 + (dtype == torch.float32) * 1e-6 * np.abs(slope).max(initial=0) / count
        np.testing.assert_allclose(gradient, slope / count, rtol=rtol, atol=atol)


@given(problems())
def test_federated_with_room_for_all_classes_is_binary_cross_entropy(problem):
    logits, labels, _, generator = problem
    classes = logits.shape[1]
    counts = [0, *generator.integers(1, 1000, classes)]
    x = torch.tensor(logits, requires_grad=True)
    kept = torch.tensor(labels) >= 0
    target = F.one_hot(torch.tensor(labels).clamp(min=0), classes + 1)[:, 1:].double()
    total = F.binary_cross_entropy_with_logits(x[kept], target[kept], reduction="sum")
    total = total / max(1, kept.sum())
    total.backward()
    for option in ({}, {"classes_per_batch": classes, "power": 1.0}):
        value, gradient = run(FederatedLoss(counts, **option), logits, labels)
        assert value == pytest.approx(total.item(), rel=1e-12)
        # PyTorch's gradient p - 1 cancels for sure positives.
        np.testing.assert_allclose(gradient, x.grad, rtol=1e-11, atol=1e-15)


def test_federated_does_not_care_about_the_order_of_classes():
    generator = np.random.default_rng(2)
    logits, labels = generator.normal(size=(8, 5)), np.array([0, 1, 2, 3, 3, -1, 0, 5])
    counts, judged = np.array([9, 30, 4, 8, 7]), np.array([1, 1, 1, 0, 1], bool)
    order = np.array([3, 0, 4, 2, 1])
    place = np.concatenate([[0], np.argsort(order) + 1])
    moved = np.where(labels < 0, -1, place[labels])
    weighted = {"class_weights": "inverse_sqrt"}
    value, gradient = run(with_set(FederatedLoss([0, *counts], **weighted), judged), logits, labels)
    other, permuted = run(
        with_set(FederatedLoss([0, *counts[order]], **weighted), judged[order]),
        logits[:, order],
        moved,
    )
    assert other == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(permuted, gradient[:, order], rtol=1e-12)


@pytest.mark.parametrize("labels", [[], [-1, -1], [0, 0], [1, 0], [1, 1]])
def test_federated_is_finite_whatever_the_rows(labels):
    for counts in ([0, 7], [0, 0], [0, 7, 0, 3]):
        logits = torch.randn(len(labels), len(counts) - 1, requires_grad=True)
        value = FederatedLoss(counts)(logits, torch.tensor(labels, dtype=torch.int64))
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()
        if not {0, 1} & set(labels):
            assert value == 0
            assert (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_federated_is_finite_for_extreme_logits(dtype):
    logits = torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, -1e4]]).repeat(5, 1)
    labels = np.repeat([-1, 0, 1, 2, 3], 2)
    value, gradient = run(FederatedLoss([0, 5, 5, 5]), logits, labels, dtype)
    twin, slope = focal_twin(logits.to(dtype).double(), labels, positive=1, negative=1, gamma=0)
    assert value == pytest.approx(twin.sum() / 8, rel=1e-5)
    np.testing.assert_allclose(gradient, slope / 8, atol=1e-7)


def test_classes_outside_the_set_are_not_pushed():
    loss = with_set(FederatedLoss([0, 5, 5, 5]), [True, False, True])
    logits = torch.randn(4, 3, requires_grad=True)
    loss(logits, torch.tensor([1, 3, 0, 0])).backward()
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, [0, 2]] != 0).all()
    positive, negative = loss.gauge.take()
    assert positive[2] == negative[2] == 0
    assert (positive[[1, 3]] > 0).all()
    assert (negative[[1, 3]] > 0).all()


# ---- the draw ------------------------------------------------------------------------------------


def frequencies(loss, labels, times, seed=0):
    """How often each class is in the set, float64 [K + 1]."""
    labels = torch.tensor(labels, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        total = torch.stack([loss.class_set(labels) for _ in range(times)])
    return total.double().mean(dim=0).numpy()


def assert_frequent(found, expected, times):
    """Shares of `times` draws agree with probabilities up to five standard errors."""
    error = 5 * np.sqrt(expected * (1 - expected) / times)
    assert (np.abs(found - expected) <= error + 1e-12).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("labels", [[0, -1], [3, 3, 0]])
def test_draw_is_in_proportion_to_a_power_of_the_images_and_without_replacement(power, labels):
    counts = np.array([900.0, 100, 4, 0, 16, 1])
    loss = FederatedLoss([0, *counts], classes_per_batch=2 + (3 in labels), power=power)
    weight = np.where(counts > 0, counts**power, 0)
    if 3 in labels:
        weight[2] = 0
    p = weight / weight.sum()
    expected = np.zeros(7)
    for first, second in itertools.permutations(range(6), 2):
        chance = p[first] * p[second] / (1 - p[first])
        expected[[first + 1, second + 1]] += chance
    expected[3] = 1 if 3 in labels else expected[3]
    times = 4000
    assert_frequent(frequencies(loss, labels, times), expected, times)


def test_draw_has_the_recorded_probabilities(shared):
    z = np.load(shared / "golden/fed_sampling.npz")
    labels = [int(label) for label in labels_of(z["labels"], 1203)]
    times = 8000
    for given_labels, key in (([], "prob_pow0.5_f64"), (labels, "prob_given_labels_f64")):
        present = set(given_labels) - {0}
        loss = FederatedLoss([0, *z["image_counts"]], classes_per_batch=1 + len(present))
        found = frequencies(loss, given_labels, times)[1:]
        assert (found[[label - 1 for label in present]] == 1).all()
        found[[label - 1 for label in present]] = 0
        assert (found[z["image_counts"] == 0] == 0).all()
        # In groups of equal probability mass, as so many draws say little on a single class.
        group = np.floor(np.cumsum(z[key]) * 20).clip(max=19).astype(int)
        assert_frequent(
            np.bincount(group, found, minlength=20), np.bincount(group, z[key], minlength=20), times
        )


def test_draw_is_the_recorded_one_for_the_same_seed(shared):
    z = np.load(shared / "golden/fed_sampling.npz")
    weights = torch.tensor([*z["weight_pow0.5_f32"], 0.0])
    weights[torch.tensor(z["labels"])] = 0
    labels = [int(label) for label in labels_of(z["labels"], 1203)]
    for seed, recorded in zip(z["draw_seeds"], z["drawn_classes"], strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            if torch.multinomial(weights, 47).tolist() != recorded[3:].tolist():
                pytest.skip("this PyTorch draws other numbers than the one that was recorded")
            expected = {int(c) + 1 for c in recorded if c < 1203}
            torch.manual_seed(int(seed))
            assert drawn(FederatedLoss([0, *z["image_counts"]], classes_per_batch=49), labels) == (
                expected
            )
            # Quirk 2: theirs has 49 classes of 50, because background takes a place.
            torch.manual_seed(int(seed))
            ours = drawn(FederatedLoss([0, *z["image_counts"]]), labels)
            assert len(ours) == 50
            assert expected < ours


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.integers(1, 15),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.data(),
)
def test_set_has_the_labels_and_as_many_others_as_there_are_places(counts, places, power, data):
    labels = data.draw(st.lists(st.integers(-1, len(counts)), max_size=8))
    judged = drawn(FederatedLoss([99, *counts], classes_per_batch=places, power=power), labels)
    present = {label for label in labels if label > 0}
    possible = present | {c + 1 for c, count in enumerate(counts) if count}
    assert present <= judged <= possible
    # Quirks 2 and 4: background takes no place, more labels than places all stay.
    assert len(judged) == max(len(present), min(places, len(possible)))


def test_classes_without_images_are_never_drawn():
    # Quirk 3: torch.multinomial gives such classes, labels twice, and background here.
    for power in (0.0, 0.5):
        loss = FederatedLoss([0, 5, 3, 0, 0, 0, 0, 0], classes_per_batch=5, power=power)
        assert all(drawn(loss, [1, 0]) == {1, 2} for _ in range(50))
        assert drawn(loss, [4, 0]) == {1, 2, 4}


def test_the_rarest_class_is_not_treated_as_one_without_images():
    # Quirk 6: one of the references leaves out what is below a threshold.
    assert drawn(FederatedLoss([0, 10**9, 1, 10**9], classes_per_batch=3, power=1.0)) == {1, 2, 3}


def test_images_are_what_counts_and_boxes_only_where_images_are_unknown():
    # Quirk 5: the frequency is of images.
    images = ClassCounts([0, 10**12, 1], [0, 50, 50], num_images=100)
    times = 1000
    found = frequencies(FederatedLoss(images, classes_per_batch=1), [], times)
    assert_frequent(found, np.array([0, 0.5, 0.5]), times)
    boxes = FederatedLoss([0, 900, 100], classes_per_batch=1)
    assert_frequent(frequencies(boxes, [], times), np.array([0, 0.75, 0.25]), times)


def test_draw_depends_on_the_default_generator_alone():
    loss = FederatedLoss([0, *range(1, 100)], classes_per_batch=10)

    def after(labels):
        torch.manual_seed(3)
        return drawn(loss, labels), torch.get_rng_state()

    with torch.random.fork_rng(devices=[]):
        first, state = after([0, 5])
        np.random.default_rng(0).random()
        assert after([0, 5])[0] == first
        assert loss.train(False) is loss
        assert after([0, 5])[0] == first
        # As many numbers are drawn whatever the labels are: the steps that follow do not change.
        assert torch.equal(after([])[1], state)
        assert drawn(loss, []) != drawn(loss, [])


def test_there_is_only_a_sigmoid_form():
    # Quirk 1: with a softmax the mask of the set weights only the targets, which are all in it.
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 4, 0, 1, 0])
    mask = torch.tensor([1.0, 1, 0, 0, 1])
    assert F.cross_entropy(logits, labels, weight=mask) == F.cross_entropy(logits, labels)
    named = {name: kind for name, kind in LOSSES.items() if "federated" in name}
    assert named == {"federated": FederatedLoss}
    assert FederatedLoss.activation == "sigmoid"
    assert FederatedLoss([0, 5, 5]).num_outputs == 2


# ---- the lists of LVIS ---------------------------------------------------------------------------


def judged_entries(labels, images, notes, judged):
    """Which entries of the logits get a gradient, bool [A, K]."""
    loss = with_set(FederatedLoss([0] + [5] * len(judged)), judged)
    _, gradient = run(
        loss,
        np.zeros((len(labels), len(judged))),
        labels,
        image_index=torch.tensor(images),
        image_labels=torch.tensor(notes, dtype=torch.int8),
    )
    return (gradient != 0).tolist()


def test_lists_of_an_image_go_before_the_set_in_its_rows_alone():
    notes = [[0, 0, 0, 1], [0, -1, 0, 0]]  # class 3 is absent in image 0, class 1 not all in 1
    found = judged_entries([0, 2, 0, 2], [0, 0, 1, 1], notes, [True, True, False])
    assert found[:2] == [[True, True, True], [True, True, True]]
    assert found[2:] == [[False, True, False], [False, True, False]]


def test_positives_count_whatever_the_lists_say():
    # A class may be listed and an object of it labelled, by annotation or by paste.
    notes = [[0, -1, 0, 0], [0, 1, 0, 0]]
    found = judged_entries([1, 0, 1, 0], [0, 0, 1, 1], notes, [True, False, False])
    assert [row[0] for row in found] == [True, False, True, True]


def test_lists_that_say_nothing_change_nothing():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, -1, 3, 0])
    loss = with_set(FederatedLoss([0, 5, 5, 5]), [True, True, True])
    value, gradient = run(loss, logits, labels)
    notes = torch.zeros(2, 4, dtype=torch.int8)
    notes[:, 0] = 1  # the column of background is not read
    images = torch.tensor([0, 0, 1, 1, 1, 0])
    other, same = run(loss, logits, labels, image_index=images, image_labels=notes)
    assert other == value
    assert (same == gradient).all()
    empty = {"image_index": images[:0], "image_labels": notes[:0]}
    assert loss(logits[:0], labels[:0], **empty) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_index": None}, "image_index is missing. Expected image_index and image_labels"),
        ({"image_labels": None}, "image_labels is missing"),
        ({"image_index": [0]}, r"image_index has the shape \(1,\). Expected \[2\], one per row"),
        ({"image_index": [0, 2]}, r"an image_index is 2. Expected 0\.\.1, a row of image_labels"),
        ({"image_index": [-1, 0]}, "an image_index is -1"),
        ({"image_labels": [[0, 0, 0]]}, r"image_labels have the shape \(1, 3\). Expected \[images"),
        ({"image_labels": [0, 0]}, r"image_labels have the shape \(2,\)"),
    ],
)
def test_lists_that_do_not_fit_are_refused(changes, message):
    lists = {"image_index": [0, 1], "image_labels": [[0, 0], [0, 0]]} | changes
    lists = {name: v and torch.tensor(v) for name, v in lists.items()}
    with pytest.raises(ValueError, match=f"FederatedLoss: {message}"):
        FederatedLoss([0, 5])(torch.zeros(2, 1), torch.tensor([0, 1]), **lists)


def test_recorded_hyper_parameters_are_the_defaults(shared):
    meta = json.loads(str(np.load(shared / "golden/fed_sampling.npz")["meta"]))
    options = inspect.signature(FederatedLoss).parameters
    defaults = {"num": options["classes_per_batch"].default, "power": options["power"].default}
    assert meta["hyper"] == defaults
