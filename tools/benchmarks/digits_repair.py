"""A trained detector repaired in minutes, on the digits: beside it as it was, and retraining.

Three plain detectors of `digits_augmentation`, each repaired by every method. What needs images of
its own to be chosen on gets the val images of another draw of the digits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from _augmentation_methods import NO_PASTE, NO_SAMPLING
from _compared_runs import SEEDS, differences
from _compared_runs import table as compared_table
from _digits_runs import train_missing
from digits_augmentation import CONFIG, ITERATIONS
from digits_augmentation import FOLDER as TRAINED

from detbalance.annotations import load_annotations
from detbalance.digits import make_digits
from detbalance.operating import load_thresholds
from detbalance.predictions import Predictions, load_predictions, save_predictions
from detbalance.training.config import load_config

FOLDER = Path("runs/benchmarks/digits_repair")
DATA, CALIBRATION = TRAINED / "data", FOLDER / "calibration"
PLAIN, RETRAINED = "plain", "retrained with repeat factors"
REFITS = (
    "crt",
    "lws",
    "tau",
    "ncm",
    "fasa",
    "SMOTE",
    "BorderlineSMOTE",
    "RandomOverSampler",
    "RandomUnderSampler",
)
OPINIONS = ("LogisticRegression", "Mahalanobis")
FUSED = 5
FLOOR = 0.3


def main() -> dict[str, Any]:
    """Train and repair all that is missing, and compare each method with plain."""
    make_digits(DATA, seed=0)
    make_digits(CALIBRATION, seed=100)
    jobs = [partial(_train, seed, NO_SAMPLING, NO_PASTE) for seed in range(FUSED)]
    jobs += [partial(_train, seed, NO_PASTE) for seed in SEEDS]
    _together(jobs)
    # The features of a detector are taken out once, and all methods share them.
    _together([partial(_refit, "crt", seed) for seed in SEEDS])
    jobs = [partial(_refit, method, seed) for seed in SEEDS for method in REFITS[1:]]
    jobs += [partial(_opinion, method, seed) for seed in SEEDS for method in OPINIONS]
    jobs += [partial(_calibrated, seed) for seed in SEEDS]
    _together(jobs)
    fused = {f"fusion of {k}": [_fused(k)] for k in (3, FUSED)}
    results = {
        PLAIN: [_run(seed) / "predictions.json" for seed in SEEDS],
        RETRAINED: [_run(seed, "repeat_factors") / "predictions.json" for seed in SEEDS],
        **{
            method: [_place(method, seed) / "predictions.json" for seed in SEEDS]
            for method in (*REFITS, *OPINIONS, "NorCal", "thresholds")
        },
        **fused,
    }
    settings = load_config(CONFIG, [f"data.root={DATA}"])
    figures, boxes = differences(settings, results, PLAIN)
    for method in (*REFITS, *OPINIONS):
        name = "refit.json" if method in REFITS else "opinion.json"
        found = [json.loads((_place(method, seed) / name).read_text()) for seed in SEEDS]
        figures[method]["minutes"] = mean(one["minutes"] for one in found)
    result = {
        "seeds": list(SEEDS),
        "iterations": ITERATIONS,
        "reference": PLAIN,
        "val_boxes": boxes,
        "methods": figures,
    }
    print(table(result))
    return result


def table(figures: Mapping[str, Any]) -> str:
    """Rows: methods. Columns: the figures of the groups, below each its difference's interval."""
    lines = compared_table(figures).splitlines()
    lines[0] += " minutes |"
    lines[1] += "---|"
    for i, row in enumerate(figures["methods"].values(), start=2):
        lines[i] += f" {row['minutes']:.1f} |" if "minutes" in row else " |"
    return "\n".join(lines)


def _run(seed: int, method: str = "plain") -> Path:
    return TRAINED / method / str(seed)


def _place(method: str, seed: int) -> Path:
    return FOLDER / method / str(seed)


def _together(jobs: list[Callable[[], Any]]) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def _train(seed: int, *changes: str) -> None:
    output = _run(seed, "plain" if NO_SAMPLING in changes else "repeat_factors")
    own = (f"data.root={DATA}", f"seed={seed}", f"train.iterations={ITERATIONS}")
    # In the order of `compared`: what is there is told by its configuration.
    train_missing(CONFIG, (own[0], *changes, *own[1:], f"output={output}", "train.workers=0"))


def _command(tool: str, *words: str | Path) -> None:
    command = [sys.executable, f"tools/{tool}.py", *map(str, words)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=one_thread, stdout=subprocess.DEVNULL)


def _common(method: str, seed: int) -> list[str | Path]:
    words: list[str | Path] = ["--checkpoint", _run(seed) / "last.pt", "--method", method]
    words += ["--annotations", DATA / "train.json", "--images", DATA / "train", "--overwrite"]
    return [*words, "--features", FOLDER / "features" / str(seed), "--output", _place(method, seed)]


def _predict(checkpoint: Path, data: Path, output: Path) -> None:
    words = ("--annotations", data / "val.json", "--images", data / "val", "--output", output)
    _command("evaluate", "--checkpoint", checkpoint, *words, "--overwrite")


def _refit(method: str, seed: int) -> None:
    place = _place(method, seed)
    if not (place / "predictions.json").exists():
        _command("refit", *_common(method, seed))
        _predict(place / "refit.pt", DATA, place)
        print(f"{method}, seed {seed}: done", flush=True)


def _opinion(method: str, seed: int) -> None:
    if not (_place(method, seed) / "predictions.json").exists():
        where = ("--predict", DATA / "val.json", "--predict-images", DATA / "val")
        _command("opinion", *_common(method, seed), *where)
        print(f"{method}, seed {seed}: done", flush=True)


def _calibrated(seed: int) -> None:
    """NorCal and thresholds per class, both chosen on other images."""
    norcal, thresholds = _place("NorCal", seed), _place("thresholds", seed)
    if (thresholds / "predictions.json").exists():
        return
    known = norcal / "calibration"
    _predict(_run(seed) / "last.pt", CALIBRATION, known)
    plain = _run(seed) / "predictions.json"
    given = ["--annotations", CALIBRATION / "val.json", "--predictions", known / "predictions.json"]
    given += ["--train", DATA / "train.json", "--overwrite"]
    applied = ("--apply-to", plain, "--apply-annotations", DATA / "val.json")
    _command("rescore", *given, *applied, "--output", norcal / "predictions.json")
    thresholds.mkdir(parents=True, exist_ok=True)
    _command("thresholds", *given, "--output", thresholds / "thresholds.json")
    truth = load_annotations(DATA / "val.json")
    floors = load_thresholds(thresholds / "thresholds.json").by_label(truth.categories)
    found = load_predictions(plain, truth)
    save_predictions(thresholds / "predictions.json", _moved(found, floors), truth)
    print(f"NorCal, thresholds, seed {seed}: done", flush=True)


def _moved(found: Predictions, floors: np.ndarray) -> Predictions:
    """Scores in the same order, with the threshold of each class at the floor of the figures."""
    at = np.clip(floors[found.labels], 1e-6, 1 - 1e-6)
    below = found.scores * FLOOR / at
    above = FLOOR + (found.scores - at) * (1 - FLOOR) / (1 - at)
    scores = np.where(found.scores < at, below, above)
    return Predictions(found.image_index, found.labels, found.bbox, scores)


def _fused(members: int) -> Path:
    output = FOLDER / f"fusion-{members}.json"
    if not output.exists():
        files = [_run(seed) / "predictions.json" for seed in range(members)]
        _command("fuse", *files, "--annotations", DATA / "val.json", "--output", output)
    return output
