"""What is wrong with the files, or worth knowing before training on them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detbalance.data import Annotations, repeated_boxes
from detbalance.data.categories import shorten
from detbalance.data.duplicates import DuplicatePair, Progress, find_duplicates, sources_of_copies
from detbalance.data.frequency import crowd_only
from detbalance.data.images import check_images
from detbalance.data.messages import counted
from detbalance.planning.plan import Finding
from detbalance.planning.recommendation import CROWD_ADVICE

_SHOWN = 3  # images or names that a finding names
_NEARLY_ALL, _SURELY = 0.8, 0.95  # of the boxes
_MANY = 20  # boxes, so that none lies at an edge by chance
_PIXEL = 1.0
# Kinds after which the figures of a plan say little.
UNSOUND = {
    "left out",
    "boxes below one pixel",
    "boxes as corners",
    "boxes as centres",
    "boxes beyond",
}
# Shorter names that differ in a letter are mostly two words.
_LONG_NAME = 6


def _finding(annotations: Annotations, kind: str, count: int, text: str) -> Finding:
    return Finding(annotations.source, kind, count, text, is_fault=True)


def file_findings(annotations: Annotations) -> Iterator[Finding]:
    """What loading found in one file, what it took though nobody means it, and LVIS's lists."""
    for fault in annotations.faults:
        if fault.kind != "crowd only":  # said with what to do by `_crowd_only`
            text = f"{fault}{'' if fault.is_note else '; not counted here'}"
            file, kind, count = annotations.source, fault.kind, fault.count
            yield Finding(file, kind, count, text, is_fault=not fault.is_note)
    for find in (_left_out, _crowd_only, _box_format, _repeats, _listed_twice, _copies, _lvis):
        yield from find(annotations)


def _left_out(annotations: Annotations) -> Iterator[Finding]:
    left_out = annotations.num_left_out
    listed = annotations.num_annotations + left_out
    if left_out > 0.1 * listed:  # so much that the rest says little about the data
        text = (
            f"{left_out:,} of {listed:,} annotations ({left_out / listed:.0%}) are left out for"
            " faults: all figures here are of the others. Mend the file first"
        )
        yield _finding(annotations, "left out", left_out, text)


def _crowd_only(annotations: Annotations) -> Iterator[Finding]:
    regions = crowd_only(annotations)
    number = sum(regions.values())
    if not number:
        return
    of = f" of {shorten(list(regions), _SHOWN)}" if number < annotations.num_annotations else ""
    subject = "the only annotation{} is a" if number == 1 else f"all {number:,} annotations{{}} are"
    regions_are = f"{subject.format(of)} crowd region{'' if number == 1 else 's'} (iscrowd 1)"
    text = f"{regions_are}: neither learnt nor measured. {CROWD_ADVICE.removesuffix('.')}"
    yield _finding(annotations, "crowd only", number, text)


def _box_format(annotations: Annotations) -> Iterator[Finding]:
    """Boxes that are whole and plausible once they are read in another format."""
    bbox, sizes = annotations.bbox, annotations.sizes[annotations.image_index]
    number = len(bbox)
    if not number:
        return
    small = int((bbox[:, 2:] < _PIXEL).all(axis=1).sum())
    if small >= _NEARLY_ALL * number:
        text = (
            f"{small:,} of {counted(number, 'box')} are smaller than a pixel, as fractions"
            " of the image would be. x, y, width and height are expected, in pixels"
        )
        yield _finding(annotations, "boxes below one pixel", small, text)
        return
    low, high = bbox[:, :2], bbox[:, 2:]
    limits = np.where(sizes > 0, sizes + _PIXEL, np.inf)
    beyond = int((low + high > limits).any(axis=1).sum())
    outside = f"{beyond:,} of {counted(number, 'box')} reach beyond their image"
    is_corners = (high > low).all(axis=1)
    # Areas that are those of corners, and not width x height, give them away at once.
    areas = [sides.prod(axis=1) for sides in (high - low, high)]
    of_corners, of_sides = (np.isclose(area, annotations.areas, rtol=1e-3) for area in areas)
    by_area = int((is_corners & of_corners & ~of_sides).sum())
    corners = is_corners & (high <= limits).all(axis=1)
    centres = ((low - high / 2 >= -_PIXEL) & (low + high / 2 <= limits)).all(axis=1)
    expected = "x, y, width and height are expected, in pixels"
    if by_area >= _NEARLY_ALL * number:
        text = f"the area of {by_area:,} of {counted(number, 'box')} is that of x1, y1, x2, y2"
        yield _finding(annotations, "boxes as corners", by_area, f"{text}. {expected}")
    elif beyond >= number / 2 and corners.mean() >= _SURELY:
        text = f"{outside}, but not when bbox is read as x1, y1, x2, y2. {expected}"
        yield _finding(annotations, "boxes as corners", beyond, text)
    elif number >= _MANY and beyond >= number / 10 and centres.all():
        text = f"{outside}, but not when x, y of bbox are read as the centre. {expected}"
        yield _finding(annotations, "boxes as centres", beyond, text)
    elif beyond >= _NEARLY_ALL * number:
        text = (
            f"{outside}. Of other sizes, or in another format? {expected} of the images as listed"
        )
        yield _finding(annotations, "boxes beyond", beyond, text)


def _repeats(annotations: Annotations) -> Iterator[Finding]:
    repeated = repeated_boxes(annotations)
    number = int(repeated.sum())
    if number:
        images = len(np.unique(annotations.image_index[repeated]))
        first = annotations.file_name(int(annotations.image_index[repeated.argmax()]))
        text = (
            f"{counted(number, 'box')} in {counted(images, 'image')}"
            f" {'repeats' if number == 1 else 'repeat'} a box of the same class exactly (first in"
            f" {first or 'an image without a name'}): found once, missed the other times. Remove"
            " the repeats"
        )
        yield _finding(annotations, "repeated box", number, text)


def _listed_twice(annotations: Annotations) -> Iterator[Finding]:
    counts = Counter(annotations.file_names)
    twice = [name.decode() for name, count in counts.items() if count > 1 and name]
    if twice:
        names, them = ("file name is", "it") if len(twice) == 1 else ("file names are", "them")
        text = (
            f"{len(twice)} {names} listed under several image ids ({shorten(twice, _SHOWN)}): one"
            f" picture counted as several. Put the boxes of each under one id. Until then"
            f" detbalance split keeps {them} on one side"
        )
        yield _finding(annotations, "file listed twice", len(twice), text)


def _copies(annotations: Annotations) -> Iterator[Finding]:
    sources = sources_of_copies(annotations)
    images = sum(len(rows) for rows in sources.values() if len(rows) > 1)
    if images:
        several = sum(len(rows) > 1 for rows in sources.values())
        text = (
            f"{images:,} images are augmented copies (.rf. in their names) of"
            f" {counted(several, 'picture')}: the counts are of copies. detbalance split keeps"
            " those of one picture on one side"
        )
        yield Finding(annotations.source, "augmented copies", images, text, is_fault=False)


def _lvis(annotations: Annotations) -> Iterator[Finding]:
    lists = {
        "neg_category_ids": annotations.neg_labels,
        "not_exhaustive_category_ids": annotations.not_exhaustive_labels,
    }
    if listed := [key for key, labels in lists.items() if labels is not None]:
        text = (
            f"the images have {' and '.join(listed)} (LVIS): a class that an image does not show"
            " may still be in it. Of the losses, federated reads these lists"
        )
        number = annotations.num_images
        yield Finding(annotations.source, "LVIS lists", number, text, is_fault=False)


def copies_in_both(train: Annotations, val: Annotations) -> Iterator[Finding]:
    """Find images of val whose source has other copies in train."""
    sources = sources_of_copies(train).keys()
    rows = {name: rows for name, rows in sources_of_copies(val).items() if name in sources}
    images = sum(map(len, rows.values()))
    if images:
        text = (
            f"{counted(images, 'image')} {'is a copy' if images == 1 else 'are copies'} of pictures"
            f" that {train.source} has augmented copies of ({shorten(sorted(rows), _SHOWN)}): val"
            " measures what was learnt by heart. Split again, all copies of a picture on one side"
        )
        yield _finding(val, "augmented copies", images, text)


def near_names(train: Annotations, val: Annotations | None) -> Iterator[Finding]:
    """Find classes whose names differ in case, spaces, signs, a plural s or one letter."""
    names = list(train.categories.names)
    where = train.source
    if val is not None:
        names += [name for name in val.categories.names if name not in names]
        where = train.source if len(names) == train.categories.num_categories else val.source
    pairs = near_pairs(names)
    if pairs:
        shown = shorten([f'"{a}" and "{b}"' for a, b in pairs], _SHOWN)
        text = (
            f"{counted(len(pairs), 'pair')} of classes with nearly one name ({shown}). Where they"
            " are one class, give it one name and one id"
        )
        yield Finding(where, "similar class names", len(pairs), text, is_fault=True)


def near_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names with one spelling but for case, spaces, signs, plural or a letter."""
    seen: dict[tuple[str, int, str], str] = {}
    pairs = []
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        plain = "".join(letter for letter in folded if letter.isalnum()) or folded
        inner = range(1, len(plain) - 1) if len(plain) >= _LONG_NAME else ()
        rests = {i: plain[:i] + plain[i + 1 :] for i in inner if plain[i].isalpha()}
        replaced = [("replaced", i, rest) for i, rest in rests.items()]
        left = {*rests.values(), *([plain[:-1]] if plain.endswith("s") else [])}
        whole, lacking = ("whole", 0, plain), ("lacking", 0, plain)
        keys = [whole, lacking, *replaced, *(("whole", 0, text) for text in left)]
        near = dict.fromkeys(seen[key] for key in keys if key in seen)
        pairs += [(other, name) for other in near]
        for key in (whole, *replaced, *(("lacking", 0, text) for text in left)):
            seen.setdefault(key, name)
    return pairs


def same_names(train: Annotations, val: Annotations) -> Iterator[Finding]:
    """Find images that both files list under one name."""
    if names := set(train.file_names) & set(val.file_names) - {b""}:
        verb = "file name is" if len(names) == 1 else "file names are"
        shown = _shown(sorted(name.decode() for name in names))
        text = (
            f"{len(names)} {verb} in {train.source} too ({shown}). Where they are the same images,"
            " val measures what was learnt by heart. Pass --images and --val-images to compare the"
            " pixels"
        )
        yield _finding(val, "same file name", len(names), text)


def duplicate_findings(
    train: Annotations,
    train_dir: str | Path,
    val: Annotations | None = None,
    val_dir: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> list[Finding]:
    """Look for images that are in both sets, or without a validation set twice in one.

    Args:
        train: the training file.
        train_dir: folder of its images.
        val: the validation file, or None.
        val_dir: folder of its images; `train_dir` if not given.
        progress: called with the files done and their total.

    Returns:
        What was found, for `make_plan`: identical files, similar pictures, and files that training
        cannot use.

    Raises:
        ImportError: if Pillow is missing.
    """
    result = find_duplicates(train, train_dir, val, val_dir, progress=progress)
    where, other = (train, "here twice") if val is None else (val, f"in {train.source} too")
    findings = []
    # A file that is listed twice is a finding without a look at the images.
    pairs = [pair for pair in result.pairs if val is not None or pair.first != pair.second]
    identical = [pair for pair in pairs if pair.kind == "identical"]
    if identical:
        text = (
            f"{_images(identical)} byte for byte {other} ({_pairs(identical)}). Leave"
            f" {'one of each' if val is None else 'them'} out"
        )
        findings.append(_finding(where, "identical image", len(identical), text))
    near = [pair for pair in pairs if pair.kind == "near"]
    if near:
        text = (
            f"{_images(near)} nearly the same picture {other} ({_pairs(near)}). Look at them:"
            " photos of one fixed camera can be that alike"
        )
        findings.append(_finding(where, "similar image", len(near), text))
    findings += _unusable(train, train_dir)
    if val is not None:
        findings += _unusable(val, train_dir if val_dir is None else val_dir)
    return findings


def _unusable(annotations: Annotations, image_dir: str | Path) -> Iterator[Finding]:
    """What training says of the files: missing, damaged, of another size."""
    if bad := check_images(annotations, image_dir, decode=True):
        number = len(bad)
        shown = "; ".join(f"{name} {problem}".lstrip() for name, problem in [*bad.items()][:_SHOWN])
        text = (
            f"{number} of {annotations.num_images} images cannot be used ({shown}"
            f"{'; ...' if number > _SHOWN else ''}). Correct the folder or the file, or train with"
            " data.skip_missing: true"
        )
        yield _finding(annotations, "unusable image", number, text)


def _images(pairs: Sequence[DuplicatePair]) -> str:
    return "1 image is" if len(pairs) == 1 else f"{len(pairs)} images are"


def _pairs(pairs: Sequence[DuplicatePair]) -> str:
    return _shown([f"{pair.second} as {pair.first}" for pair in pairs])


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
