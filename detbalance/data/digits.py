"""Which digit is in which image, and the files: COCO JSON and PNG, complete or not there."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.data.digit_scenes import SIDE, draw_glyph, draw_scene
from detbalance.data.messages import needs

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Most frequent first. Not in the order of the digits, and no group is all easy or all hard; each of
# the rare ones has a more frequent double (two-three, seven-one, four-nine), as rare classes do.
FREQUENCY_ORDER = (8, 1, 3, 0, 5, 9, 6, 2, 7, 4)
_MOST, _LEAST = 0.6, 0.005  # fraction of the train images with the most, the least frequent class
_VAL = 0.2  # the same for every class: rare classes need enough boxes to be measured
_MOST_CLASSES = 5  # in one image, so that all digits find a place
_TWICE = 0.15  # chance that a class that is in an image is in it a second time
_LARGEST = 100_000  # images of a part
_MARKER = "digits.json"
_RECIPE = 1  # raised whenever the drawing changes, so that older files are built anew


@dataclass(frozen=True)
class DigitsPaths:
    """Where the files of the data set are."""

    train: Path
    val: Path
    train_images_dir: Path
    val_images_dir: Path


def make_digits(
    root: str | Path,
    *,
    seed: int = 0,
    train_images: int = 1200,
    val_images: int = 300,
    overwrite: bool = False,
) -> DigitsPaths:
    """Write the digits data set, or reuse the one that is already there.

    The same seed gives the same files (byte for byte with the same Pillow; another Pillow may
    compress the same pixels differently). No scan is used on both sides of the split. The data is
    built beside `root` and moved there complete, so that an interrupted call leaves nothing in it.
    Files that are missing from the data set are put back; no other file is touched.

    Args:
        root: folder to write; it is created.
        seed: chooses scans, scenes and places, >= 0.
        train_images: number of training images, 10 to 100,000.
        val_images: number of validation images, 10 to 100,000.
        overwrite: replace a data set of other settings that `root` holds.

    Returns:
        The paths of the two annotation files and the two image folders.

    Raises:
        ValueError: if a number is out of range, if `root` holds a data set of other settings and
            `overwrite` is False, or if files would be lost that this function has not written.
        ImportError: if scikit-learn or Pillow is missing.
    """
    root = Path(root)
    for name, value, least in (
        ("seed", seed, 0),
        ("train_images", train_images, 10),
        ("val_images", val_images, 10),
    ):
        if value < least:
            raise ValueError(
                f"make_digits: {name} is {value}. Expected at least {least}. Raise {name}."
            )
        if name != "seed" and value > _LARGEST:
            raise ValueError(
                f"make_digits: {name} is {value}. Expected at most {_LARGEST}. Lower {name}."
            )
    settings = {
        "recipe": _RECIPE,
        "seed": seed,
        "train_images": train_images,
        "val_images": val_images,
    }
    paths = DigitsPaths(root / "train.json", root / "val.json", root / "train", root / "val")
    found = _found_settings(root)
    if found == settings and not _missing(root, settings):
        return paths
    if found != settings:
        _refuse_loss(root, found, settings, overwrite)
    root.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        _build(building / "new", settings)
        if found is not None and _found_settings(root) != settings:
            root.rename(building / "old")
        if not root.exists():
            (building / "new").rename(root)
        for name in _missing(root, settings):
            (root / name).parent.mkdir(exist_ok=True)
            (building / "new" / name).rename(root / name)
    finally:
        shutil.rmtree(building)
    return paths


def _found_settings(root: Path) -> dict[str, int] | None:
    """What the data set in a folder was made with; None where there is none."""
    try:
        found = json.loads((root / _MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and all(
        isinstance(found.get(name), int) and found[name] <= _LARGEST
        for name in ("train_images", "val_images")
    )
    return found if known else None


def _files(settings: dict[str, int]) -> list[str]:
    """What a data set consists of, the marker last."""
    images = [
        f"{part}/{_image_name(number)}"
        for part in ("train", "val")
        for number in range(settings[f"{part}_images"])
    ]
    return [*images, "train.json", "val.json", _MARKER]


def _image_name(number: int) -> str:
    return f"{number + 1:05d}.png"


def _missing(root: Path, settings: dict[str, int]) -> list[str]:
    return [name for name in _files(settings) if not (root / name).is_file()]


def _refuse_loss(
    root: Path, found: dict[str, int] | None, settings: dict[str, int], overwrite: bool
) -> None:
    """Refuse to replace what nobody asked to replace, and whatever else lies in the folder."""
    if not root.exists():
        return
    if not root.is_dir():
        raise ValueError(f"{root}: this is a file. Expected a folder. Choose another path.")
    ours = {"train", "val", *_files(found)} if found else set()
    names = {path.relative_to(root).as_posix() for path in root.rglob("*")}
    if foreign := sorted(names - ours):
        count = "1 other file" if len(foreign) == 1 else f"{len(foreign)} other files"
        raise ValueError(
            f"{root}: the folder holds {count} (first: {foreign[0]}). Expected a new or empty"
            " folder, or one that holds only what make_digits wrote. Choose another folder."
        )
    if found and not overwrite:
        other = ", ".join(f"{k} {found.get(k)}" for k, v in settings.items() if found.get(k) != v)
        raise ValueError(
            f"{root}: holds the digits of other settings ({other}). Expected a new or an empty"
            " folder. Choose another one, or pass --overwrite to replace them."
        )


def _build(folder: Path, settings: dict[str, int]) -> None:
    scans = _load_scans()
    seeds = np.random.SeedSequence(settings["seed"]).spawn(3)
    generator = np.random.default_rng(seeds[0])
    orders = [generator.permutation(len(of_digit)) for of_digit in scans]
    shares = {
        digit: _MOST * (_LEAST / _MOST) ** (rank / 9) for rank, digit in enumerate(FREQUENCY_ORDER)
    }
    folder.mkdir()
    for part, seed in (("train", seeds[1]), ("val", seeds[2])):
        pools = []
        for of_digit, order in zip(scans, orders, strict=True):
            cut = len(order) * 3 // 5
            pools.append(of_digit[order[:cut] if part == "train" else order[cut:]])
        fractions = [shares[digit] if part == "train" else _VAL for digit in range(10)]
        _build_part(folder, part, settings[f"{part}_images"], fractions, pools, seed)
    # Last, so that a folder with a marker is always a complete one.
    (folder / _MARKER).write_text(json.dumps(settings, indent=1) + "\n")


def _load_scans() -> list[NDArray[np.uint8]]:
    """Load the scans of each digit, uint8 [n, 8, 8] in 0..255."""
    try:
        import PIL  # noqa: F401 - imported here to fail before anything is written
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise needs("detbalance.data.digits", "scikit-learn and Pillow", "quickstart") from error
    data = load_digits()
    images = (data.images.astype(np.int64) * 255 // 16).astype(np.uint8)
    return [images[data.target == digit] for digit in range(10)]


def _build_part(
    folder: Path,
    part: str,
    num_images: int,
    fractions: list[float],
    pools: list[NDArray[np.uint8]],
    seed: np.random.SeedSequence,
) -> None:
    from PIL import Image

    generator = np.random.default_rng(seed)
    contents = _assign_digits(num_images, fractions, generator)
    used = [0] * 10
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / part).mkdir()
    for index, digits in enumerate(contents):
        glyphs = []
        for digit in digits:
            scan = pools[digit][used[digit] % len(pools[digit])]
            used[digit] += 1
            glyphs.append(draw_glyph(scan, generator))
        scene, boxes = draw_scene(glyphs, generator)
        name = _image_name(index)
        Image.fromarray(scene).save(folder / part / name, compress_level=1)
        images.append({"id": index + 1, "file_name": name, "width": SIDE, "height": SIDE})
        for digit, (x, y, width, height) in zip(digits, boxes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": digit + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [
        {"id": digit + 1, "name": name, "supercategory": "digit"}
        for digit, name in enumerate(NAMES)
    ]
    info = {
        "description": f"Handwritten digits in generated scenes, {part}, made by detbalance.digits;"
        " scans from UCI Optical Recognition of Handwritten Digits (CC BY 4.0)"
    }
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (folder / f"{part}.json").write_text(json.dumps(content))


def _assign_digits(
    num_images: int, fractions: list[float], generator: np.random.Generator
) -> list[list[int]]:
    """Choose the digits of each image; each class gets its exact number of images."""
    contents: list[list[int]] = [[] for _ in range(num_images)]
    for digit in FREQUENCY_ORDER:
        # Up, not to the nearest: also in a small set every class is there.
        wanted = math.ceil(fractions[digit] * num_images - 1e-9)
        for index in generator.permutation(num_images):
            if wanted == 0:
                break
            if len(set(contents[index])) < _MOST_CLASSES:
                contents[index] += [digit] * (1 + int(generator.random() < _TWICE))
                wanted -= 1
    return contents
