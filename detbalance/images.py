"""Image files: read as RGB bytes, and checked quickly before a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from detbalance.annotations import Annotations
from detbalance.annotations.files import points_outside
from detbalance.installation import needs

logger = logging.getLogger(__name__)

# What a whole file of the format holds near its end.
_END_MARKS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))
_TAIL = 4096
_THREADS = 8


@overload
def read_image(path: str | Path, *, keep_depth: Literal[False] = False) -> NDArray[np.uint8]: ...


@overload
def read_image(path: str | Path, *, keep_depth: bool) -> NDArray[np.uint8 | np.uint16]: ...


def read_image(path: str | Path, *, keep_depth: bool = False) -> NDArray[np.uint8 | np.uint16]:
    """Read an image file as RGB.

    Grey, palette and 1-bit images become RGB, an alpha channel is dropped. The orientation tag of
    EXIF is ignored: boxes of COCO files belong to the pixels as they are stored.

    Args:
        path: of the file, in any format that OpenCV reads.
        keep_depth: leave 16-bit values as they are in place of scaling them to 8 bits.

    Returns:
        uint8 [H, W, 3]; uint16 for a 16-bit file with `keep_depth`.

    Raises:
        ValueError: if the file is missing, empty, truncated or no image; it is named.
        ImportError: if OpenCV is missing.
    """
    cv2 = import_cv2()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from error
    if not data:
        raise _unreadable(path, "it is empty")
    if _is_truncated(data):
        raise _unreadable(path, "it is truncated")
    try:
        # "Unchanged" also leaves the orientation alone and the bit depth to us.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _unreadable(path, str(error.err)) from error
    if pixels is None:
        raise _unreadable(path, "it is no image or a damaged one")
    if pixels.dtype == np.uint16 and not keep_depth:
        pixels = (pixels // 257).astype(np.uint8)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise _unreadable(path, f"its pixels are {pixels.dtype}, not 8 or 16 bits")
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    code = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}.get(pixels.shape[2])
    if code is None:
        raise _unreadable(path, f"it has {pixels.shape[2]} channels")
    converted: NDArray[np.uint8 | np.uint16] = cv2.cvtColor(pixels, code)
    return converted


def import_cv2() -> Any:
    """Import OpenCV, or say how to install it.

    Raises:
        ImportError: if it is missing.
    """
    try:
        import cv2
    except ImportError as error:
        raise needs("reading images", "OpenCV", "page") from error
    return cv2


def _unreadable(path: str | Path, why: str) -> ValueError:
    return ValueError(
        f"{path}: the image cannot be read ({why}). A readable image file is expected. Replace it,"
        " or leave the image out of the annotations."
    )


def _is_truncated(data: bytes) -> bool:
    """Whether the end mark of the format is missing, which decoders pass over in silence."""
    for start, end in _END_MARKS:
        if data.startswith(start):
            # An embedded thumbnail near the start of a file has an end mark of its own.
            return data.rfind(end) < len(data) // 2
    return False


def check_images(annotations: Annotations, image_dir: str | Path) -> dict[str, str]:
    """Find image files that cannot be used, without decoding any.

    Looks at the existence, the header and the end of every file.

    Args:
        annotations: whose images to look for.
        image_dir: the folder that file names start from.

    Returns:
        What is wrong by file name, in the order of the images: missing, empty, no image, truncated,
        or of another size than the annotations say. Empty if all is well. An image without a file
        name is listed under the empty name.
    """
    check = partial(_problem, annotations, Path(image_dir))
    with ThreadPoolExecutor(_THREADS) as threads:
        problems = list(threads.map(check, range(annotations.num_images)))
    return {annotations.file_name(i): problem for i, problem in enumerate(problems) if problem}


def usable_images(
    annotations: Annotations, image_dir: str | Path, *, skip: bool = False
) -> Annotations:
    """Make sure that all images can be read, or leave out those that cannot.

    Args:
        annotations: whose images to look for.
        image_dir: the folder that file names start from.
        skip: leave out what cannot be used, and log how many, instead of stopping.

    Returns:
        The annotations, without the images that were left out.

    Raises:
        ValueError: if an image cannot be used and `skip` is False, or none is left.
    """
    bad = check_images(annotations, image_dir)
    if not bad:
        return annotations
    what = describe_unusable(bad, annotations, image_dir)
    if not skip or len(bad) == annotations.num_images:
        raise ValueError(
            f"{annotations.source}: {what}. Readable image files are expected. Correct the image"
            " folder, or leave them out with --set data.skip_missing=true."
        )
    logger.warning("%s: %s, and are left out", annotations.source, what)
    rows = range(annotations.num_images)
    return annotations.subset([i for i in rows if annotations.file_name(i) not in bad])


def describe_unusable(
    bad: Mapping[str, str], annotations: Annotations, image_dir: str | Path
) -> str:
    """Say in one sentence, without its full stop, what `check_images` found; all readers say this.

    Args:
        bad: what it found, at least one image.
        annotations: of the data set.
        image_dir: the folder that file names start from.
    """
    name, problem = next(iter(bad.items()))
    first = f"{Path(image_dir) / name} {problem}" if name else problem
    return f"{len(bad)} of {annotations.num_images} images cannot be used (first: {first})"


def _problem(annotations: Annotations, folder: Path, image: int) -> str | None:
    from PIL import Image

    name = annotations.file_name(image)
    if not name:
        return f"image {annotations.image_ids[image]} has no file_name"
    if points_outside(name):
        return "points outside the image folder"
    path = folder / name
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is no file"
        if size == 0:
            return "is empty"
        with path.open("rb") as file:
            with Image.open(file) as header:
                found = header.size
            file.seek(0)
            start = file.read(4)
            file.seek(max(0, size - _TAIL))
            tail = start + file.read()
        # Few files have much behind their end mark; only these are read whole.
        if _lacks_end(tail) and _is_truncated(path.read_bytes()):
            return "is truncated"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"is no readable image ({str(error).partition(chr(10))[0]})"
    return size_problem(annotations, image, found)


def _lacks_end(tail: bytes) -> bool:
    return any(tail.startswith(start) and end not in tail for start, end in _END_MARKS)


def size_problem(annotations: Annotations, image: int, found: tuple[int, int]) -> str | None:
    """Compare an image's size with that of the annotations.

    Args:
        annotations: of the data set.
        image: the row.
        found: width and height of the file.

    Returns:
        What is wrong, or None; None too where the annotations do not say.
    """
    width, height = (int(v) for v in annotations.sizes[image])
    if not width or not height or (width, height) == tuple(found):
        return None
    turned = "; its EXIF orientation is not applied here" if (height, width) == found else ""
    return f"is {found[0]}x{found[1]} pixels, the annotations say {width}x{height}{turned}"
