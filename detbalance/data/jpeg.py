"""JPEG files whose picture takes exactly their data.

Decoders fill up with grey what is missing, and pass over what is left, both in silence.
"""

from __future__ import annotations

import io
import re

__all__ = ["Damaged", "JpegFile", "strict_file"]

# A byte of a marker behind 0xff; 0 and the restart marks stand inside the data.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_SCAN, _END = 0xDA, 0xD9
_BETWEEN_SCANS = {0xC4, 0xCC, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE}
_HELD = 16  # bytes by which data may be too long or too short


class Damaged(Exception):
    """What is wrong with a JPEG file, to be read behind its name."""


class JpegFile(io.BytesIO):
    """A JPEG file to decode from."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        super().__init__(data[:end] + bytes(_HELD))  # decoders read ahead
        # Blanks at the end harm nobody.
        self._held = max(start, len(data[:end].rstrip(b"\0\xff")) - _HELD)
        self._asked = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Give no bytes of both sides of the place from which on they are held back."""
        left = self._held - self.tell()
        self._asked |= left <= 0
        if left > 0 and (size is None or not 0 <= size <= left):
            size = left
        return super().read(size)

    def check(self) -> None:
        """Raise Damaged if the picture that was decoded has not asked for all of its data."""
        if not self._asked:
            raise Damaged("is damaged: it has more data than its picture takes")


def strict_file(data: bytes) -> JpegFile | io.BytesIO:
    """Return a JPEG file to decode from; a `JpegFile` is to be checked afterwards."""
    at, components, sequential = 2, b"", False
    lacking: dict[int, list[int]] = {}  # of each component, the bits that its coefficients lack
    while match := _MARKER.search(data, at):
        code, at = data[match.end() - 1], match.end()
        if code == _END:
            if len(lacking) < len(components) or any(map(any, lacking.values())):
                raise Damaged("is damaged: parts of its picture are missing")
            return io.BytesIO(data)
        if lacking and code not in _BETWEEN_SCANS:
            raise Damaged("is damaged: marks of something else are in its data")
        segment = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        at += 2 + len(segment)
        if code in _FRAMES:
            components, sequential = segment[6::3], code in _SEQUENTIAL
        if code != _SCAN or len(segment) < 6:
            continue
        scanned, (first, last, bits) = segment[1:-3:2], segment[-3:]
        if sequential and len(scanned) == len(components):
            end = _MARKER.search(data, at)
            if end is None:
                break
            if data[end.end() - 1] != _END:
                raise Damaged("is damaged: marks of something else are in its data")
            restarts = _RESTART.findall(data, at, end.start())
            if any(mark[1] != 0xD0 + number % 8 for number, mark in enumerate(restarts)):
                raise Damaged("is damaged: parts of its picture are missing")
            return JpegFile(data, at, end.start())
        for component in scanned:
            missing = lacking.setdefault(component, [8] * 64)
            missing[first : last + 1] = [bits & 15] * len(missing[first : last + 1])
    raise Damaged("is truncated")
