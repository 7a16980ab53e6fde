"""What a detector's last layer sees of each region, and what each region shows."""

from __future__ import annotations

import pytest
import torch
from detectors import (
    BUILDERS,
    COUNTS,
    ONE_STAGE,
    K,
    batch,
    detections_of,
    last_layer,
    rcnn,
    with_crowd,
)
from torch import nn
from torchvision.ops import box_iou

from detbalance.detection.heads import set_classification_loss
from detbalance.losses import LOSSES
from detbalance.repair.classifier import classifier_of, output_classes
from detbalance.repair.second_classifier import advised

SIGMOID = ("focal", "equalization_v2")
CASES = [(name, None) for name in BUILDERS]
CASES += [(name, loss) for name in BUILDERS for loss in SIGMOID]
CASES += [("fasterrcnn", loss) for loss in ("cross_entropy", "seesaw", "group_softmax", "ldam")]


def adapted(name, loss=None):
    model = set_classification_loss(BUILDERS[name](), None)
    if loss is not None:
        set_classification_loss(model, LOSSES[loss](COUNTS))
        nn.init.normal_(last_layer(model).weight, std=0.2)
        if loss != "ldam":  # a cosine has no bias
            nn.init.zeros_(last_layer(model).bias)
    return model.eval()


def logits_of(features, slots, weight, bias):
    """A linear layer for each region, one at a time, in float64."""
    rows = zip(features.double(), slots, strict=True)
    return torch.stack([weight[s].double() @ x + bias[s].double() for x, s in rows])


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_the_weights_times_the_features_are_the_detectors_own_logits(name, loss):
    model = adapted(name, loss)
    classifier = classifier_of(model)
    images, targets = batch()
    seen = []
    layer = last_layer(model)
    hook = layer.register_forward_hook(lambda m, args, out: seen.append(out))
    regions = classifier.regions(images, targets)
    hook.remove()
    weight, bias = classifier.weights()
    for i, image in enumerate(regions):
        some = torch.randperm(len(image.labels))[:40]
        found = logits_of(image.features(some), image.slots[some], weight, bias)
        if loss != "ldam":  # whose layer is a cosine
            torch.testing.assert_close(found.float(), image.logits[some], rtol=1e-4, atol=1e-4)
        if name in ONE_STAGE:
            # Places of all levels, then the anchors of a place, as torchvision lines them up.
            own = torch.cat(
                [o[i].reshape(classifier.slots, -1, *o.shape[2:]).permute(2, 3, 0, 1).flatten(0, 2)
                 for o in seen]
            )  # fmt: skip
            torch.testing.assert_close(own, image.logits)


@pytest.mark.parametrize("name", ONE_STAGE)
def test_labels_are_those_that_a_one_stage_head_learns(name):
    model = adapted(name, "focal")
    images, targets = batch()
    targets[2] = with_crowd(targets[2], [10, 10, 60, 70])
    regions = classifier_of(model).regions(images, targets)
    seen = []
    loss = model.head.classification_head.classification_loss
    loss.register_forward_pre_hook(lambda m, args: seen.append(args[1]))
    model.train()(images, targets)
    assert torch.equal(torch.cat([image.labels for image in regions]), seen[0])
    assert (seen[0] > 0).any()
    assert (seen[0] == -1).any()


def test_labels_of_an_rcnn_follow_the_overlap_and_annotated_boxes_are_among_the_regions():
    model = adapted("fasterrcnn")
    images, targets = batch()
    targets[2] = with_crowd(targets[2], [0, 0, 60, 60])
    for image, target in zip(classifier_of(model).regions(images, targets), targets, strict=True):
        real = target["labels"] > 0
        boxes, labels = target["boxes"][real], target["labels"][real]
        overlap = box_iou(image.boxes, boxes) if len(boxes) else torch.zeros(len(image.boxes), 1)
        best = overlap.max(dim=1)
        found = image.labels > 0
        assert torch.equal(found, best.values >= 0.5)
        if len(boxes):
            assert torch.equal(image.labels[found], labels[best.indices[found]])
        exact = (image.boxes[:, None] - boxes[None]).abs().amax(dim=2) < 1e-3
        assert exact.any(dim=0).all()  # after scaling there and back


@pytest.mark.parametrize("name", BUILDERS)
def test_objects_are_rows_of_the_target_as_it_was_given(name):
    model = adapted(name)
    images, targets = batch()
    # A crowd region first: rows without it are others than rows with it.
    for target in targets:
        target["boxes"] = torch.cat([torch.tensor([[1.0, 1, 9, 9]]), target["boxes"]])
        target["labels"] = torch.cat([torch.tensor([-1]), target["labels"]])
    for image, target in zip(classifier_of(model).regions(images, targets), targets, strict=True):
        found = image.labels > 0
        assert torch.equal(target["labels"][image.objects[found]], image.labels[found])
        assert (image.objects[~found] == -1).all()
        # An object that shares its place with another may find no region.
        assert set(image.objects[found].tolist()) <= set(range(1, len(target["labels"])))
        assert found.any() == (len(target["labels"]) > 1)
        # A region is where its object is.
        centre = (image.boxes[:, :2] + image.boxes[:, 2:])[found] / 2
        box = target["boxes"][image.objects[found]]
        assert ((centre > box[:, :2] - 16) & (centre < box[:, 2:] + 16)).all()


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_out_and_back_changes_no_bit(name, loss):
    model = adapted(name, loss)
    images, targets = batch()
    before = detections_of(model, images)
    state = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    classifier = classifier_of(model)
    classifier.regions(images, targets)
    classifier.write(*classifier.weights())
    after = detections_of(model, images)
    assert any(len(found["scores"]) for found in before)
    for a, b in zip(before, after, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    for key, value in state.items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_written_is_what_the_detector_uses(name):
    model = adapted(name)
    classifier = classifier_of(model)
    weight, bias = classifier.weights()
    torch.manual_seed(1)
    new = torch.randn_like(weight), torch.randn_like(bias)
    classifier.write(*new)
    images, targets = batch()
    image = classifier.regions(images, targets)[0]
    some = torch.arange(30)
    found = logits_of(image.features(some), image.slots[some], *new)
    torch.testing.assert_close(found.float(), image.logits[some], rtol=1e-4, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(classifier.weights(), new, strict=True))


def test_background_of_an_rcnn_counts_as_often_as_training_samples_it():
    model = adapted("fasterrcnn")
    images, targets = batch()
    for image in classifier_of(model).regions(images, targets):
        found = int((image.labels > 0).sum())
        assert image.background == min(64 - found, int((image.labels == 0).sum()))
    for image in classifier_of(adapted("retinanet")).regions(images, targets):
        assert image.background == int((image.labels == 0).sum())


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_each_class_has_the_output_that_speaks_for_it(name, loss):
    classifier = classifier_of(adapted(name, loss))
    found = output_classes(classifier)
    outputs = classifier.weights()[1].shape[1]
    assert len(found) == outputs
    assert sorted(found[found > 0].tolist()) == list(range(1, K + 1))
    stock_or_softmax = outputs > K and loss not in ("group_softmax", "equalization_v2")
    if stock_or_softmax:
        assert found[:1].tolist() == [0] or found[-1] == 0


def test_a_stock_model_is_told_what_to_do():
    with pytest.raises(TypeError, match=r"Call set_classification_loss\(model, None\) on it first"):
        classifier_of(BUILDERS["retinanet"]())
    with pytest.raises(TypeError, match="of type Linear"):
        classifier_of(nn.Linear(2, 2))


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_advice_that_repeats_the_scores_changes_nothing(name, loss):
    model = adapted(name, loss)
    images, _ = batch()
    before = detections_of(model, images)
    with advised(classifier_of(model), lambda features, scores: scores):
        during = detections_of(model, images)
    after = detections_of(model, images)
    for a, b, c in zip(before, during, after, strict=True):
        assert all(torch.equal(a[key], c[key]) for key in a)
        # Scores pass through a logarithm and back: their last bit may differ.
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_advice_decides_on_the_scores_of_the_regions_asked_about(name, loss):
    model = adapted(name, loss)
    images, _ = batch()
    classifier = classifier_of(model)
    weight, bias = classifier.weights()
    asked = []

    def third_class(features, scores):
        asked.append((len(features), features.shape[1]))
        assert scores.shape == (len(features), K + 1)
        # The features are those that the scores come from.
        if weight.shape[0] == 1 and loss != "ldam":
            own = classifier.scores(features @ weight[0].T + bias[0])
            torch.testing.assert_close(own[:, 1:], scores[:, 1:], rtol=1e-3, atol=1e-4)
        new = torch.full_like(scores, 1e-6)
        new[:, 3] = 0.9
        return new

    with advised(classifier, third_class, candidates=7):
        detections_of(model, images)
    assert asked == [(7, weight.shape[2])] * 3
    with advised(classifier, third_class, candidates=10**6):
        found = detections_of(model, images)
    for image in found:
        assert set(image["labels"][image["scores"] > 0.01].tolist()) == {3}


def test_an_rcnn_with_masks_is_advised_too():
    model = set_classification_loss(rcnn(kind="mask"), None).eval()
    images, _ = batch()
    with advised(classifier_of(model), lambda features, scores: scores):
        assert all("masks" in found for found in detections_of(model, images))
