"""Labels that look wrong, and regions that look like no class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from region_samples import made_samples

from detbalance.repair import label_issues as module
from detbalance.repair.label_issues import JUDGES, find_label_issues
from detbalance.repair.novelty import novel_images
from detbalance.repair.region_features import image_folds


def rows_of(samples):
    return np.where(samples.labels > 0, np.arange(len(samples)), -1)


def wrongly_labelled(counts=(60, 80, 40, 20), shift=6.0, every=10):
    """Some of the boxes called by another class's name, and which."""
    samples = made_samples(counts, width=6, shift=shift)
    wrong = np.flatnonzero(samples.labels > 0)[::every]
    labels = samples.labels.copy()
    labels[wrong] = labels[wrong] % (len(counts) - 1) + 1
    return replace(samples, labels=labels), wrong, samples.labels


def scores_of(labels, classes):
    scores = np.full((len(labels), classes), 0.1, np.float32)
    scores[np.arange(len(labels)), labels] = 0.8
    scores[:, 0] = 0.0
    return scores


@pytest.mark.parametrize("judge", JUDGES)
def test_wrong_labels_come_first(judge):
    samples, wrong, true = wrongly_labelled()
    found = find_label_issues(samples, rows_of(samples), scores_of(true, 4), judge)
    assert sorted(found.rows.tolist()) == np.flatnonzero(samples.labels > 0).tolist()
    assert (np.diff(found.suspicion) <= 0).all()
    np.testing.assert_array_equal(found.labels, samples.labels[found.rows])
    first = found.rows[: len(wrong)]
    share = np.isin(first, wrong).mean()
    assert share >= 0.95
    right = np.isin(first, wrong)
    np.testing.assert_array_equal(found.likely[: len(wrong)][right], true[first][right])
    assert ((found.suspicion > 0) == (np.arange(len(found.rows)) < len(wrong))).mean() > 0.95


def test_a_rare_class_is_not_suspected_for_being_rare(monkeypatch):
    # Two overlapping clouds of right labels, one three times as large as the other.
    samples = made_samples((0, 300, 100), width=6, shift=2.5)
    scores = np.zeros((len(samples), 3), np.float32)
    shares = []
    for prior in (0.0, module._PRIOR, 1.0):
        monkeypatch.setattr(module, "_PRIOR", prior)
        found = find_label_issues(samples, rows_of(samples), scores, "classifier")
        shares.append((found.labels[:100] == 2).mean())
    assert shares[0] > shares[1] + 0.1
    assert shares[1] > shares[2]


def test_the_regions_of_a_box_are_judged_together():
    samples, wrong, true = wrongly_labelled()
    # Each box twice: its own region, and one of the same image that says little.
    twice = samples.join(replace(samples, features=0.1 * samples.features))
    rows = np.concatenate([rows_of(samples)] * 2)
    scores = np.concatenate([scores_of(true, 4), np.full((len(samples), 4), 0.05, np.float32)])
    found = find_label_issues(twice, rows, scores)
    assert len(found.rows) == len(np.unique(rows)) - 1
    assert np.isin(found.rows[: len(wrong)], wrong).mean() > 0.9


def test_looks_at_augmented_images_are_not_judged():
    samples, _, true = wrongly_labelled()
    rows = rows_of(samples)
    rows[100:130] = -1
    found = find_label_issues(samples, rows, scores_of(true, 4))
    assert sorted(found.rows.tolist()) == sorted(rows[rows >= 0].tolist())


def test_no_label_is_judged_by_what_saw_its_image(monkeypatch):
    samples, _, true = wrongly_labelled()
    samples.features[:, 0] = samples.images
    fold = image_folds(samples, 3, 0)
    seen, real = [], module.fit_to

    def fit_to(estimator, part, inside, method):
        seen.append(set(part.images[inside].tolist()))
        return real(estimator, part, inside, method)

    monkeypatch.setattr(module, "fit_to", fit_to)
    find_label_issues(samples, rows_of(samples), scores_of(true, 4), "classifier")
    assert len(seen) == 3
    for number, images in enumerate(seen):
        assert images
        assert not images & set(samples.images[fold == number].tolist())


@pytest.mark.parametrize("boxes", [0, 1, 2])
@pytest.mark.parametrize("judge", JUDGES)
def test_classes_with_few_boxes_are_named_and_not_judged(judge, boxes):
    samples = made_samples((20, 30, boxes, 30), width=6, shift=6.0)
    found = find_label_issues(samples, rows_of(samples), scores_of(samples.labels, 4), judge)
    assert found.few == [2]
    assert set(found.labels.tolist()) == {1, 3}
    assert 2 not in found.likely
    assert np.isfinite(found.suspicion).all()


def test_one_class_alone_cannot_be_judged():
    samples = made_samples((20, 30, 2), width=6)
    with pytest.raises(ValueError, match="1 classes have at least 3 boxes"):
        find_label_issues(samples, rows_of(samples), scores_of(samples.labels, 3))
    with pytest.raises(ValueError, match="Known: combined, classifier"):
        find_label_issues(samples, rows_of(samples), scores_of(samples.labels, 3), "nobody")


def test_boxes_whose_features_are_not_finite_are_left_out():
    samples, _, true = wrongly_labelled()
    samples.features[[70, 90]] = np.nan
    found = find_label_issues(samples, rows_of(samples), scores_of(true, 4))
    assert not {70, 90} & set(found.rows.tolist())
    assert np.isfinite(found.suspicion).all()


def test_images_with_something_unknown_come_first():
    """Objects of a class that is in no annotation: background by its label, not by its look."""
    samples = made_samples((200, 60, 60, 10), width=8, shift=6.0)
    unknown = samples.labels == 3
    labels = np.where(unknown, 0, samples.labels)
    scores = scores_of(np.where(unknown, 1, samples.labels), 4)
    scores[labels == 0] *= np.where(unknown[labels == 0], 1.0, 0.1)[:, None]
    blind = replace(samples, labels=labels)
    boxes = np.arange(4 * len(samples), dtype=np.float32).reshape(-1, 4) * 5  # apart
    found = novel_images(blind, rows_of(blind), scores, boxes)
    wanted = np.unique(samples.images[unknown])
    assert set(found.images[: len(wanted)].tolist()) == set(wanted.tolist())
    assert (np.diff(found.ood_score) <= 0).all()
    assert (found.rows[: len(wanted)] == -1).all()
    # An image of the list shows a region with a high score, and is there once.
    assert len(np.unique(found.images)) == len(found.images)
    shown = np.unique(samples.images[scores.max(axis=1) >= 0.3])
    assert sorted(found.images.tolist()) == shown.tolist()
    place = (found.boxes[:, 0] // 20).astype(int)  # the region that the box is of
    np.testing.assert_array_equal(samples.images[place], found.images)
    assert unknown[place[: len(wanted)]].all()


def test_usual_boxes_have_a_strangeness_of_about_one():
    samples = made_samples((10, 400, 400), width=8, shift=4.0)
    boxes = np.zeros((len(samples), 4), np.float32)
    found = novel_images(samples, rows_of(samples), scores_of(samples.labels, 3), boxes)
    # The strangest of two regions of each image.
    assert 1.0 < np.median(found.ood_score) < 1.6


def test_without_objects_nothing_is_strange():
    samples = made_samples((50, 0, 0), width=6)
    boxes = np.zeros((50, 4), np.float32)
    found = novel_images(samples, rows_of(samples), np.full((50, 3), 0.9, np.float32), boxes)
    assert len(found.images) == 0


def test_images_are_ranked_although_some_features_are_not_finite():
    samples = made_samples((10, 60, 60), width=8, shift=4.0)
    boxes = np.arange(4 * len(samples), dtype=np.float32).reshape(-1, 4) * 5
    broken = np.flatnonzero(samples.labels > 0)[[3, 40]]
    samples.features[broken] = np.nan
    found = novel_images(samples, rows_of(samples), scores_of(samples.labels, 3), boxes)
    assert np.isfinite(found.ood_score).all()
    assert not set(found.rows.tolist()) & set(rows_of(samples)[broken].tolist())
    assert len(found.images) > 10


def test_the_same_object_is_looked_at_once_where_it_is_seen_best():
    samples = made_samples((10, 60, 60), width=8, shift=4.0)
    scores = scores_of(samples.labels, 3)
    boxes = np.tile(np.array([10, 10, 30, 30], np.float32), (len(samples), 1))
    odd = int(np.flatnonzero(samples.labels == 1)[0])
    samples.features[odd] += 50.0
    scores[odd, 1] = 0.7  # the other region of its image has the higher score
    found = novel_images(samples, rows_of(samples), scores, boxes)
    assert found.ood_score.max() < 5
    boxes[odd] += 100
    found = novel_images(samples, rows_of(samples), scores, boxes)
    assert found.images[0] == samples.images[odd]
    assert found.ood_score[0] > 20
