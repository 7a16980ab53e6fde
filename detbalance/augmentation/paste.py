"""Paste objects of rare classes into other images, at places that suit them.

Letters: H, W height and width, N boxes, C classes including background.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation import blending
from detbalance.augmentation.blending import with_pasted, without_covered
from detbalance.augmentation.cutting import Donor, UnreadableDonor
from detbalance.augmentation.donors import DonorBank
from detbalance.augmentation.paste_size_and_place import (
    NO_ROOM,
    NOT_EXHAUSTIVE,
    OUTCOMES,
    OUTSIDE_REGION,
    PLACED,
    TOO_LARGE,
    UNREADABLE,
    Place,
    Rules,
    Scene,
    find_place,
)
from detbalance.augmentation.transform import (
    Image,
    Target,
    as_depth,
    check_range,
    check_scale,
    is_bilevel,
    prepared,
)
from detbalance.data import Categories
from detbalance.data.images import import_cv2

__all__ = ["OUTCOMES", "RarePaste"]

_PATIENCE = 200  # donors in a row without a place before the log says so
_WHY = {
    NO_ROOM: "found no place (the images may be too full: lower scale, raise tries or may_cover,"
    " or name other classes)",
    TOO_LARGE: "were larger than the image (lower scale, or name other classes)",
    OUTSIDE_REGION: "did not fit where their class has been seen (turn seen_region off)",
    NOT_EXHAUSTIVE: "met images whose objects of the class are not all annotated (name other"
    " classes)",
    UNREADABLE: "could not be read (check the folder of the images)",
}
_logger = logging.getLogger(__name__)


class RarePaste:
    """Pastes donors with a soft edge, at places and in sizes that suit the image.

    New boxes are appended to the target with `is_crowd` false; the array `pasted` marks them, and
    `pastes`, int64 [A, 2], gets one row for each paste that was asked for: label, and position in
    `OUTCOMES`. Both are added where they are missing. The size of the image does not change, nor
    does the depth of its pixels, and an image of two values, 0 and the largest, stays one.

    A place is refused if it touches a crowd region or what was pasted before, if it covers more
    than `may_cover` of a box, or if a rule below says so. No class is pasted into an image whose
    `not_exhaustive_labels` have it, as more of its objects may be there without a label; from
    `negative_labels` it is taken.

    Donors with a mask are blended along it and have no margin. Where the target has `masks`, those
    of pasted objects are appended, and what is covered is taken from the others; boxes and areas
    follow.

    Args:
        donors: what to paste.
        probability: of pasting anything into an image, 0..1.
        max_pastes: largest number of donors per image, >= 0; 1 to that many are tried, all numbers
            alike.
        scale: smallest and largest factor on the donor's size, > 0; drawn evenly on a log scale.
        flip: whether to mirror half of the donors; not for text, digits and signs.
        feather: part of the margin over which the donor fades out towards its outer edge, 0..1;
            1 starts at the box, 0 leaves a hard edge. With a mask, the width of its soft edge.
        tries: number of places that are tried for each donor, >= 1.
        match_scale: let the size follow the objects near the place: those of the image that are
            larger than is usual for their class make the donor larger, by a factor in 0.5..2.
        may_cover: 0..1, share of a box that a donor's box may cover; 0 keeps the margins clear of
            boxes as well.
        max_covered: 0..1; a box of which more is covered than this becomes a crowd region, which
            is neither taught nor background, and is removed if nothing of it is left.
        seen_region: paste a class only where its boxes have had their middles in training, and a
            tenth of the image around; for cameras that do not move.
        context_places: free places that are compared: a donor goes where the image looks most like
            the margin that it brings along; with 1, to the first.
        blending: "feather" for a soft edge, "seamless" to let the colours follow those of the
            place (Poisson editing; at the border of the image a soft edge is used).

    Raises:
        ValueError: if a value is out of its range.
        ImportError: if OpenCV is missing.

    Attributes:
        counts: int64 [C, len(OUTCOMES)], what became of each class's pastes in this process.

    Source: Dwibedi et al., Cut, Paste and Learn, 2017, arXiv:1708.01642, sec. 5 (blending); Ghiasi
    et al., Simple Copy-Paste, 2021, arXiv:2012.07177, sec. 3 (what is covered is taken from the
    masks below).
    Differs: whole boxes with context where there is no mask; no overlaps by default; sizes follow
    the place.
    """

    def __init__(
        self,
        donors: DonorBank,
        *,
        probability: float = 0.5,
        max_pastes: int = 2,
        scale: tuple[float, float] = (0.8, 1.25),
        flip: bool = False,
        feather: float = 1.0,
        tries: int = 50,
        match_scale: bool = True,
        may_cover: float = 0.0,
        max_covered: float = 0.7,
        seen_region: bool = False,
        context_places: int = 12,
        blending: Literal["feather", "seamless"] = "feather",
    ) -> None:
        check_range("RarePaste", "probability", probability, 0, 1)
        check_range("RarePaste", "max_pastes", max_pastes, 0, 1000)
        check_range("RarePaste", "feather", feather, 0, 1)
        check_range("RarePaste", "tries", tries, 1, 100_000)
        check_range("RarePaste", "may_cover", may_cover, 0, 1)
        check_range("RarePaste", "max_covered", max_covered, 0, 1)
        check_range("RarePaste", "context_places", context_places, 1, 1000)
        if blending not in ("feather", "seamless"):
            raise ValueError(
                f'RarePaste: blending is "{blending}". Expected "feather" or "seamless". Change'
                " blending."
            )
        import_cv2()  # fail here, not in a worker
        self.donors = donors
        self.probability = probability
        self.max_pastes = max_pastes
        self.scale = check_scale("RarePaste", scale)
        self.flip = flip
        self.feather = feather
        self.tries = tries
        self.match_scale = match_scale
        self.may_cover = may_cover
        self.max_covered = max_covered
        self.seen_region = seen_region
        self.context_places = context_places
        self.blending = blending
        self.counts = np.zeros((len(donors.probabilities), len(OUTCOMES)), np.int64)
        self._refused = np.zeros(len(OUTCOMES), np.int64)  # since the last that was placed
        if not probability or not max_pastes:
            _logger.warning(
                "RarePaste: probability is %s and max_pastes is %s, so nothing is ever pasted.",
                probability,
                max_pastes,
            )

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        image, target = prepared("RarePaste", image, target)
        number = len(target["boxes"])
        target = {
            "pasted": np.zeros(number, np.bool_),
            "pastes": np.zeros((0, 2), np.int64),
            **target,
        }
        if not self.max_pastes or generator.random() >= self.probability:
            return image, target
        sizes = self.donors.typical_sizes if self.match_scale else None
        # Without overlaps there is nothing to cover, but masks may reach beyond their boxes.
        covers = self.may_cover > 0 or "masks" in target
        covered = np.zeros(image.shape[:2], np.bool_) if covers else None
        scene = Scene.of(image.shape, target, sizes)
        scene.image = image
        work = _Work(image, scene, covered)
        pastes = []
        for _ in range(int(generator.integers(1, self.max_pastes + 1))):
            donor = self.donors.draw(generator)
            label = int(self.donors.labels[donor])
            outcome = self._paste(donor, label, target, work, generator)
            self._note(label, outcome)
            pastes.append((label, outcome))
        target["pastes"] = np.concatenate([target["pastes"], np.array(pastes, np.int64)])
        if not work.placed:
            return image, target
        target = with_pasted(target, work.placed, image.shape)
        if covered is not None:
            target = without_covered(target, number, covered, self.max_covered)
        return work.canvas, target

    def summary(self, categories: Categories) -> str:
        """Return one line per class that was asked for: how often, and what became of it.

        Args:
            categories: of the annotations.

        Example: `bolt: 40 asked, 31 placed, 9 no room`.
        """
        lines = []
        for label in np.flatnonzero(self.counts.sum(axis=1)):
            counts = self.counts[label]
            parts = [f"{counts.sum()} asked", f"{counts[PLACED]} placed"]
            parts += [
                f"{counts[code]} {name.replace('_', ' ')}"
                for code, name in enumerate(OUTCOMES)
                if code != PLACED and counts[code]
            ]
            lines.append(f"{categories.name(int(label))}: {', '.join(parts)}")
        return "\n".join(lines)

    def _paste(
        self, number: int, label: int, target: Target, work: _Work, generator: np.random.Generator
    ) -> int:
        """Try to paste a donor; returns the code of what became of it."""
        if label in target.get("not_exhaustive_labels", ()):
            return NOT_EXHAUSTIVE
        try:
            donor = self.donors.crop(number)
        except UnreadableDonor:
            return UNREADABLE
        donor = blending.without_margin(donor)
        low, high = self.scale
        factor = float(low * (high / low) ** generator.random())
        if self.flip and generator.random() < 0.5:
            donor = blending.mirrored(donor)
        zoom, region = self._zoom(donor), self._region(label)
        rules = Rules(low, factor, zoom, region, self.may_cover, self.context_places)
        place = find_place(work.scene, donor, rules, generator.random((self.tries, 2)))
        if not isinstance(place, Place):
            return place
        bilevel = work.is_bilevel(donor)
        self._draw(blending.resized(donor, place.width, place.height), place, work, bilevel)
        return PLACED

    def _zoom(self, donor: Donor) -> float | None:
        """How much larger a donor is than is usual for its class, as a logarithm."""
        usual = self.donors.typical_sizes[donor.label]
        if not self.match_scale or not np.isfinite(usual):
            return None
        if donor.resize != 1:  # it comes in the usual size
            return 0.0
        size = np.sqrt(np.prod(donor.box[2:] - donor.box[:2]))
        return float(np.log(size) - np.log(usual))

    def _region(self, label: int) -> NDArray[np.float64] | None:
        """Where a class may go; anywhere if it has never been seen."""
        region: NDArray[np.float64] = self.donors.seen_regions[label]
        return region if self.seen_region and np.isfinite(region).all() else None

    def _draw(self, donor: Donor, place: Place, work: _Work, bilevel: bool) -> None:
        canvas = work.own_canvas()
        donor = replace(donor, image=as_depth(donor.image, canvas.dtype))
        weights = blending.opacity(donor, self.feather)
        x, y = place.x, place.y
        drawn = (
            self.blending == "seamless"
            and not bilevel
            and blending.seamless(canvas, donor, x, y, weights)
        )
        if not drawn:
            blending.feathered(canvas, donor, x, y, weights)
        inside = slice(y, y + place.height), slice(x, x + place.width)
        if bilevel:
            highest = np.iinfo(canvas.dtype).max
            canvas[inside] = np.where(canvas[inside] > highest // 2, highest, 0)
        if work.covered is not None:
            work.covered[inside] |= weights >= 0.5
        work.scene.close(place)
        work.placed.append((donor, place))

    def _note(self, label: int, outcome: int) -> None:
        self.counts[label, outcome] += 1
        if outcome == PLACED:
            self._refused[:] = 0
            return
        self._refused[outcome] += 1
        if self._refused.sum() == _PATIENCE:
            most = int(self._refused.argmax())
            _logger.warning(
                "RarePaste: the last %d donors were all refused. %d of them %s.",
                _PATIENCE,
                self._refused[most],
                _WHY[most],
            )


@dataclass
class _Work:
    """What is known of an image while donors are pasted into it."""

    image: Image
    scene: Scene
    covered: NDArray[np.bool_] | None  # [H, W], where old boxes can be touched at all
    placed: list[tuple[Donor, Place]] = field(default_factory=list)
    canvas: Image = field(init=False)
    _bilevel: bool | None = None

    def __post_init__(self) -> None:
        self.canvas = self.image

    def own_canvas(self) -> Image:
        if self.canvas is self.image:
            self.canvas = self.image.copy()
        return self.canvas

    def is_bilevel(self, donor: Donor) -> bool:
        """Whether the image has two values; a plain one of 0 or the largest, if the donor has."""
        if self._bilevel is None:
            self._bilevel = is_bilevel(self.image)
        if not self._bilevel:
            return False
        plain = self.image.min() == self.image.max()
        return not plain or is_bilevel(donor.image)
