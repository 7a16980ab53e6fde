"""Pictures of errors for the HTML page: missed objects, and confident false positives."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detbalance.data import Annotations
from detbalance.data.arrays import Bool, Float64
from detbalance.data.checks import check_number
from detbalance.data.images import import_cv2, read_image, size_problem
from detbalance.evaluation import Evaluation
from detbalance.reporting.gallery_subjects import Candidates, Errors, Subject

Pixels = npt.NDArray[np.uint8]

# A picture shows twice the side of its subject, and a little around all that belongs to it.
_CONTEXT = 2.0
_MARGIN = 1.15
# Pixels of the image that a picture shows at least: a tiny object is enlarged, but not endlessly.
_SMALLEST_CROP = 48
# The first quality that keeps to the bytes allowed: only noise and fine texture need a low one.
_QUALITIES = (90, 80, 70, 60, 45, 30, 20, 10)
_BYTES_PER_PIXEL = 0.25
_FEWEST_BYTES = 2000


@dataclass(frozen=True)
class Thumbnail:
    """A part of an image, shrunk where it was too large."""

    image: str
    width: int
    height: int
    left: int
    top: int
    scale: float

    def place(self, bbox: Float64) -> Float64:
        """Convert boxes of the image to boxes of the thumbnail."""
        corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
        corner = np.array([self.left, self.top] * 2, dtype=np.float64)
        return np.asarray((corners - corner) * self.scale)


def cut_thumbnail(pixels: Pixels, subject: Float64, around: Float64, size: int) -> Thumbnail:
    """Cut what a picture is about out of an image, with its surroundings."""
    cv2 = import_cv2()
    left, top, width, height = part_around(pixels, subject, around)
    part = pixels[top : top + height, left : left + width]
    scale = min(1.0, size / max(width, height))
    if scale < 1:
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        part = cv2.resize(part, shape, interpolation=cv2.INTER_AREA)
    data = _jpeg(part, max(_FEWEST_BYTES, int(size**2 * _BYTES_PER_PIXEL)))
    text = base64.b64encode(data).decode("ascii")
    return Thumbnail(
        f"data:image/jpeg;base64,{text}", part.shape[1], part.shape[0], left, top, scale
    )


def part_around(pixels: Pixels, subject: Float64, around: Float64) -> tuple[int, int, int, int]:
    """Choose the part of an image to show, see `cut_thumbnail`."""
    image = np.array([pixels.shape[1], pixels.shape[0]])
    every = np.concatenate([subject[None], around])
    # Detections may lie anywhere; only what is in the image can be shown.
    low = np.clip(every[:, :2], 0, image)
    high = np.clip(every[:, :2] + every[:, 2:], low, image)
    whole = high.max(axis=0) - low.min(axis=0)
    side = max(_SMALLEST_CROP, _CONTEXT * (high - low)[0].max(), _MARGIN * whole.max())
    shape = np.minimum(np.ceil(side).astype(np.int64), image)
    middle = (high.max(axis=0) + low.min(axis=0)) / 2
    start = np.clip(np.rint(middle - shape / 2).astype(np.int64), 0, image - shape)
    return int(start[0]), int(start[1]), int(shape[0]), int(shape[1])


def _jpeg(pixels: Pixels, max_bytes: int) -> bytes:
    cv2 = import_cv2()
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    data = b""
    for quality in _QUALITIES:
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= max_bytes:
            break
    return data


# Images that may turn out to be unusable before the search for others ends.
_MAX_UNUSABLE = 500
# Boxes drawn beside the subject of a picture.
_MAX_BOXES = 16
# How far a box may be drawn beyond its picture, in pixels, for its edges to be out of sight.
_OVERHANG = 8.0


@dataclass(frozen=True)
class Box:
    """A box to draw, in pixels of the thumbnail."""

    x: float
    y: float
    width: float
    height: float
    role: str


@dataclass(frozen=True)
class Picture:
    """One thumbnail."""

    image: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    class_name: str
    kind: str
    score: float | None
    file_name: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page."""

    missed: tuple[Picture, ...]
    false_positives: tuple[Picture, ...]
    score_threshold: float
    notes: tuple[str, ...] = ()
    num_missed: int = 0
    num_false_positives: int = 0


def build_gallery(
    evaluation: Evaluation,
    image_dir: str | Path,
    *,
    rarest_first: Sequence[str],
    max_missed: int = 24,
    max_false_positives: int = 24,
    thumbnail: int = 200,
) -> Gallery:
    """Cut pictures of the errors that a user would see: at IoU .5, from the score thresholds on."""
    folder = Path(image_dir)
    _check(folder, max_missed, max_false_positives, thumbnail)
    import_cv2()  # before any work, should it be missing
    errors = Errors(evaluation)
    sides = (
        (errors.missed(rarest_first), max_missed),
        (errors.false_positives(), max_false_positives),
    )
    (missed, false_positives), problems = _fill(sides, _Drawing(errors, thumbnail), folder)
    return Gallery(
        missed,
        false_positives,
        score_threshold=evaluation.settings.score_threshold,
        notes=image_notes(problems),
        num_missed=int(errors.is_missed.sum()),
        num_false_positives=int(errors.is_wrong.sum()),
    )


def _check(folder: Path, max_missed: int, max_false_positives: int, thumbnail: int) -> None:
    """Refuse what no gallery can be made of."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: is no folder. The folder that the file names of the annotations start from"
            " is expected. Pass that one."
        )
    where = "build_gallery()"
    check_number(where, "max_missed", max_missed, least=0, whole=True)
    check_number(where, "max_false_positives", max_false_positives, least=0, whole=True)
    check_number(where, "thumbnail", thumbnail, least=16, whole=True)


def _fill(
    sides: Sequence[tuple[Candidates, int]], draw: _Drawing, folder: Path
) -> tuple[list[tuple[Picture, ...]], list[str]]:
    """Draw what is chosen, and choose anew without the images that turn out to be unusable."""
    annotations = draw.matches.annotations
    is_unusable = np.zeros(annotations.num_images, dtype=np.bool_)
    problems: list[str] = []
    drawn: list[dict[int, Picture]] = [{} for _ in sides]
    while True:
        chosen = [candidates.choose(count, is_unusable) for candidates, count in sides]
        lacking: dict[int, list[tuple[int, int]]] = {}
        for side, choice in enumerate(chosen):
            for row, image in choice:
                if row not in drawn[side]:
                    lacking.setdefault(image, []).append((side, row))
        if not lacking or len(problems) == _MAX_UNUSABLE:
            break
        for image, wanted in lacking.items():
            try:
                pixels = _read(annotations, folder, image)
            except ValueError as error:
                is_unusable[image] = True
                problems.append(str(error))
                if len(problems) == _MAX_UNUSABLE:
                    break
                continue
            for side, row in wanted:
                subject = sides[side][0].describe(row)
                drawn[side][row] = draw.picture(image, pixels, subject)
    pictures = [
        tuple(done[row] for row, _ in choice if row in done)
        for done, choice in zip(drawn, chosen, strict=True)
    ]
    return pictures, problems


def _read(annotations: Annotations, folder: Path, image: int) -> Pixels:
    """Read an image that has the size that the annotations say."""
    name = annotations.file_name(image)
    if not name:
        raise ValueError(
            f"{annotations.source}: image {annotations.image_ids[image]} has no file_name. The name"
            f" of a file in {folder} is expected. Add it to the annotations."
        )
    pixels = read_image(annotations.image_path(image, folder))
    problem = size_problem(annotations, image, (pixels.shape[1], pixels.shape[0]))
    if problem:
        raise ValueError(
            f"{folder / name}: {problem}. The image that was annotated is expected. Correct the"
            " image folder."
        )
    return pixels


def image_notes(problems: Sequence[str]) -> tuple[str, ...]:
    """Say how many images cannot be shown."""
    if not problems:
        return ()
    if len(problems) == 1:
        return (f"1 image cannot be shown: {problems[0]}",)
    end = ", and no more were tried" if len(problems) == _MAX_UNUSABLE else ""
    return (f"{len(problems)} images cannot be shown{end}; the first: {problems[0]}",)


class _Drawing:
    """Draws pictures of one evaluation."""

    def __init__(self, errors: Errors, size: int) -> None:
        self.matches = errors.matches
        self._size = size
        self._shown = np.flatnonzero(errors.is_shown)
        self._shown_images = self.matches.predictions.image_index[self._shown]

    def picture(self, image: int, pixels: Pixels, subject: Subject) -> Picture:
        """Cut out the subject, and place its box and those around it."""
        thumbnail = cut_thumbnail(pixels, subject.bbox, subject.partners, self._size)
        size = np.array([thumbnail.width, thumbnail.height] * 2, dtype=np.float64)
        middle = thumbnail.place(subject.bbox[None])[0]
        bbox, is_truth = self._others(image, subject)
        corners = thumbnail.place(bbox)
        visible = ((corners[:, :2] < size[:2] - 1) & (corners[:, 2:] > 1)).all(axis=1)
        distance = np.abs(corners - middle).max(axis=1)
        distance[(bbox[:, None] == subject.partners).all(axis=2).any(axis=1)] = -1.0
        order = np.argsort(np.where(visible, distance, np.inf), kind="stable")
        nearest = order[: min(_MAX_BOXES, int(visible.sum()))][::-1]
        edges = np.clip(corners, -_OVERHANG, size + _OVERHANG)
        boxes = [box_at(edges[i], "truth" if is_truth[i] else "found") for i in nearest]
        role = "subject-truth" if subject.score is None else "subject-found"
        annotations = self.matches.annotations
        return Picture(
            image=thumbnail.image,
            width=thumbnail.width,
            height=thumbnail.height,
            boxes=(*boxes, box_at(np.clip(middle, 1, size - 1), role)),
            class_name=annotations.categories.name(subject.label),
            kind=subject.kind,
            score=subject.score,
            file_name=annotations.file_name(image),
        )

    def _others(self, image: int, subject: Subject) -> tuple[Float64, Bool]:
        """Annotations to find and shown detections of an image, without the subject."""
        annotations, predictions = self.matches.annotations, self.matches.predictions
        rows = annotations.rows(image)
        truth = np.arange(rows.start, rows.stop)[self.matches.positive[rows]]
        found = self._shown[self._shown_images == image]
        if subject.score is None:
            truth = truth[truth != subject.row]
        else:
            found = found[found != subject.row]
        bbox = np.concatenate([annotations.bbox[truth], predictions.bbox[found]])
        return bbox, np.arange(len(bbox)) < len(truth)


def box_at(corners: Float64, role: str) -> Box:
    """Make a box to draw."""
    x, y, right, bottom = (round(float(value), 1) for value in corners)
    return Box(x, y, round(right - x, 1), round(bottom - y, 1), role)
