"""Damage valid files in random ways, and see that every reader ends in a result or in our words.

`python tools/fuzz.py [READER ...] [--inputs N] [--seconds S] [--seed K]` makes N damaged copies for
each reader (fewer where S seconds are over first) and reads them. A reader may succeed, or raise
ValueError with one line that names the file; anything else (another error, a line of a library, a
killed process, more than 10 seconds) is printed with what repeats it: `--seed K --only NUMBER`.
Status 1 if there was any.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")

SLOW = 10.0  # seconds for one small file
CHUNK = 250  # inputs of one child process: what kills it costs no more
# Words of libraries: a user who reads them is told nothing, or to load unsafely.
FOREIGN = ("weights_only=False", "Traceback", "object has no attribute", "not supported between")
ODD: list[Any] = [
    None, True, "", "x", "1", "nan", "1e999", "\x1b[31m", "../../x", "a" * 5000, 0, 1, -1, 2, 0.5,
    -0.0, 1e-320, 1e308, float("nan"), float("inf"), 2**31, 2**53 + 1, 2**63, -(2**63), 2**64,
    10**400, [], {}, [[]], [None], [0], [1, 2, 3, 4], [[1, 2], [3]], {"a": 1}, {"": []},
    list(range(300)), [1e9] * 4, [float("nan")] * 4, "9" * 30, "2020-02-30",
]  # fmt: skip

YAML_TRAPS = [
    "a: &a [1]\nb: *a", "? [x]\n: 1", "!!python/object:os.x {}", "x: 2020-02-30", "\t-", "<<: 1",
    "[" * 3000, "- " * 500 + "x", "%YAML 9", "--- 1\n--- 2", "a: !!binary '*'", "x: 1e9999",
]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        make: writes a valid file, or a folder of them, and returns it; called once.
        damage: writes a damaged copy of the first to the second, by the generator.
        read: what is tried; it gets the path of the copy.
        share: of the inputs of the others; slow readers get fewer.
    """

    make: Callable[[Path], Path]
    damage: Callable[[Path, Path, random.Random], None]
    read: Callable[[Path], object]
    share: float = 1.0


# How a value is damaged.


def damaged(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one to four places changed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _changed(value, rng)
    return value


def _changed(value: Any, rng: random.Random) -> Any:
    """One place changed, found by going down at random."""
    inner = list(value) if isinstance(value, dict) else range(len(value)) if _is_list(value) else []
    if not inner or rng.random() < 0.15:
        return _other(value, rng)
    key = rng.choice(list(inner))
    how = rng.random()
    if how < 0.1:
        del value[key]
    elif how < 0.15 and isinstance(value, list):
        value.insert(key, copy.deepcopy(value[rng.randrange(len(value))]))
    elif how < 0.2 and isinstance(value, dict):
        value[rng.choice(["", "x", str(key) * 2, str(key).upper()])] = value.pop(key)
    else:
        value[key] = _changed(value[key], rng)
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _other(value: Any, rng: random.Random) -> Any:
    """Something else in place of a value, near it or far from it."""
    near: list[Any] = [[value], {"x": value}, str(value)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        small = value if abs(value) < 1e9 else 1
        near += [-value, value + 1, value - 1, value * 1000, small * 0.3]
    if isinstance(value, str):
        near += [value[1:], value * 2, value + "\n", value.encode().hex()]
    if isinstance(value, list):
        near += [value[1:], value * 2, value[::-1]]
    return rng.choice(near) if rng.random() < 0.35 else copy.deepcopy(rng.choice(ODD))


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """A copy with bits turned, parts cut out, doubled, or replaced, or the end missing."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(data) + 1)
        part = data[start : start + rng.choice((1, 4, 64))]
        how = rng.randrange(5)
        if how == 0:
            data = data[:start]
        elif how == 1:
            data = data[:start] + data[start + len(part) :]
        elif how == 2:
            data = data[:start] + part + data[start:]
        elif how == 3 and part:
            turned = bytes([part[0] ^ (1 << rng.randrange(8))]) + part[1:]
            data = data[:start] + turned + data[start + len(part) :]
        else:
            data = data[:start] + rng.randbytes(len(part)) + data[start + len(part) :]
    return data


def damage_json(source: Path, target: Path, rng: random.Random) -> None:
    """Values of a JSON file, one time in five its bytes."""
    data = source.read_bytes()
    if rng.random() < 0.2:
        target.write_bytes(damaged_bytes(data, rng))
    else:
        text = json.dumps(damaged(json.loads(data), rng), ensure_ascii=rng.random() < 0.5)
        target.write_bytes(text.encode("utf-8", "surrogatepass"))


def damage_yaml(source: Path, target: Path, rng: random.Random) -> None:
    """Values of a YAML file, or its bytes, or one of YAML's own traps put in."""
    import yaml

    text, how = source.read_text(), rng.random()
    if how < 0.3:
        target.write_bytes(damaged_bytes(text.encode(), rng))
        return
    if how < 0.45:
        trap = rng.choice(YAML_TRAPS)
        lines = text.splitlines()
        lines.insert(rng.randrange(len(lines) + 1), " " * rng.choice((0, 2)) + trap)
        target.write_text("\n".join(lines))
        return
    value = damaged(yaml.safe_load(text), rng)
    target.write_text(json.dumps(value, default=str) if how < 0.6 else yaml.safe_dump(value))


def damage_bytes(source: Path, target: Path, rng: random.Random) -> None:
    """The bytes of a file."""
    target.write_bytes(damaged_bytes(source.read_bytes(), rng))


def damage_zip(source: Path, target: Path, rng: random.Random) -> None:
    """One file within a zip file, whose sums stay right; one time in five its bytes."""
    if rng.random() < 0.2:
        damage_bytes(source, target, rng)
        return
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        chosen = rng.choice(names) if rng.random() < 0.5 else names[-1]
        for name in names:
            data = old.read(name)
            if name == chosen:
                try:
                    data = json.dumps(damaged(json.loads(data), rng)).encode()
                except ValueError:
                    data = damaged_bytes(data, rng)
            if name != chosen or rng.random() < 0.95:
                new.writestr(name, data)


def damage_checkpoint(source: Path, target: Path, rng: random.Random) -> None:
    """Values and tensors of a checkpoint, one time in four its zip file."""
    import torch

    if rng.random() < 0.25:
        damage_zip(source, target, rng)
        return
    state = torch.load(source, weights_only=True)
    for _ in range(rng.choice((1, 1, 3))):
        state = _changed_state(state, rng)
    torch.save(state, target)


def _changed_state(value: Any, rng: random.Random) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        tensors: list[Any] = [
            value.reshape(-1)[:1],
            value.double(),
            value.reshape(-1),
            value * 0,
            3.0,
        ]
        tensors += [value.to(torch.int8), torch.full(value.shape, float("nan")), value[None], None]
        return rng.choice(tensors)
    if isinstance(value, dict) and value and rng.random() > 0.1:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            del value[key]
        else:
            value[key] = _changed_state(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() > 0.3:
        place = rng.randrange(len(value))
        value[place] = _changed_state(value[place], rng)
        return value
    return _other(value, rng) if isinstance(value, (str, int, float)) else rng.choice(ODD)


def damage_safetensors(source: Path, target: Path, rng: random.Random) -> None:
    """Arrays and header of a safetensors file, one time in four its bytes."""
    from safetensors.numpy import load, save

    data = source.read_bytes()
    how = rng.random()
    if how < 0.25:
        target.write_bytes(damaged_bytes(data, rng))
        return
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if how < 0.5:
        text = json.dumps(damaged(header, rng)).encode()
        target.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        return
    arrays, meta = load(data), header.get("__metadata__")
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice(list(arrays))
        arrays[name] = _changed_array(arrays[name], rng)
        if rng.random() < 0.15:
            del arrays[name]
        if not arrays:
            break
    if meta and rng.random() < 0.3:
        name = rng.choice(list(meta))
        try:
            meta[name] = json.dumps(damaged(json.loads(meta[name]), rng))
        except ValueError:
            meta[name] = str(_other(meta[name], rng))
    target.write_bytes(save(arrays, metadata=meta))


def _changed_array(values: Any, rng: random.Random) -> Any:
    flat = values.reshape(-1)
    with np.errstate(all="ignore"):
        kinds = [flat, flat[:-1], values[:1], values.astype(np.float64), values.astype(np.int8)]
        kinds += [np.zeros((0, *values.shape[1:]), values.dtype), values[None]]
        spot = values.copy()
        if spot.size:
            odd = [0, 1, -1, 255, 2**31 - 1] + [np.nan, np.inf] * (spot.dtype.kind == "f")
            where = rng.randrange(spot.size)
            spot.reshape(-1)[where] = np.array(rng.choice(odd)).astype(spot.dtype)
        return np.ascontiguousarray(rng.choice([*kinds, spot, spot, spot]))


def damage_features(source: Path, target: Path, rng: random.Random) -> None:
    """The state of a folder of region features, or the length or bytes of one of its files."""
    target.mkdir(exist_ok=True)
    names = sorted(path.name for path in source.iterdir())
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
    name = "state.json" if rng.random() < 0.7 else rng.choice(names)
    damage = damage_json if name == "state.json" else damage_bytes
    damage(source / name, target / name, rng)
    if rng.random() < 0.1:
        (target / rng.choice(names)).unlink()


# Valid files.

# Masks of the square from 2 to 20, and where the three boxes of an image are.
_SQUARE = [[2, 2, 20, 2, 20, 20, 2, 20]]
_RLE = {"size": [64, 64], "counts": [130, 18] + [46, 18] * 17 + [2860]}
_PLACES = [(2, 2), (40, 4), (20, 42)]


def coco(images: int = 4) -> dict[str, Any]:
    """A small annotation file with polygons, run lengths, a crowd region and LVIS's lists."""
    shapes: list[Any] = [_SQUARE, _RLE, [], _SQUARE]
    return {
        "info": {},
        "images": [
            {
                "id": 10 + i, "file_name": f"{i}.png", "width": 64, "height": 64,
                "neg_category_ids": [2], "not_exhaustive_category_ids": [],
            }
            for i in range(images)
        ],
        "annotations": [
            {
                "id": i + 1, "image_id": 10 + i % images, "category_id": 1 + i % 2, "area": 324,
                "bbox": [*_PLACES[i // images], 18, 18], "iscrowd": int(i == 5),
                "segmentation": shapes[i % 4] if i < images else [],
            }
            for i in range(3 * images)
        ],
        "categories": [
            {"id": 1, "name": "bolt", "supercategory": "part"},
            {"id": 2, "name": "crack", "supercategory": "fault"},
        ],
    }  # fmt: skip


def write_coco(folder: Path) -> Path:
    """An annotation file, with its images beside it."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for i in range(4):
        pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    path = folder / "train.json"
    path.write_text(json.dumps(coco()))
    return path


def write_results(folder: Path) -> Path:
    """A results file of it."""
    write_coco(folder)
    rows = [
        {
            "image_id": 10 + i % 4,
            "category_id": 1 + i % 2,
            "bbox": [2, 2, 18, 17.5],
            "score": 0.1 * i,
        }
        for i in range(8)
    ]
    path = folder / "results.json"
    path.write_text(json.dumps(rows))
    return path


def write_thresholds(folder: Path) -> Path:
    """Thresholds by class name."""
    path = folder / "thresholds.json"
    values = {"schema": "detbalance.thresholds/1", "thresholds": {"bolt": 0.3, "crack": 0.25}}
    path.write_text(json.dumps(values))
    return path


def write_config(folder: Path) -> Path:
    """A configuration of a tiny detector on the annotation file."""
    import yaml

    data = {"root": str(folder), "train": "train.json", "train_images": ".", "val": "train.json"}
    values = {
        "output": str(folder / "run"),
        "data": {**data, "val_images": "."},
        "model": {"detector": "retinanet", "backbone": "tiny", "anchor_sizes": [[8, 16], [32, 64]]},
        "loss": {"name": "focal", "class_weights": {"crack": 2.0}},
        "sampling": {"method": "repeat_factor", "threshold": 0.5},
        "augmentation": {"paste": {"probability": 0.5}, "standard": {"scale": [0.8, 1.2]}},
        "train": {"iterations": 5, "learning_rate": 1.0e-3, "steps": [0.5]},
    }
    write_coco(folder)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def write_checkpoint(folder: Path) -> Path:
    """The checkpoint of a training of one step."""
    from detbalance.training.config import load_config
    from detbalance.training.loop import train

    changes = ["train.iterations=1", "train.batch_size=2", "train.workers=0"]
    changes.append("augmentation.paste=null")
    train(load_config(write_config(folder), changes))
    return folder / "run" / "last.pt"


def write_donors(folder: Path) -> Path:
    """The packed donors of the annotation file."""
    from detbalance.augmentation.packing import pack_donors
    from detbalance.data import load_annotations

    annotations = load_annotations(write_coco(folder), segmentations=True)
    path = folder / "donors.safetensors"
    pack_donors(annotations, folder, path, classes=["bolt", "crack"], min_size=1)
    return path


def write_second_classifier(folder: Path) -> Path:
    """A second classifier by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    from detbalance.data import Categories
    from detbalance.repair.second_classifier import SecondClassifier
    from detbalance.repair.second_classifier_file import save_second_classifier

    generator = np.random.default_rng(0)
    fitted = LogisticRegression().fit(generator.normal(size=(30, 6)), np.arange(30) % 3)
    path = folder / "second_classifier.skops"
    categories = Categories(ids=(1, 2), names=("bolt", "crack"))
    second = SecondClassifier("LogisticRegression", fitted, 0.3, 3, False)
    save_second_classifier(path, second, weights="abc", categories=categories, width=6)
    return path


def write_features(folder: Path) -> Path:
    """A folder of region features."""
    from detbalance.repair.region_features import REGION, FeatureWriter

    writer = FeatureWriter(folder / "features", 4, {"weights": "x"})
    writer.append(np.ones((10, 4), np.float16), np.zeros(10, REGION), images=5)
    return folder / "features"


# What reads them.


def read_annotations(path: Path) -> None:
    """As plan does, and as what needs masks does."""
    from detbalance.augmentation.donors import DonorBank
    from detbalance.data import load_annotations

    load_annotations(path, drop_invalid=True)
    annotations = load_annotations(path, segmentations=True)
    bank = DonorBank(annotations, path.parent, classes=annotations.categories.names, min_size=1)
    for number in range(min(len(bank), 3)):
        bank.crop(number)


def read_results(path: Path) -> None:
    """Against the annotation file."""
    from detbalance.data import load_annotations, load_predictions

    load_predictions(path, load_annotations(path.parent / "train.json"))


def read_thresholds(path: Path) -> None:
    """By class name."""
    from detbalance.calibration import load_thresholds

    load_thresholds(path)


def read_config(path: Path) -> None:
    """With the paths that it names."""
    from detbalance.training.config import load_config

    load_config(path)


def read_checkpoint(path: Path) -> None:
    """As a detector."""
    from detbalance.training import load_detector

    load_detector(path)


def read_donors(path: Path) -> None:
    """As a training does that pastes them."""
    from detbalance.augmentation.donors import DonorBank
    from detbalance.data import load_annotations

    annotations = load_annotations(path.parent / "train.json")
    options = {"classes": ["bolt", "crack"], "min_size": 1}
    bank = DonorBank(annotations, path.parent, donor_file=path, **options)
    for number in range(len(bank)):
        bank.crop(number)


def read_second_classifier(path: Path) -> None:
    """And ask it once."""
    import torch

    from detbalance.data import Categories
    from detbalance.repair.second_classifier_file import load_second_classifier

    categories = Categories(ids=(1, 2), names=("bolt", "crack"))
    second = load_second_classifier(path, weights="abc", categories=categories)
    second(torch.zeros(2, 6), torch.full((2, 3), 0.2))


def read_features(path: Path) -> None:
    """To be refitted to, and to be gone on with."""
    from detbalance.repair.region_features import FeatureWriter, RegionFeatures

    held = RegionFeatures(path)
    np.asarray(held.features).sum()
    FeatureWriter(path, 4, {"weights": "x"})


READERS: Mapping[str, Reader] = {
    "annotations": Reader(write_coco, damage_json, read_annotations),
    "results": Reader(write_results, damage_json, read_results),
    "thresholds": Reader(write_thresholds, damage_json, read_thresholds),
    "config": Reader(write_config, damage_yaml, read_config, 0.4),
    "checkpoint": Reader(write_checkpoint, damage_checkpoint, read_checkpoint, 0.1),
    "donors": Reader(write_donors, damage_safetensors, read_donors, 0.5),
    "second_classifiers": Reader(write_second_classifier, damage_zip, read_second_classifier, 0.1),
    "features": Reader(write_features, damage_features, read_features),
}


# The run.


def fault(reader: Reader, source: Path, target: Path, rng: random.Random) -> tuple[str, str] | None:
    """Damage and read once; None if it ended well, else a short and a long description."""
    reader.damage(source, target, rng)
    start = time.perf_counter()
    try:
        reader.read(target)
    except ValueError as error:
        said = str(error)
        ours = type(error).__module__.startswith("detbalance") or type(error) is ValueError
        if not ours or any(word in said for word in FOREIGN) or ". " not in said:
            return f"not our words: {type(error).__name__}: {said[:150]!r}", traceback.format_exc()
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:150]!r}", traceback.format_exc()
    seconds = time.perf_counter() - start
    return (f"took {seconds:.0f} s", "") if seconds > SLOW else None


def _chunk(name: str, source: Path, numbers: range, seed: int, place: Any, sink: Any) -> None:
    """Read some inputs in this process; tells where it is, for when it is killed."""
    folder = source.parent
    READERS[name].read(source)  # also loads the libraries, which is not timed
    for number in numbers:
        place.value = number
        target = folder / ("damaged" + source.suffix)
        rng = random.Random(f"{name} {seed} {number}")
        found = fault(READERS[name], source, target, rng)
        if found is not None:
            sink.put((number, *found))
    place.value = numbers.stop


def run(name: str, inputs: int, seconds: float, seed: int, only: int | None) -> tuple[int, Counter]:
    """All inputs of a reader; how many were read, and the faults by their description."""
    reader, faults = READERS[name], Counter[str]()
    import torch  # noqa: F401 - loaded once, and not by each child

    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        # Written and read by children, so that no thread of a library is forked.
        source_path = fork.SimpleQueue()
        maker = fork.Process(target=lambda: source_path.put(reader.make(Path(folder))))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit(f"fuzz: the valid file of {name} could not be written")
        source = source_path.get()
        place, sink = fork.Value("q", 0), fork.SimpleQueue()
        end, number = time.monotonic() + seconds, 0
        first = 0 if only is None else only
        number = first
        stop = inputs if only is None else only + 1
        while number < stop and time.monotonic() < end:
            part = range(number, min(number + CHUNK, stop))
            child = fork.Process(target=_chunk, args=(name, source, part, seed, place, sink))
            child.start()
            limit = time.monotonic() + SLOW * 3 + CHUNK
            while child.is_alive() and time.monotonic() < limit:
                child.join(0.2)
                while not sink.empty():
                    _note(faults, name, seed, *sink.get())
            if child.is_alive():
                child.kill()
                child.join()
            while not sink.empty():
                _note(faults, name, seed, *sink.get())
            if child.exitcode:
                _note(faults, name, seed, place.value, f"the process ended by {child.exitcode}", "")
            number = place.value + bool(child.exitcode)
    return number - first, faults


def _note(faults: Counter, name: str, seed: int, number: int, short: str, long: str) -> None:
    """Print the first of each kind of fault whole."""
    faults[short[:60]] += 1
    if faults[short[:60]] == 1:
        print(f"{name} --seed {seed} --only {number}: {short}\n{long}", flush=True)


def _tell(name: str, inputs: int, faults: int, seconds: float) -> None:
    print(f"{name:12} {inputs:>8,} inputs  {faults:>5} faults  {seconds:5.0f} s", flush=True)


def main() -> None:
    """Run the readers named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--inputs", type=int, default=1000, help="for each reader")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one input, to see it again")
    options = parser.parse_args()
    unknown = [name for name in options.readers if name not in READERS]
    if unknown:
        sys.exit(f"fuzz: {unknown[0]} is no reader. Known: {', '.join(READERS)}.")
    total, wrong, begin = 0, 0, time.monotonic()
    for name in options.readers or READERS:
        inputs = max(1, int(options.inputs * READERS[name].share))
        start = time.monotonic()
        read, faults = run(name, inputs, options.seconds, options.seed, options.only)
        total, wrong = total + read, wrong + sum(faults.values())
        _tell(name, read, sum(faults.values()), time.monotonic() - start)
    _tell("all", total, wrong, time.monotonic() - begin)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
