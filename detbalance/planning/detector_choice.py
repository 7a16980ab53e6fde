"""Input size and anchors of a detector, chosen from the boxes and images of a file.

Letters: N boxes, L levels, S sizes a level, R ratios.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from detbalance.data.arrays import Float64, Int64

if TYPE_CHECKING:
    from detbalance.data import Annotations

# An object smaller than the first is hardly found; one as large as the second is, even on a CPU's
# small images; the third is what a GPU can afford.
TINY, SMALL, SMALL_ON_GPU = 8.0, 16.0, 32.0
# Of all boxes; the median of each class is a quarter larger than `SMALL`, so that a rare class of
# small objects is not given up for the others.
MOST_SMALL, CLASS_MARGIN = 0.05, 1.25
SIZES = (128, 160, 192, 224, 256, 320, 384, 416, 448, 512, 576, 640, 768, 896, 1024, 1333)
# Pixels that a step is affordable with: about the square of 448, and of 1,000.
CPU_PIXELS, GPU_PIXELS = 200_000, 1_000_000
# Boxes that anchors are fitted to: more say the same.
_MOST_BOXES = 50_000
_MATCH_IOU = 0.5
_OCTAVE = 2 ** (1 / 3)
# What squares may fit less, for a third of the cost; what fitted anchors may miss more.
_SQUARES_LESS, _LESS_RECALL = 0.02, 0.005
# The first size of a level in its strides, and by how much the next one is larger.
_FIRST_STRIDES, _STEPS = (1.0, 1.4, 2.0, 2.8, 4.0), (_OCTAVE, 2**0.5)
DEFAULT_RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class InputSize:
    """How images are scaled: the shorter side to `min_size`, the longer never beyond `max_size`.

    Attributes:
        min_size: pixels.
        max_size: pixels.
        median: of sqrt(width x height) of the boxes after scaling, in pixels.
        small: share of the boxes below 16 pixels, 32 where a GPU is there.
        tiny: share of the boxes below 8 pixels.
        limit: what kept it from being larger: "boxes" (they are large enough), "images" (they hold
            no more), "cost".
        smallest_image: longer side of the smallest image, in pixels of the file.
        largest_image: that of the largest one.
    """

    min_size: int
    max_size: int
    median: float
    small: float
    tiny: float
    limit: str
    smallest_image: int
    largest_image: int


def scales(annotations: Annotations, min_size: int, max_size: int) -> Float64:
    """float64 [M], by how much torchvision's detectors scale each image."""
    short, long = annotations.sizes.min(axis=1), annotations.sizes.max(axis=1)
    scale = np.minimum(min_size / np.maximum(short, 1), max_size / np.maximum(long, 1))
    return np.asarray(scale, dtype=np.float64)


def choose_input_size(annotations: Annotations, *, has_gpu: bool = False) -> InputSize:
    """Choose the smallest size at which nearly all boxes are large enough to be found.

    Args:
        annotations: with boxes.
        has_gpu: whether larger images are affordable.

    Returns:
        The size: not larger than the images, unless their boxes are small.

    Raises:
        ValueError: if there is no box.
    """
    boxes = _Boxes.of(annotations)
    most_pixels, least = (GPU_PIXELS, SMALL_ON_GPU) if has_gpu else (CPU_PIXELS, SMALL)
    short, long = annotations.sizes.min(axis=1), annotations.sizes.max(axis=1)
    shape = float(np.median(short / np.maximum(long, 1)))
    native = float(np.median(long))
    tried: list[InputSize] = []
    for longest in sorted({*SIZES, min(_whole(native), SIZES[-1])}):
        smallest = _whole(longest * shape)
        scaled = boxes.side * scales(annotations, smallest, longest)[boxes.image]
        small, tiny = float((scaled < least).mean()), float((scaled < TINY).mean())
        size = InputSize(
            smallest,
            longest,
            float(np.median(scaled)),
            small,
            tiny,
            "boxes",
            int(long.min()),
            int(long.max()),
        )
        if tried and smallest * longest > most_pixels:
            return replace(tried[-1], limit="cost")
        if tried and longest > native * (2 if tried[-1].small > 2 * MOST_SMALL else 1):
            return replace(tried[-1], limit="images")
        medians = [np.median(scaled[boxes.label == label]) for label in np.unique(boxes.label)]
        if small <= MOST_SMALL and min(medians) >= CLASS_MARGIN * least:
            return size
        tried.append(size)
    return replace(tried[-1], limit="images")


def _whole(value: float) -> int:
    """The nearest multiple of 16, which feature maps divide."""
    return max(32, 16 * round(value / 16))


@dataclass(frozen=True, eq=False)
class _Boxes:
    """The boxes that count, or an even sample of very many: columns of one length."""

    bbox: Float64
    label: Int64
    image: Int64
    side: Float64

    @classmethod
    def of(cls, annotations: Annotations) -> _Boxes:
        rows = np.flatnonzero(~annotations.is_crowd)
        if not len(rows):
            raise ValueError(
                f"{annotations.source}: has no box to learn from. At least one annotation that is"
                " not crowd is expected. Check the file."
            )
        rows = rows[:: -(-len(rows) // _MOST_BOXES)]
        bbox = annotations.bbox[rows]
        side = np.sqrt(bbox[:, 2] * bbox[:, 3])
        return cls(bbox, annotations.labels[rows], annotations.image_index[rows], side)


@dataclass(frozen=True)
class Anchors:
    """Anchors of a RetinaNet, and how well they fit.

    Attributes:
        sizes: of each level, finest first, in pixels of the scaled image.
        ratios: height / width.
        strides: of the levels.
        recall: best-possible recall: share of the boxes that some anchor overlaps by .5 or more,
            where the feature maps put them.
        overlap: mean over the boxes of the highest overlap.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    strides: tuple[int, ...]
    recall: float
    overlap: float


def fit_anchors(
    annotations: Annotations,
    size: InputSize,
    *,
    strides: Sequence[int] = (8, 16, 32),
    most_extra_levels: int = 2,
) -> tuple[Anchors, Anchors]:
    """Fit anchors to the boxes, and judge them beside the usual ones.

    Tried are: three sizes a level, a third or half of an octave apart, from 1 to 4 strides on; as
    many levels as the largest boxes ask for; squares, the usual 1:2, 1:1, 2:1, and quantiles of the
    boxes' own ratios. The best has the highest recall and overlap together; squares are taken where
    they do nearly as well and miss nothing that the usual anchors find, as they cost a third.

    Args:
        annotations: with boxes.
        size: of the input.
        strides: of the backbone's feature maps.
        most_extra_levels: coarser maps that may be put on top.

    Returns:
        The fitted anchors, and torchvision's on three maps and two extra levels.
    """
    boxes = _scaled_boxes(annotations, size)
    largest = float(np.quantile(np.sqrt(boxes[:, 2] * boxes[:, 3]), 0.99))
    own = np.quantile(boxes[:, 3] / boxes[:, 2], [0.15, 0.5, 0.85])
    every: list[tuple[float, ...]] = [(1.0,), DEFAULT_RATIOS]
    if own[-1] > 1.5 * own[0]:
        every.append(tuple(sorted({float(f"{ratio:.2g}") for ratio in own})))
    found: list[Anchors] = []
    for first, step in itertools.product(_FIRST_STRIDES, _STEPS):
        extra = 0
        while extra < most_extra_levels and largest > 2 * first * strides[-1] * 2**extra:
            extra += 1
        levels = (*strides, *(strides[-1] * 2 ** (i + 1) for i in range(extra)))
        sizes = [[round(first * s * step**i, 1) for i in range(3)] for s in levels]
        found += [judge_anchors(boxes, sizes, ratios, levels) for ratios in every]
    usual = usual_anchors(boxes)
    # By recall first where that is below the usual anchors', which is no fit.
    enough = [one for one in found if one.recall >= usual.recall - _LESS_RECALL] or found
    best = max(enough, key=_fit)
    squares = max((one for one in enough if one.ratios == (1.0,)), key=_fit, default=best)
    return squares if _fit(squares) >= _fit(best) - _SQUARES_LESS else best, usual


def _fit(anchors: Anchors) -> float:
    return anchors.recall + anchors.overlap


def usual_anchors(boxes: Float64) -> Anchors:
    """Judge torchvision's anchors of a RetinaNet: 32 to 512 pixels on strides of 8 to 128."""
    levels = (8, 16, 32, 64, 128)
    sizes = tuple(tuple(4.0 * stride * _OCTAVE**i for i in range(3)) for stride in levels)
    return judge_anchors(boxes, sizes, DEFAULT_RATIOS, levels)


def judge_anchors(
    boxes: Float64,
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float],
    strides: Sequence[int],
) -> Anchors:
    """Say how well anchors fit boxes [N, 4], centre and size; each level has them every stride."""
    best = np.zeros(len(boxes))
    for stride, own in zip(strides, sizes, strict=True):
        apart = np.abs(boxes[:, :2] - stride * np.round(boxes[:, :2] / stride))
        for size in own:
            for ratio in ratios:
                anchor = np.array([size / math.sqrt(ratio), size * math.sqrt(ratio)])
                # Overlap along an axis of two intervals whose centres are so far apart.
                inner = np.minimum(
                    np.minimum(anchor, boxes[:, 2:]), (anchor + boxes[:, 2:]) / 2 - apart
                )
                shared = np.maximum(inner, 0).prod(axis=1)
                union = anchor.prod() + boxes[:, 2] * boxes[:, 3] - shared
                best = np.maximum(best, shared / union)
    return Anchors(
        tuple(tuple(own) for own in sizes),
        tuple(ratios),
        tuple(strides),
        float((best >= _MATCH_IOU).mean()),
        float(best.mean()),
    )


def _scaled_boxes(annotations: Annotations, size: InputSize) -> Float64:
    """float64 [N, 4], centre, width and height in pixels of the scaled image."""
    own = _Boxes.of(annotations)
    centre = own.bbox[:, :2] + own.bbox[:, 2:] / 2
    scale = scales(annotations, size.min_size, size.max_size)[own.image]
    return np.hstack([centre, own.bbox[:, 2:]]) * scale[:, None]
