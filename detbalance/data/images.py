"""Image files: read as RGB bytes, and checked quickly before a run.

One check stands before both: what the header says must be something that can be read and looked at.

Decoders fill up with grey what is missing, and pass over what is left, both in silence.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, overload

import numpy as np
from numpy.typing import NDArray

from detbalance.data.annotations import Annotations
from detbalance.data.files import points_outside
from detbalance.data.messages import NamesIn, names_in, needs, spelling_hint

logger = logging.getLogger(__name__)

# What a whole file of the format holds near its end.
_END_MARKS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}
_TAIL = 4096
_THREADS = 8
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".jp2")
_MOST_PIXELS = 178_956_970  # where Pillow too takes a file for an attack: 0.5 GB as RGB
_MOST_RATIO = 100  # of the sides: a detector that sees 128 pixels sees one of the shorter side
_DIM = 4096  # 16-bit images whose values stay below are seen as nearly black
_DIM_TRIED = 4
_dim_folders: set[Path] = set()  # that the log has named


class UnreadableImage(ValueError):
    """An image file cannot be used; `reason` says why."""

    reason = ""  # not an argument: workers of a loader hand errors on by their text alone


@overload
def read_image(path: str | Path, *, keep_depth: Literal[False] = False) -> NDArray[np.uint8]: ...


@overload
def read_image(path: str | Path, *, keep_depth: bool) -> NDArray[np.uint8 | np.uint16]: ...


def read_image(path: str | Path, *, keep_depth: bool = False) -> NDArray[np.uint8 | np.uint16]:
    """Read an image file as RGB.

    Grey, palette and 1-bit images become RGB, an alpha channel is dropped. The orientation tag of
    EXIF is ignored: boxes of COCO files belong to the pixels as they are stored.

    Args:
        path: of the file, in any format that Pillow and OpenCV read.
        keep_depth: leave 16-bit values as they are in place of scaling them to 8 bits.

    Returns:
        uint8 [H, W, 3]; uint16 for a 16-bit file with `keep_depth`.

    Raises:
        ValueError: if the file is missing, empty, damaged, no image, or larger, thinner or deeper
            than an image may be; it is named.
        ImportError: if OpenCV or Pillow is missing.
    """
    pixels = read_pixels(path)
    if pixels.dtype == np.uint16:
        _note_dim(Path(path), int(pixels.max()))
        if not keep_depth:
            pixels = (pixels // 257).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])


def read_pixels(path: str | Path) -> NDArray[np.uint8 | np.uint16]:
    """Read an image file as it is stored: grey [H, W], RGB [H, W, 3] or RGBA [H, W, 4]."""
    cv2 = import_cv2()
    try:
        data = Path(path).read_bytes()
        if not data:
            raise Damaged("is empty")
        if (found := _strict_jpeg(data)) is not None:
            return found
        _check_end(data)
        _header(io.BytesIO(data))
        # "Unchanged" also leaves the orientation alone and the bit depth to us.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise Damaged("is no image or a damaged one")
        if pixels.dtype not in (np.uint8, np.uint16):
            raise Damaged(f"has pixels of {pixels.dtype}, not of 8 or 16 bits")
        if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
            raise Damaged(f"has {pixels.shape[2]} channels")
    except (Damaged, cv2.error, OSError, ValueError) as error:
        reason = f"it {error}" if isinstance(error, Damaged) else str(error)
        reason = getattr(error, "strerror", None) or getattr(error, "err", None) or reason
        unreadable = UnreadableImage(
            f"{path}: the image cannot be read ({reason}). A readable image file is expected."
            " Replace it, or leave the image out of the annotations."
        )
        unreadable.reason = reason
        raise unreadable from error
    if pixels.ndim == 2:
        return np.asarray(pixels)
    code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(pixels, code))


def _header(file: BinaryIO) -> Any:
    """Open an image file with Pillow, which reads its header, and look at what that says."""
    from PIL import Image, UnidentifiedImageError

    try:
        header = Image.open(file)
    except Image.DecompressionBombError as error:
        raise Damaged(f"has more than {_MOST_PIXELS:,} pixels, too many for one image") from error
    except UnidentifiedImageError as error:
        raise Damaged("is no readable image (no image or a damaged one)") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Damaged(f"is no readable image ({reason})") from error
    short, long = sorted(header.size)
    size = f"{header.size[0]}x{header.size[1]} pixels"
    if short * long > _MOST_PIXELS:
        raise Damaged(f"has {size}, more than {_MOST_PIXELS:,}, too many for one image")
    if long > _MOST_RATIO * short:
        raise Damaged(
            f"is {size}, more than {_MOST_RATIO} times as long as wide, of which a detector sees"
            " nothing"
        )
    if header.mode == "F" or (header.mode == "I" and header.format not in ("PNG", "PPM")):
        kind = "floats" if header.mode == "F" else "whole numbers"
        raise Damaged(f"has pixels of 32 bits ({kind}), not of 8 or 16 bits")
    if header.mode == "CMYK" and header.format not in ("JPEG", "MPO"):
        raise Damaged("has the colours of a printer (CMYK), not RGB")
    return header


def header_size(path: Path) -> tuple[int, int]:
    """Width and height of an image by its header."""
    if importlib.util.find_spec("PIL") is None:
        raise needs("reading the sizes of images", "Pillow", "page")
    try:
        with path.open("rb") as file:
            width, height = _header(file).size
    except (Damaged, OSError) as error:
        unreadable = UnreadableImage(f"{path}: {error}")
        unreadable.reason = getattr(error, "strerror", None) or str(error)
        raise unreadable from error
    return width, height


def image_size(path: Path, kind: str) -> tuple[int, int]:
    """Width and height by the header of a file; ValueError if it is none of the format `kind`."""
    try:
        with path.open("rb") as file:
            header = _header(file)
    except (Damaged, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    if header.format != kind:
        raise ValueError(f"{path}: is a {header.format} file, not {kind}")
    width, height = header.size
    return width, height


def import_cv2() -> Any:
    """Import OpenCV, or say how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise needs("reading images", "OpenCV", "page") from error
    return cv2


def _check_end(data: bytes) -> None:
    """Refuse a file without the end mark of its format, which decoders pass over in silence."""
    if data.startswith(b"\xff\xd8"):
        strict_file(data)
    # Pieces of text may hold the mark too.
    elif data.startswith(b"\x89P") and data.rfind(b"IEND") < len(data) // 2:
        raise Damaged("is truncated")


def _strict_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG file, to the same values as OpenCV; None for other formats and for CMYK."""
    if not data.startswith(b"\xff\xd8"):
        return None
    file = strict_file(data)
    header = _header(file)
    _decode(header)
    if isinstance(file, JpegFile):
        file.check()
    return np.array(header) if header.mode in ("L", "RGB") else None


def _decode(header: Any) -> None:
    try:
        header.load()
    except Exception as error:  # as for the header
        raise Damaged(f"is damaged: {str(error).partition(chr(10))[0]}") from error


def _note_dim(path: Path, largest: int) -> None:
    """Say once a folder and process that 16-bit images are nearly black."""
    if 0 < largest < _DIM and path.parent not in _dim_folders:
        _dim_folders.add(path.parent)
        logger.warning(
            "%s: has 16 bits a value, and the largest is %d of 65535: it is seen as nearly black."
            " Where the images of this folder have %d bits, multiply their values by %d.",
            path,
            largest,
            largest.bit_length(),
            2 ** (16 - largest.bit_length()),
        )


def check_images(
    annotations: Annotations, image_dir: str | Path, *, decode: bool = False
) -> dict[str, str]:
    """Find image files that cannot be used."""
    check = partial(_problem, annotations, Path(image_dir), decode, cache(names_in))
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(check, range(annotations.num_images)))
    deep = [i for i, (problem, is_deep) in enumerate(found) if is_deep and not problem]
    for i in deep[:: max(1, len(deep) // _DIM_TRIED)][:_DIM_TRIED]:
        with suppress(ValueError, ImportError):  # what is wrong is said when it is needed
            read_image(Path(image_dir) / annotations.file_name(i), keep_depth=True)
    return {annotations.file_name(i): problem for i, (problem, _) in enumerate(found) if problem}


def usable_images(
    annotations: Annotations, image_dir: str | Path, *, skip: bool = False
) -> Annotations:
    """Make sure that all images can be read, or leave out those that cannot."""
    bad = check_images(annotations, image_dir)
    if not bad:
        return annotations
    if not skip or len(bad) == annotations.num_images:
        what = describe_unusable(bad, annotations, image_dir)
        raise ValueError(
            f"{annotations.source}: {what}. Readable image files are expected. Correct the image"
            " folder, or leave them out with --set data.skip_missing=true."
        )
    what = describe_unusable(bad, annotations, image_dir, "are left out")
    logger.warning("%s: %s", annotations.source, what)
    rows = range(annotations.num_images)
    return annotations.subset([i for i in rows if annotations.file_name(i) not in bad])


def describe_unusable(
    bad: Mapping[str, str],
    annotations: Annotations,
    image_dir: str | Path,
    what: str = "cannot be used",
) -> str:
    """Say in one sentence, without its full stop, what `check_images` found."""
    name, problem = next(iter(bad.items()))
    first = f"{Path(image_dir) / name} {problem}" if name else problem
    return f"{len(bad)} of {annotations.num_images} images {what} (first: {first})"


_READ_BY_ALL = ("JPEG", "MPO", "PNG", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000")


def _problem(
    annotations: Annotations, folder: Path, decode: bool, names: NamesIn, image: int
) -> tuple[str, bool]:
    """What is wrong with an image, or nothing; and whether it has 16 bits a value."""
    name = annotations.file_name(image)
    if not name:
        return f"image {annotations.image_ids[image]} has no file_name", False
    if points_outside(name):
        return "points outside the image folder", False
    path = folder / name
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is no file", False
        if size == 0:
            return "is empty", False
        with path.open("rb") as file:
            header = _header(file)
            found, is_deep = header.size, any("16" in str(tile[3]) for tile in header.tile)
            if header.format not in _READ_BY_ALL and not _has_reader(path):
                return f"is a {header.format} file, which OpenCV does not read", False
            if decode and header.format not in ("JPEG", "MPO"):
                _decode(header)
            file.seek(0)
            start = file.read(2)
            file.seek(max(0, size - _TAIL))
            tail = start + file.read()
        # Few files have much behind their end mark; only these are read whole.
        if _END_MARKS.get(tail[:2], b"") not in tail:
            _check_end(path.read_bytes())
        if decode:
            _strict_jpeg(path.read_bytes())
    except FileNotFoundError:
        return f"is missing{spelling_hint(folder, name, names)}", False
    except (Damaged, OSError, ValueError) as error:
        if isinstance(error, Damaged):
            return str(error), False
        return f"is no readable image ({str(error).partition(chr(10))[0]})", False
    return size_problem(annotations, image, found) or "", is_deep


def _has_reader(path: Path) -> bool:
    """Whether OpenCV knows the format, where it is there to ask."""
    try:
        return not str(path).isascii() or bool(import_cv2().haveImageReader(str(path)))
    except ImportError:
        return True


def size_problem(annotations: Annotations, image: int, found: tuple[int, int]) -> str | None:
    """Compare an image's size with that of the annotations."""
    width, height = (int(v) for v in annotations.sizes[image])
    if not width or not height or (width, height) == tuple(found):
        return None
    turned = "; its EXIF orientation is not applied here" if (height, width) == found else ""
    return f"is {found[0]}x{found[1]} pixels, the annotations say {width}x{height}{turned}"


def check_size(
    annotations: Annotations, image: int, path: str | Path, pixels: NDArray[np.generic]
) -> None:
    """Raise ValueError unless pixels [H, W, ...] of row `image` have the annotations' size."""
    if problem := size_problem(annotations, image, (pixels.shape[1], pixels.shape[0])):
        raise ValueError(
            f"{path}: {problem}. The same size is expected, as boxes are in pixels. Replace the"
            " image or correct the annotations."
        )


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
