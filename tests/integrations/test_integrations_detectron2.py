"""The recipe for detectron2 and other endless loops; detectron2 itself where it is installed."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
from recipes import LABELS, THRESHOLD, drawn, recipe

from detbalance.sampling import repeat_factors

FACTORS = repeat_factors(LABELS, threshold=THRESHOLD)
STREAM = [image for epoch in range(20) for image in drawn(epoch, FACTORS)]
CROWD = {"category_id": 1, "iscrowd": 1}
DICTS = [
    {"index": i, "annotations": [{"category_id": label - 1} for label in labels]}
    for i, labels in enumerate(LABELS)
]
DICTS[0]["annotations"].append(CROWD)


def endless_loader(dataset, *, mapper, sampler, total_batch_size):
    """Batches without end, each of upright or of wide images, as loops of iterations take them."""
    groups = {True: [], False: []}
    size = total_batch_size // sampler.world_size
    for index in sampler:
        image = mapper(dataset[index])
        group = groups[image["width"] > image["height"]]
        group.append(image)
        if len(group) == size:
            yield group[:]
            group.clear()


def of_detectron2(dataset, *, mapper, sampler, total_batch_size):
    data = pytest.importorskip("detectron2.data", reason="detectron2 has no wheels")
    return data.build_detection_train_loader(
        dataset, mapper=mapper, sampler=sampler, total_batch_size=total_batch_size
    )


def run(build, steps, *, first=0, rank=0, ranks=1, wide=()):
    """The images of some steps on one process, from a first one on."""

    def mapper(image):
        return {**image, "width": 2 if image["index"] in wide else 1, "height": 1}

    names = {"dicts": DICTS, "mapper": mapper, "batch_size": 2 * ranks, "first_iteration": first}
    names["comm"] = SimpleNamespace(get_rank=lambda: rank, get_world_size=lambda: ranks)
    names["build_detection_train_loader"] = build
    exec(recipe("detectron2", threshold=str(THRESHOLD)), names)
    return [[image["index"] for image in batch] for batch in islice(names["loader"], steps)]


@pytest.mark.parametrize("build", [endless_loader, of_detectron2])
def test_recipe_draws_the_stream_and_goes_on_at_any_iteration(build):
    steps = [STREAM[i : i + 2] for i in range(0, 60, 2)]
    assert run(build, 30) == steps
    assert Counter(drawn(0, FACTORS))[4] == FACTORS[4].round() >= 2
    for first in (1, 5, 6, 17):
        assert run(build, 30 - first, first=first) == steps[first:]


@pytest.mark.parametrize("build", [endless_loader, of_detectron2])
def test_recipe_groups_by_shape_and_loses_no_draw(build):
    seen = run(build, 25, wide={1, 4, 6})
    assert all(len({image in {1, 4, 6} for image in batch}) == 1 for batch in seen)
    counts = Counter(image for batch in seen for image in batch)
    assert (Counter(STREAM[:52]) - counts).total() <= 2
    assert counts <= Counter(STREAM[:52])


@pytest.mark.parametrize("first", [0, 7])
def test_recipe_shares_the_stream_between_processes(first):
    ranks = [run(endless_loader, 15, first=first, rank=rank, ranks=3) for rank in range(3)]
    union = [draw for step in zip(*ranks, strict=True) for draw in zip(*step, strict=True)]
    assert [image for draw in union for image in draw] == STREAM[first * 6 : first * 6 + 90]
