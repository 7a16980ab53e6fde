"""Cut small pictures out of images, as data URIs for the HTML page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.data.images import import_cv2

Float64 = npt.NDArray[np.float64]
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
