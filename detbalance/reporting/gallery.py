"""Pictures of errors for the HTML page: missed objects, and confident false positives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A box to draw, in pixels of the thumbnail.

    Attributes:
        x: left end.
        y: upper end.
        width: of the box.
        height: of the box.
        role: "truth" or "found"; "subject-truth" or "subject-found" for what the picture is about.
    """

    x: float
    y: float
    width: float
    height: float
    role: str


@dataclass(frozen=True)
class Picture:
    """One thumbnail.

    Attributes:
        image: data URI of the pixels.
        width: of the thumbnail in pixels.
        height: of the thumbnail in pixels.
        boxes: to draw on it, the subject last.
        class_name: of the missed object or of the detection.
        kind: what went wrong, in a few words.
        score: of the detection; None for a missed object.
        file_name: of the image.
    """

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
    """The pictures of a page.

    Attributes:
        missed: objects that nothing found, rarest classes first.
        false_positives: wrong detections, highest scores first.
        score_floor: smallest score of the detections that are shown; NaN where each class has its
            own.
        notes: sentences for the reader, such as images that could not be read.
    """

    missed: tuple[Picture, ...]
    false_positives: tuple[Picture, ...]
    score_floor: float
    notes: tuple[str, ...] = ()
