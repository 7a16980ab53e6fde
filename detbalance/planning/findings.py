"""What is wrong with the files, or worth knowing before training on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detbalance.data import Annotations
from detbalance.data.duplicates import DuplicatePair, Progress, find_duplicates
from detbalance.data.images import check_images
from detbalance.planning.doubts import doubtful
from detbalance.planning.plan import Finding

_SHOWN = 3  # images that a finding names


def file_findings(annotations: Annotations) -> list[Finding]:
    """List what loading found in one file, and what its lists mean for training."""
    found = [
        Finding(
            file=annotations.source,
            kind=fault.kind,
            count=fault.count,
            text=f"{fault}{'' if fault.is_note else '; not counted here'}",
            is_fault=not fault.is_note,
        )
        for fault in annotations.faults
        if fault.kind != "crowd only"  # said with what to do by `doubtful`
    ]
    found += doubtful(annotations)
    listed = [
        key
        for key, lists in (
            ("neg_category_ids", annotations.neg_labels),
            ("not_exhaustive_category_ids", annotations.not_exhaustive_labels),
        )
        if lists is not None
    ]
    if listed:
        found.append(
            Finding(
                file=annotations.source,
                kind="LVIS lists",
                count=annotations.num_images,
                text=f"the images have {' and '.join(listed)} (LVIS): a class that an image does"
                " not show may still be in it. Of the losses, federated reads these lists",
                is_fault=False,
            )
        )
    return found


def same_names(train: Annotations, val: Annotations) -> list[Finding]:
    """Find images that both files list under one name."""
    names = set(train.file_names) & set(val.file_names) - {b""}
    if not names:
        return []
    verb = "file name is" if len(names) == 1 else "file names are"
    shown = _shown(sorted(name.decode() for name in names))
    text = (
        f"{len(names)} {verb} in {train.source} too ({shown}). Where they are the same images, val"
        " measures what was learnt by heart. Pass --images and --val-images to compare the pixels"
    )
    return [Finding(val.source, "same file name", len(names), text, is_fault=True)]


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
        ImportError: if imagehash or Pillow is missing.
    """
    result = find_duplicates(train, train_dir, val, val_dir, progress=progress)
    where, other = (train, "here twice") if val is None else (val, f"in {train.source} too")
    found = []
    # A file that is listed twice is a finding without a look at the images.
    pairs = [pair for pair in result.pairs if val is not None or pair.first != pair.second]
    identical = [pair for pair in pairs if pair.kind == "identical"]
    if identical:
        text = (
            f"{_images(identical)} byte for byte {other} ({_pairs(identical)}). Leave"
            f" {'one of each' if val is None else 'them'} out"
        )
        found.append(Finding(where.source, "identical image", len(identical), text, is_fault=True))
    near = [pair for pair in pairs if pair.kind == "near"]
    if near:
        text = (
            f"{_images(near)} nearly the same picture {other} ({_pairs(near)}). Look at them:"
            " photos of one fixed camera can be that alike"
        )
        found.append(Finding(where.source, "similar image", len(near), text, is_fault=True))
    found += _unusable(train, train_dir)
    if val is not None:
        found += _unusable(val, train_dir if val_dir is None else val_dir)
    return found


def _unusable(annotations: Annotations, image_dir: str | Path) -> list[Finding]:
    """What training says of the files: missing, damaged, of another size."""
    bad = check_images(annotations, image_dir, decode=True)
    if not bad:
        return []
    number = len(bad)
    shown = "; ".join(f"{name} {problem}".lstrip() for name, problem in [*bad.items()][:_SHOWN])
    text = (
        f"{number} of {annotations.num_images} images cannot be used ({shown}"
        f"{'; ...' if number > _SHOWN else ''}). Correct the folder or the file, or train with"
        " data.skip_missing: true"
    )
    return [Finding(annotations.source, "unusable image", number, text, is_fault=True)]


def _images(pairs: Sequence[DuplicatePair]) -> str:
    return "1 image is" if len(pairs) == 1 else f"{len(pairs)} images are"


def _pairs(pairs: Sequence[DuplicatePair]) -> str:
    return _shown([f"{pair.second} as {pair.first}" for pair in pairs])


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
