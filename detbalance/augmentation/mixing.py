"""Several images in one: mosaic and mixup, with partners that follow the balanced sampler.

Letters: H, W height and width, M images, N boxes, C classes including background.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from detbalance.augmentation.contract import (
    Image,
    Target,
    append_rows,
    check_range,
    check_scale,
    take_rows,
)
from detbalance.augmentation.partners import Load, Partners, drawn_index
from detbalance.augmentation.tiles import (
    areas_of,
    as_type,
    fill_color,
    is_bilevel,
    lay,
    on_canvas,
    paint_over,
    resized,
    scaled,
    visible_parts,
    window_origin,
)
from detbalance.images import import_cv2

_MEETING = (0.35, 0.65)  # where the four images of a mosaic meet, as a fraction of each side


class Mosaic:
    """Puts four images into one: the one that was drawn and three partners.

    They meet at a random point near the middle, each in a random corner, and each shows a window
    that holds one of its boxes whole where it fits. Boxes are cut to the window, areas in
    proportion. A window that leaves a box less than `min_visibility` is drawn again; if that does
    not help, what is left of the box is painted over, except where another box lies. What remains
    of a crowd region always stays. The size of the image stays.

    Of the lists of an image, `negative_labels` become the classes that are absent from all four,
    `not_exhaustive_labels` those of any. An image without lists counts as having empty ones.

    Where all four images are bi-level, the mosaic is too. Partners that cannot be read are named
    once in the log, and others are drawn. Can be pickled if `load` can.

    Args:
        load: gives the image and target of a row, such as `DetectionDataset.load`.
        factors: float64 [M], >= 0, the expected draws of each image in an epoch. Partners are drawn
            with these as weights, so that they show the classes as the sampler does.
        exposure: [C], how many boxes of each class the sampler shows. A window is placed around one
            box of its image, drawn by the inverse of its class's number; None for all alike.
        probability: of a mosaic, 0..1.
        scale: smallest and largest factor on the size of objects, > 0, drawn evenly on a log scale;
            1 shows an image as large as it would be alone.
        min_visibility: fraction in 0..1 of a box's area that must be in the window.
        tries: number of windows that are tried, >= 1.

    Raises:
        ValueError: if a value is out of its range.
        ImportError: if OpenCV is missing.

    Source: Bochkovskiy et al., YOLOv4, 2020, arXiv:2004.10934, sec. 3.3.
    Differs: partners are drawn by the sampler's factors in place of evenly, windows are placed
    around objects, and nothing that is visible loses its label.
    """

    def __init__(
        self,
        load: Load,
        factors: npt.ArrayLike,
        *,
        exposure: npt.ArrayLike | None = None,
        probability: float = 0.5,
        scale: tuple[float, float] = (0.5, 1.0),
        min_visibility: float = 0.3,
        tries: int = 10,
    ) -> None:
        check_range("Mosaic", "probability", probability, 0, 1)
        check_range("Mosaic", "min_visibility", min_visibility, 0, 1)
        check_range("Mosaic", "tries", tries, 1, 1000)
        import_cv2()  # fail here, not in a worker
        self.probability = probability
        self.scale = check_scale("Mosaic", scale)
        self.min_visibility = min_visibility
        self.tries = tries
        self._partners = Partners("Mosaic", load, factors)
        self._exposure = None if exposure is None else np.asarray(exposure, np.float64)

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        height, width = image.shape[:2]
        if generator.random() >= self.probability or min(height, width) < 2:
            return image, target
        sources = [(image, target)]
        while len(sources) < 4:
            partner = self._partners.draw(generator)
            if partner is None:
                return image, target
            sources.append((as_type(partner[0], image.dtype), partner[1]))
        bilevel = all(is_bilevel(picture) for picture, _ in sources)
        color = fill_color(image, bilevel=bilevel)
        canvas = np.empty_like(image)
        canvas[...] = color
        x, y = (
            int(np.clip(round(side * generator.uniform(*_MEETING)), 1, side - 1))
            for side in (width, height)
        )
        places = [
            (rows, columns)
            for rows in (slice(0, y), slice(y, height))
            for columns in (slice(0, x), slice(x, width))
        ]
        corners = generator.permutation(4)
        parts = [
            self._fill(canvas, places[corner], *source, color, bilevel, generator)
            for corner, source in zip(corners, sources, strict=True)
        ]
        return canvas, _united(parts, [part for _, part in sources])

    def boxes_shown(self, counts: npt.ArrayLike) -> NDArray[np.float64]:
        """Estimate how often a draw shows a box, relative to a draw without mosaics.

        Partners included, which follow the same distribution; the windows cut some boxes off.

        Args:
            counts: [M], boxes of each image.

        Returns:
            float64 [M], for the boxes of each image.
        """
        meeting = _middles(*_MEETING)[:, None]
        factors = np.exp(_middles(*np.log(self.scale)))[None]
        share = float((np.minimum(1, meeting / factors).mean(axis=0) ** 2).mean())
        # One box is always in the window, the others as far as it reaches.
        shown = share + (1 - share) / np.maximum(np.asarray(counts, np.float64), 1)
        return np.asarray(1 - self.probability + 4 * self.probability * shown)

    def _fill(
        self,
        canvas: Image,
        place: tuple[slice, slice],
        picture: Image,
        target: Target,
        color: NDArray[np.generic],
        bilevel: bool,
        generator: np.random.Generator,
    ) -> Target:
        """Show a window of an image at its place on the canvas; return its target there."""
        size = canvas.shape[0], canvas.shape[1]
        tile = (place[0].stop - place[0].start, place[1].stop - place[1].start)
        window = self._window(picture.shape, target, size, tile, generator)
        kept = window.kept
        picture, part = resized(picture, take_rows(target, kept), window.size, nearest=bilevel)
        lay(canvas[place], picture, window.origin, tile)
        paint_over(canvas[place], window.boxes[window.left], window.boxes[kept], color)
        fractions = window.fractions[kept]
        return on_canvas(part, window.boxes[kept], fractions, window.origin, place, size)

    def _window(
        self,
        shape: tuple[int, ...],
        target: Target,
        size: tuple[int, int],
        tile: tuple[int, int],
        generator: np.random.Generator,
    ) -> _Window:
        """Draw windows of an image until none cuts too much of a box; else the one with least."""
        focus = self._focus(target, generator)
        best: _Window | None = None
        least = float("inf")
        for _ in range(self.tries):
            factor = float(np.exp(generator.uniform(*np.log(self.scale))))
            if focus is not None:
                sides = target["boxes"][focus, 2:] - target["boxes"][focus, :2]
                fitted = np.array(_fitted(shape, size, 1.0)) / shape[:2] * sides[::-1]
                fits = float((np.array(tile) / np.maximum(fitted, 1e-9)).min())
                factor = max(self.scale[0], min(factor, fits))
            resized_to = _fitted(shape, size, factor)
            boxes = scaled(target["boxes"], shape, resized_to)
            box = None if focus is None else boxes[focus]
            origin = window_origin(resized_to, tile, box, generator)
            cut, fractions = visible_parts(boxes, origin, tile)
            kept = (fractions > 0) & ((fractions >= self.min_visibility) | target["is_crowd"])
            left = (fractions > 0) & ~kept
            hidden = float(areas_of(cut[left]).sum())
            if hidden < least:
                best, least = _Window(resized_to, origin, cut, fractions, kept, left), hidden
            if not hidden:
                break
        assert best is not None
        return best

    def _focus(self, target: Target, generator: np.random.Generator) -> int | None:
        """Draw the box that a window is placed around; None in images without any."""
        rows = np.flatnonzero(~target["is_crowd"])
        if not len(rows):
            return None
        weights = np.ones(len(rows))
        if self._exposure is not None:
            weights = 1 / np.maximum(self._exposure[target["labels"][rows]], 1e-9)
        return int(rows[drawn_index(np.cumsum(weights), generator)])


class _Window(NamedTuple):
    """Part of an image that a mosaic shows.

    `size` (height, width) that the image is resized to, `origin` (y, x) of the window in it,
    `boxes` [N, 4] within the window, the visible `fractions` [N] of them, which are `kept` and of
    which something is `left` that has to be painted over, bool [N].
    """

    size: tuple[int, int]
    origin: tuple[int, int]
    boxes: NDArray[np.float32]
    fractions: NDArray[np.float64]
    kept: NDArray[np.bool_]
    left: NDArray[np.bool_]


class Mixup:
    """Shows a second image through the first one; the boxes of both stay.

    The partner is resized to fit into the image and laid at a random place. There each pixel is
    `m * own + (1 - m) * partner's`; around it the image stays as it is. Lists of the image are
    united as in `Mosaic`. Bi-level images would become grey: they are returned unchanged.

    Partners that cannot be read are named once in the log, and others are drawn. Can be pickled if
    `load` can.

    Args:
        load: gives the image and target of a row, such as `DetectionDataset.load`.
        factors: float64 [M], >= 0, the expected draws of each image in an epoch, by which partners
            are drawn.
        probability: of mixing, 0..1.
        alpha: > 0, of the distribution Beta(alpha, alpha) of m; 8 keeps it mostly in 0.3..0.7, so
            that objects of both images can be seen.

    Raises:
        ValueError: if a value is out of its range.
        ImportError: if OpenCV is missing.

    Source: Zhang et al., mixup, 2018, arXiv:1710.09412; Ge et al., YOLOX, 2021, arXiv:2107.08430,
    sec. 2.1 (for detection).
    Differs: partners are drawn by the sampler's factors; boxes are not weighted by m.
    """

    def __init__(
        self,
        load: Load,
        factors: npt.ArrayLike,
        *,
        probability: float = 0.1,
        alpha: float = 8.0,
    ) -> None:
        check_range("Mixup", "probability", probability, 0, 1)
        check_range("Mixup", "alpha", alpha, 0.01, 1e6)
        import_cv2()  # fail here, not in a worker
        self.probability = probability
        self.alpha = alpha
        self._partners = Partners("Mixup", load, factors)

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        if generator.random() >= self.probability or is_bilevel(image):
            return image, target
        partner = self._partners.draw(generator)
        if partner is None:
            return image, target
        size = image.shape[0], image.shape[1]
        other = as_type(partner[0], image.dtype)
        other, added = resized(other, partner[1], _fitted(other.shape, size, 1.0), nearest=False)
        tall, wide = other.shape[:2]
        y, x = (
            int(generator.integers(length - part + 1))
            for length, part in zip(size, (tall, wide), strict=True)
        )
        share = float(generator.beta(self.alpha, self.alpha))
        canvas = image.copy()
        place = slice(y, y + tall), slice(x, x + wide)
        canvas[place] = import_cv2().addWeighted(canvas[place], share, other, 1 - share, 0)
        whole = np.ones(len(added["boxes"]))
        moved = on_canvas(added, added["boxes"], whole, (0, 0), place, size)
        return canvas, _united([target, moved], [target, partner[1]])

    def boxes_shown(self, counts: npt.ArrayLike) -> NDArray[np.float64]:
        """Tell how often a draw shows a box, relative to a draw without mixup.

        Args:
            counts: [M], boxes of each image.

        Returns:
            float64 [M], for the boxes of each image.
        """
        return np.full(np.shape(counts), 1 + self.probability)


def _fitted(shape: tuple[int, ...], size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Height and width of an image that is fitted into a size, times a factor."""
    ratio = factor * min(size[0] / shape[0], size[1] / shape[1])
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))


def _united(parts: list[Target], sources: list[Target]) -> Target:
    """Join the targets of the parts of an image, the first one's arrays leading."""
    target = parts[0]
    for part in parts[1:]:
        target = append_rows(target, part, len(part["boxes"]))
    nothing = np.zeros(0, np.int64)
    for name in ("negative_labels", "not_exhaustive_labels"):
        lists = [source.get(name, nothing) for source in sources]
        if not any(name in source for source in sources):
            continue
        if name == "not_exhaustive_labels":
            target[name] = np.unique(np.concatenate(lists))
            continue
        absent = lists[0]
        for further in lists[1:]:
            absent = np.intersect1d(absent, further)
        target[name] = np.setdiff1d(absent, target["labels"])
    return target


def _middles(low: float, high: float) -> NDArray[np.float64]:
    """Points spread evenly over a range."""
    return np.asarray(low + (high - low) * (np.arange(32) + 0.5) / 32)
