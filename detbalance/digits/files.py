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

from detbalance.digits.scenes import SIDE, draw_glyph, draw_scene
from detbalance.installation import needs

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Most frequent first. Not in the order of the digits, and no group is all easy or all hard; each of
# the rare ones has a more frequent double (two-three, seven-one, four-nine), as rare classes do.
FREQUENCY_ORDER = (8, 1, 3, 0, 5, 9, 6, 2, 7, 4)
_MOST, _LEAST = 0.6, 0.005  # fraction of the train images with the most, the least frequent class
_VAL = 0.2  # the same for every class: rare classes need enough boxes to be measured
_MOST_CLASSES = 5  # in one image, so that all digits find a place
_TWICE = 0.15  # chance that a class that is in an image is in it a second time
_MARKER = "digits.json"
_RECIPE = 1  # raised whenever the drawing changes, so that older files are built anew


@dataclass(frozen=True)
class DigitsPaths:
    """Where the files of the data set are.

    Attributes:
        train: COCO annotation file of the training images.
        val: COCO annotation file of the validation images.
        train_images_dir: folder that the file names in `train` are relative to.
        val_images_dir: folder that the file names in `val` are relative to.
    """

    train: Path
    val: Path
    train_images_dir: Path
    val_images_dir: Path


def make_digits(
    root: str | Path, *, seed: int = 0, train_images: int = 1200, val_images: int = 300
) -> DigitsPaths:
    """Write the digits data set, or reuse the one that is already there.

    The same seed gives the same files (byte for byte with the same Pillow; another Pillow may
    compress the same pixels differently). No scan is used on both sides of the split. The data is
    built beside `root` and moved there complete, so that an interrupted call leaves nothing in it.

    Args:
        root: folder to write; it is created. Data of other settings in it is replaced.
        seed: chooses scans, scenes and places, >= 0.
        train_images: number of training images, >= 10.
        val_images: number of validation images, >= 10.

    Returns:
        The paths of the two annotation files and the two image folders.

    Raises:
        ValueError: if a number is too small, or if `root` holds files that are not this data set.
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
    settings = {
        "recipe": _RECIPE,
        "seed": seed,
        "train_images": train_images,
        "val_images": val_images,
    }
    paths = DigitsPaths(root / "train.json", root / "val.json", root / "train", root / "val")
    if _is_complete(paths, settings):
        return paths
    _refuse_foreign_files(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        _build(building / "new", settings)
        if root.exists() and not _is_complete(paths, settings):
            root.rename(building / "old")
        if not root.exists():  # another process may have built the same data meanwhile
            (building / "new").rename(root)
    finally:
        shutil.rmtree(building)
    return paths


def _is_complete(paths: DigitsPaths, settings: dict[str, int]) -> bool:
    try:
        found = json.loads((paths.train.parent / _MARKER).read_bytes())
    except (OSError, ValueError):
        return False
    return (
        found == settings
        and paths.train.is_file()
        and paths.val.is_file()
        and len(list(paths.train_images_dir.glob("*.png"))) == settings["train_images"]
        and len(list(paths.val_images_dir.glob("*.png"))) == settings["val_images"]
    )


def _refuse_foreign_files(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise ValueError(f"{root}: this is a file. Expected a folder. Choose another path.")
    names = {path.name for path in root.iterdir()}
    ours = {"train.json", "val.json", "train", "val", _MARKER} if _MARKER in names else set()
    if foreign := sorted(names - ours):
        raise ValueError(
            f"{root}: the folder holds {len(foreign)} other files (first: {foreign[0]}). Expected a"
            " new or empty folder, or one that make_digits wrote. Choose another folder."
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
        raise needs("detbalance.digits", "scikit-learn and Pillow", "quickstart") from error
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
        name = f"{index + 1:05d}.png"
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
