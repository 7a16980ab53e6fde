"""Images that occur twice: the same bytes, or the same picture stored or exposed differently.

An image of the validation set that training has seen makes every figure look better than it is.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Float32, Int64
from detbalance.data.files import points_outside
from detbalance.data.messages import needs

UInt8 = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

HASH_BITS = 1024
# How an export of augmented data names its copies of one picture.
COPY = re.compile(r"([^/\\]+)\.rf\.\w+\.\w+$")
_SIDE = 128  # pixels of the thumbnail; its 32 x 32 lowest frequencies give a bit each
# [32, _SIDE], of the discrete cosine transform (type 2).
_COSINES = np.cos(np.pi * np.arange(32)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE))
_PLAIN = 1.0  # grey levels; below, the hash is made of rounding errors
_THREADS = 8
_CHUNK = 2048  # hashes compared at a time: 8 MB of each set, 16 MB of distances


@dataclass(frozen=True)
class DuplicatePair:
    """Two image files with one picture."""

    first: str
    second: str
    kind: Literal["identical", "near"]
    distance: int


@dataclass(frozen=True)
class Duplicates:
    """What `find_duplicates` found."""

    pairs: tuple[DuplicatePair, ...]
    num_compared: int
    unreadable: tuple[str, ...]
    num_plain: int
    near: int | None

    @property
    def num_identical(self) -> int:
        """How many of the pairs are the same bytes."""
        return sum(pair.kind == "identical" for pair in self.pairs)

    @property
    def num_near(self) -> int:
        """How many of the pairs are the same picture in other bytes."""
        return len(self.pairs) - self.num_identical


def sources_of_copies(annotations: Annotations) -> dict[str, list[int]]:
    """Find the images that are augmented copies by their names, `<source>.rf.<hash>.jpg`."""
    rows: dict[str, list[int]] = {}
    for row in range(annotations.num_images):
        match = COPY.search(annotations.file_name(row))
        if match:
            rows.setdefault(match[1], []).append(row)
    return rows


def find_duplicates(
    train: Annotations,
    train_dir: str | Path,
    val: Annotations | None = None,
    val_dir: str | Path | None = None,
    *,
    near: int | None = 96,
    progress: Progress | None = None,
) -> Duplicates:
    """Find the images of `val` that `train` has too, or those that `train` has twice.

    Near means that the perceptual hashes differ in few bits: the picture was saved again, resized,
    stretched, made grey, brighter or darker. Copies that were cropped by more than 1%, mirrored or
    turned are not found. Images without a pattern have no meaningful hash and are near nothing.
    Photos from a fixed camera in which only small objects moved can be near: look at the pairs, and
    lower `near` where such photos shall count as different.

    Args:
        train: the set to search in.
        train_dir: folder that its file names start from.
        val: the set to look up; None to look for repeats within `train`.
        val_dir: folder that its file names start from; `train_dir` if not given.
        near: bits of 1024 in which two hashes may differ, 0 to 511; None for identical files only,
            which reads few files and needs no library. Measured on four sets: copies differ in 0 to
            112 bits (99 of 100 in at most 96; only saved again, in at most 46), photos of different
            scenes in 410 and more, circuit boards of one layout with other defects in 152 and more.
        progress: called in the calling thread with the files done and their total.

    Returns:
        One pair per image that is there already; k copies within one set are k - 1 pairs.

    Raises:
        ValueError: if `near` is out of range.
        ImportError: if `near` is given and Pillow is missing.

    Source: Zauner, Implementation and benchmarking of perceptual image hash functions, 2010, as
    imagehash.phash has it. Differs: 1024 bits of a 128 pixel thumbnail in place of 64 bits of 32
    pixels, which hardly tell the photos of one fixed camera apart.
    """
    if near is not None and not 0 <= near < HASH_BITS // 2:
        raise ValueError(
            f"find_duplicates(): near is {near}. Expected 0 to {HASH_BITS // 2 - 1} of {HASH_BITS} "
            "bits, or None. Unrelated images differ in about half of them; try 96."
        )
    if near is not None:
        _import_pillow()
    within = val is None
    names, paths = _files_of(train, train_dir)
    searched = len(paths)
    if val is not None:
        more_names, more_paths = _files_of(val, train_dir if val_dir is None else val_dir)
        names, paths = names + more_names, paths + more_paths
    files = _read_all(paths, 0 if within else searched, near is not None, progress)
    # Rows from here on are looked up; in one set, each among those before it.
    start = 0 if within else searched
    twins = _identical([file.digest for file in files], searched, start)
    distances = np.where(twins >= 0, 0, -1)
    identical = twins >= 0
    if near is not None:
        hashed = np.array([i for i, file in enumerate(files) if file.phash], dtype=np.int64)
        wanted = hashed[(hashed >= start) & ~identical[hashed]]
        best, bits = _nearest([file.phash for file in files], hashed[hashed < searched], wanted)
        close = bits <= near
        twins[wanted[close]], distances[wanted[close]] = best[close], bits[close]
    return Duplicates(
        pairs=tuple(
            DuplicatePair(
                first=names[twins[i]],
                second=names[i],
                kind="identical" if identical[i] else "near",
                distance=int(distances[i]),
            )
            for i in np.flatnonzero(twins >= 0)
        ),
        num_compared=sum(file.is_readable for file in files),
        unreadable=tuple(
            name for name, file in zip(names, files, strict=True) if not file.is_readable
        ),
        num_plain=sum(file.is_plain for file in files),
        near=near,
    )


@dataclass(frozen=True)
class _File:
    """What is known about a file after reading it once."""

    digest: bytes | None = None  # only where another file has the same size
    phash: bytes | None = None
    is_plain: bool = False
    is_readable: bool = True


def _files_of(annotations: Annotations, folder: str | Path) -> tuple[list[str], list[Path | None]]:
    """Names to show and paths; an image without a file name has no path."""
    names = [annotations.file_name(i) for i in range(annotations.num_images)]
    paths = [None if not name or points_outside(name) else Path(folder) / name for name in names]
    ids = annotations.image_ids
    return [name or f"image {ids[i]}" for i, name in enumerate(names)], paths


def _read_all(
    paths: list[Path | None], split: int, with_phash: bool, progress: Progress | None
) -> list[_File]:
    """Read what must be read: files whose size occurs on both sides of `split` (0: twice)."""
    files = []
    with ThreadPoolExecutor(_THREADS) as threads:
        sizes = list(threads.map(_size, paths))
        if split:
            shared = set(sizes[:split]) & set(sizes[split:])
        else:
            shared = {size for size, count in Counter(sizes).items() if count > 1}
        read = partial(_read, shared=shared, with_phash=with_phash)
        for file in threads.map(read, paths, sizes):
            files.append(file)
            if progress is not None:
                progress(len(files), len(paths))
    return files


def _size(path: Path | None) -> int | None:
    try:
        return None if path is None else path.stat().st_size
    except OSError:
        return None


def _read(path: Path | None, size: int | None, shared: set[int | None], with_phash: bool) -> _File:
    if path is None or size is None or not path.is_file():
        return _File(is_readable=False)
    if size not in shared and not with_phash:
        return _File()
    try:
        data = path.read_bytes()
    except OSError:
        return _File(is_readable=False)
    digest = hashlib.blake2b(data).digest() if size in shared else None
    if not with_phash:
        return _File(digest)
    try:
        phash = _phash(data)
    except Exception:  # decoders raise whatever a damaged file makes them stumble over
        return _File(digest, is_readable=False)
    return _File(digest, phash, is_plain=phash is None)


def _phash(data: bytes) -> bytes | None:
    """The perceptual hash of an encoded image, or None for an image without a pattern."""
    pil = _import_pillow()
    with pil.open(io.BytesIO(data)) as image:
        # JPEG decodes several times faster at a fraction of the size, if that is above the given.
        image.draft("L", (2 * _SIDE, 2 * _SIDE))
        if image.mode[0] in "IF":
            # Conversion would cut these off at 255: a 16-bit image would be all white.
            values = np.asarray(image, np.float64)
            low, high = values.min(), values.max()
            scaled = (values - low) * (255 / max(high - low, 1e-9))
            image = pil.fromarray(scaled.astype(np.uint8))
        small = image.convert("L").resize((_SIDE, _SIDE), pil.Resampling.LANCZOS)
    grey = np.asarray(small, np.float32)
    # Flat images, stripes and gradients have only zeros beyond the first row and column of
    # frequencies: the hash of one would match that of every other.
    pattern = grey - grey.mean(0) - grey.mean(1, keepdims=True) + grey.mean()
    if pattern.std() < _PLAIN:
        return None
    # The lowest frequencies of a cosine transform, against their median.
    low = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    return np.packbits(low > np.median(low)).tobytes()


def _import_pillow() -> Any:
    """Import Pillow's Image, or say how to install it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise needs("finding near-duplicates", "Pillow", "plan") from error
    return Image


def _identical(digests: list[bytes | None], searched: int, start: int) -> Int64:
    """For each row from `start` on, the first of the rows below `searched` and itself, or -1."""
    twins = np.full(len(digests), -1, dtype=np.int64)
    first: dict[bytes, int] = {}
    for i, digest in enumerate(digests):
        if digest is None:
            continue
        if i >= start:
            twins[i] = first.get(digest, -1)
        if i < searched:
            first.setdefault(digest, i)
    return twins


def _nearest(hashes: list[bytes | None], searched: Int64, wanted: Int64) -> tuple[Int64, Int64]:
    """For each row of `wanted`, the nearest row of `searched` before it, and their distance."""
    best = np.full(len(wanted), -1, dtype=np.int64)
    agreement = np.full(len(wanted), -HASH_BITS - 1, dtype=np.float32)
    for left in range(0, len(wanted), _CHUNK):
        rows = wanted[left : left + _CHUNK]
        own, part = _signs(hashes, rows), slice(left, left + _CHUNK)
        for right in range(0, len(searched), _CHUNK):
            others = searched[right : right + _CHUNK]
            if others[0] >= rows[-1]:
                break
            product = own @ _signs(hashes, others).T
            if others[-1] >= rows[0]:
                product[rows[:, None] <= others] = -HASH_BITS - 1  # itself, and later ones
            position = product.argmax(axis=1)
            found = product[np.arange(len(rows)), position]
            better = found > agreement[part]
            best[part][better] = others[position[better]]
            agreement[part][better] = found[better]
    return best, ((HASH_BITS - agreement) / 2).astype(np.int64)


def _signs(hashes: list[bytes | None], rows: Int64) -> Float32:
    """Hashes as float32 [rows, 1024] of +1 and -1."""
    packed = np.frombuffer(b"".join(hashes[i] or b"" for i in rows), dtype=np.uint8)
    signs = np.unpackbits(packed.reshape(len(rows), -1), axis=1).astype(np.float32)
    signs *= 2
    signs -= 1
    return signs
