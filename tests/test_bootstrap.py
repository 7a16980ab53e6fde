"""The bootstrap counts what evaluating the drawn images anew would give, and its intervals hold."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_scene

from detbalance.evaluation.average_precision import average_precision, recall
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.resampling import FIGURES, weighted_figures
from detbalance.evaluation.working_points import at_score


def matched(truth: dict, found: list) -> Matches:
    with tempfile.TemporaryDirectory() as folder:
        return match(*load(Path(folder), truth, found))


def without_ties(truth: dict, found: list, seed: int) -> tuple[dict, list]:
    """Distinct scores: copies of an image tie with each other, which then changes nothing."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(len(found)) / len(found)
    return truth, [{**one, "score": float(s)} for one, s in zip(found, scores, strict=True)]


def copied(truth: dict, found: list, counts: dict[int, int]) -> tuple[dict, list]:
    """The set that a draw stands for: every image as often as it was drawn, under new ids."""
    images, annotations, detections = [], [], []
    for image in truth["images"]:
        for copy in range(counts[image["id"]]):
            new = {"image_id": 1000 * image["id"] + copy}
            images.append({**image, "id": new["image_id"], "file_name": f"{new['image_id']}.png"})
            annotations += [
                {**box, **new} for box in truth["annotations"] if box["image_id"] == image["id"]
            ]
            detections += [{**box, **new} for box in found if box["image_id"] == image["id"]]
    annotations = [{**box, "id": number} for number, box in enumerate(annotations)]
    return {**truth, "images": images, "annotations": annotations}, detections


def figures_of(matches: Matches, floor: float) -> dict[str, np.ndarray]:
    ap, shown = average_precision(matches), at_score(matches, floor)
    return {
        "AP": ap.mean(axis=0),
        "AP50": ap[0],
        "AR": recall(matches).mean(axis=0),
        "recall": shown.recall,
        "precision": shown.precision,
    }


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_with_every_image_once_the_figures_are_those_of_the_set(seed: int) -> None:
    matches = matched(*make_scene(seed))
    once = np.ones((1, matches.annotations.num_images), dtype=np.int32)
    ours = weighted_figures(matches, once, score_floor=0.3)
    for name, expected in figures_of(matches, 0.3).items():
        np.testing.assert_allclose(ours[name][0], expected, atol=1e-12, rtol=0, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_draw_gives_what_a_set_of_copied_images_gives(seed: int) -> None:
    truth, found = without_ties(*make_scene(seed), seed)
    matches = matched(truth, found)
    num_images = matches.annotations.num_images
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(num_images, np.full(num_images, 1 / num_images), 3)
    ours = weighted_figures(matches, weights.astype(np.int32), score_floor=0.3)
    for b, row in enumerate(weights.tolist()):
        counts = dict(zip(matches.annotations.image_ids.tolist(), row, strict=True))
        expected = figures_of(matched(*copied(truth, found, counts)), 0.3)
        for name in FIGURES:
            np.testing.assert_allclose(
                ours[name][b], expected[name], atol=1e-12, rtol=0, err_msg=name
            )
