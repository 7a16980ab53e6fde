"""Several images in one: mosaic and mixup, with partners that follow the balanced sampler.

Letters: H, W height and width, M images, N boxes, C classes including background.

Letters: M images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from detbalance.augmentation.tiles import Window, draw_origin, fitted, on_canvas, view
from detbalance.augmentation.transform import (
    Image,
    Target,
    append_rows,
    as_depth,
    check_range,
    check_scale,
    fill_color,
    is_bilevel,
    prepared,
)
from detbalance.data.images import import_cv2

_logger = logging.getLogger(__name__)

Load: TypeAlias = Callable[[int], tuple[Image, Target]]

_ATTEMPTS = 5  # partners that are tried where files cannot be read


class Partners:
    """Images drawn by the factors of the sampler."""

    def __init__(self, owner: str, load: Load, factors: npt.ArrayLike) -> None:
        values = np.asarray(factors, np.float64)
        if values.ndim != 1 or not (np.isfinite(values) & (values >= 0)).all() or not values.sum():
            raise ValueError(
                f"{owner}: factors are {values}. Expected one number from 0 on for each image, not"
                " all 0. Give those of the sampler."
            )
        self._owner, self._load = owner, load
        self._cumulative = np.cumsum(values)
        self._named: set[int] = set()

    def draw(self, generator: np.random.Generator) -> tuple[Image, Target] | None:
        """Draw a partner; None where none of several could be read."""
        for _ in range(_ATTEMPTS):
            row = drawn_index(self._cumulative, generator)
            try:
                return prepared(self._owner, *self._load(row))
            except (ValueError, OSError) as error:
                if row not in self._named:
                    self._named.add(row)
                    _logger.warning("%s: a partner is left out: %s", self._owner, error)
        return None


def drawn_index(cumulative: NDArray[np.float64], generator: np.random.Generator) -> int:
    """Draw an index by the cumulative sums of the weights."""
    found = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    # The product may be rounded up to the sum itself.
    return int(min(found, np.searchsorted(cumulative, cumulative[-1])))


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
        image, target = prepared("Mosaic", image, target)
        height, width = image.shape[:2]
        if generator.random() >= self.probability or min(height, width) < 2:
            return image, target
        sources = [(image, target)]
        while len(sources) < 4:
            partner = self._partners.draw(generator)
            if partner is None:
                return image, target
            sources.append((as_depth(partner[0], image.dtype), partner[1]))
        bilevel = all(is_bilevel(picture) for picture, _ in sources)
        fill = fill_color(image)
        canvas = np.empty_like(image)
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
        parts = []
        for corner, (picture, part) in zip(corners, sources, strict=True):
            rows, columns = places[corner]
            tile = (rows.stop - rows.start, columns.stop - columns.start)
            canvas[rows, columns], shown = view(
                picture,
                part,
                self._window(picture.shape, part, (height, width), tile, generator),
                fill=fill,
                nearest=bilevel,
                min_visibility=self.min_visibility,
            )
            parts.append(on_canvas(shown, (rows, columns), (height, width)))
        return canvas, _united(parts, [part for _, part in sources])

    def boxes_shown(self, counts: npt.ArrayLike) -> NDArray[np.float64]:
        """Estimate how often a draw shows a box, relative to a draw without mosaics.

        Partners included, which follow the same distribution; the windows cut some boxes off. In
        crowded images somewhat more is shown, as windows that cut boxes are drawn again.

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

    def _window(
        self,
        shape: tuple[int, ...],
        target: Target,
        canvas: tuple[int, int],
        tile: tuple[int, int],
        generator: np.random.Generator,
    ) -> Window:
        """Draw windows of an image until none cuts too much of a box; else the one with least."""
        boxes, focus = target["boxes"], self._focus(target, generator)
        alone = Window(fitted(shape, canvas), (0, 0), canvas).scale(boxes, shape)
        areas = (alone[:, 2:] - alone[:, :2]).prod(axis=1)
        best, least = None, float("inf")
        for _ in range(self.tries):
            factor = float(np.exp(generator.uniform(*np.log(self.scale))))
            if focus is not None:
                sides = alone[focus, 2:] - alone[focus, :2]
                fits = float((tile[::-1] / np.maximum(sides, 1e-9)).min())
                factor = max(self.scale[0], min(factor, fits))
            resized = fitted(shape, canvas, factor)
            window = Window(resized, (0, 0), tile)
            box = None if focus is None else window.scale(boxes[focus], shape)
            window = window._replace(origin=draw_origin(resized, tile, box, generator))
            shares = window.look(boxes, shape)
            lost = (shares < self.min_visibility) & ~target["is_crowd"]
            painted = float((shares * areas)[lost].sum())
            if painted < least:
                best, least = window, painted
            if not painted:
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
        image, target = prepared("Mixup", image, target)
        if generator.random() >= self.probability or is_bilevel(image):
            return image, target
        partner = self._partners.draw(generator)
        if partner is None:
            return image, target
        size = image.shape[0], image.shape[1]
        tall, wide = fitted(partner[0].shape, size)
        y = int(generator.integers(size[0] - tall + 1))
        x = int(generator.integers(size[1] - wide + 1))
        other, moved = view(
            as_depth(partner[0], image.dtype),
            partner[1],
            Window((tall, wide), (-y, -x), size),
            fill=fill_color(image),
            nearest=False,
            min_visibility=0.0,
        )
        share = float(generator.beta(self.alpha, self.alpha))
        canvas = image.copy()
        place = slice(y, y + tall), slice(x, x + wide)
        canvas[place] = import_cv2().addWeighted(image[place], share, other[place], 1 - share, 0)
        return canvas, _united([target, moved], [target, partner[1]])

    def boxes_shown(self, counts: npt.ArrayLike) -> NDArray[np.float64]:
        """Tell how often a draw shows a box, relative to a draw without mixup.

        Args:
            counts: [M], boxes of each image.

        Returns:
            float64 [M], for the boxes of each image.
        """
        return np.full(np.shape(counts), 1 + self.probability)


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
