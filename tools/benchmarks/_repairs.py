"""Trained detectors repaired in minutes by every method, beside retraining."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from _augmentation_methods import NO_PASTE, NO_SAMPLING
from _chosen_on_val import CHOSEN, rescored
from _compared_runs import differences
from _compared_runs import table as compared_table
from _digits_runs import train_missing

from detbalance.training.config import load_config
from detbalance.training.metrics import read_metrics

PLAIN, RETRAINED = "plain", "retrained with repeat factors"
REFITS = (
    "crt",
    "lws",
    "tau",
    "fasa",
    "SMOTE",
    "BorderlineSMOTE",
    "RandomOverSampler",
    "RandomUnderSampler",
)
OPINIONS = (
    "LogisticRegression",
    "BalancedBaggingClassifier",
    "BalancedRandomForestClassifier",
    "EasyEnsembleClassifier",
    "RUSBoostClassifier",
    "Mahalanobis",
    "OneClassSVM",
    "IsolationForest",
    "LocalOutlierFactor",
)


@dataclass(frozen=True)
class Case:
    """Detectors to repair.

    Attributes:
        config: configuration file with sampling and paste, which plain runs are without.
        common: overrides of all runs.
        iterations: of every run.
        folder: of the repairs.
        trained: of the runs.
        seeds: of the detectors that are repaired.
        fused: how many plain detectors are fused; seeds from 0.
        bags: how many detectors of balanced bags are fused; none for 0.
        snapshots: how many snapshots of one run are fused; none for 0.
        refits: methods of refit; the first one is "crt".
        opinions: methods of opinion.
    """

    config: str
    common: tuple[str, ...]
    iterations: int
    folder: Path
    trained: Path
    seeds: tuple[int, ...]
    fused: tuple[int, ...]
    bags: int = 0
    snapshots: int = 0
    refits: tuple[str, ...] = REFITS
    opinions: tuple[str, ...] = OPINIONS

    def changes(self, seed: int, method: str) -> tuple[str, ...]:
        """Overrides of a run; in the order of `compared`, whose runs these can be."""
        kind = {"plain": (NO_SAMPLING, NO_PASTE), "repeat_factors": (NO_PASTE,)}[method]
        own = (f"seed={seed}", f"train.iterations={self.iterations}")
        output = f"output={self.run(seed, method)}"
        return (*self.common, *kind, *own, output, "train.workers=0")

    def run(self, seed: int, method: str = "plain") -> Path:
        """Folder of a run."""
        return self.trained / method / str(seed)

    def place(self, method: str, seed: int) -> Path:
        """Folder of a repair."""
        return self.folder / method / str(seed)


class Repairs:
    """All repairs of a case.

    Args:
        case: what to repair.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.data = load_config(case.config, case.changes(0, "plain")).data

    def compared(self) -> dict[str, Any]:
        """Train and repair all that is missing, and compare each method with plain."""
        case = self.case
        members = range(max((*case.fused, 1)))
        jobs = [partial(self._train, seed, "plain") for seed in sorted({*members, *case.seeds})]
        jobs += [partial(self._train, seed, "repeat_factors") for seed in case.seeds]
        jobs += [partial(self._bag, i) for i in range(case.bags)]
        jobs += [self._snapshots] if case.snapshots else []
        together(jobs)
        # The features of a detector are taken out once, and all methods share them.
        together([partial(self._refit, "crt", seed) for seed in case.seeds])
        ways = [(self._refit, name) for name in case.refits[1:]]
        ways += [(self._opinion, name) for name in case.opinions]
        ways += [(self._rescored, name) for name in CHOSEN]
        together([partial(way, name, seed) for way, name in ways for seed in case.seeds])
        runs = {PLAIN: "plain", RETRAINED: "repeat_factors"}
        results = {
            name: [case.run(seed, method) / "predictions.json" for seed in case.seeds]
            for name, method in runs.items()
        }
        for method in (*case.refits, *case.opinions, *CHOSEN):
            results[method] = [case.place(method, s) / "predictions.json" for s in case.seeds]
        ensembles = self._ensembles()
        results |= {name: [self._fused(name, folders)] for name, folders in ensembles.items()}
        settings = load_config(case.config, case.changes(0, "plain"))
        figures, boxes = differences(settings, results, PLAIN)
        figures[RETRAINED]["minutes"] = self._training_minutes("repeat_factors")
        for method in (*case.refits, *case.opinions, *CHOSEN):
            figures[method]["minutes"] = mean(self._minutes(method, seed) for seed in case.seeds)
        for name, folders in ensembles.items():
            runs_of = {self._run_of(folder) for folder in folders}
            figures[name]["minutes"] = sum(map(training_minutes, runs_of))
        result = {
            "seeds": list(case.seeds),
            "iterations": case.iterations,
            "reference": PLAIN,
            "val_boxes": boxes,
            "methods": figures,
        }
        print(table(result))
        return result

    def _train(self, seed: int, method: str) -> None:
        train_missing(self.case.config, self.case.changes(seed, method))

    def _ensemble_words(self, kind: str, members: int) -> list[str | Path]:
        case = self.case
        words: list[str | Path] = ["--config", case.config, "--output", case.folder / kind]
        changes = (*case.common, NO_SAMPLING, NO_PASTE, f"train.iterations={case.iterations}")
        words += [word for change in (*changes, "train.workers=0") for word in ("--set", change)]
        return [*words, "--by", kind, "--members", str(members)]

    def _bag(self, member: int) -> None:
        command("bag", *self._ensemble_words("bags", self.case.bags), "--member", str(member))

    def _snapshots(self) -> None:
        command("bag", *self._ensemble_words("snapshots", self.case.snapshots))

    def _ensembles(self) -> dict[str, list[Path]]:
        """Folders with the predictions of each ensemble's members."""
        case = self.case
        found = {f"fusion of {k}": [case.run(seed) for seed in range(k)] for k in case.fused}
        for k in (1, *case.fused):
            if k > case.bags:
                continue
            name = f"fusion of {k} balanced bags" if k > 1 else "one balanced bag"
            found[name] = [case.folder / "bags" / f"member-{i}" for i in range(k)]
        if case.snapshots:
            places = [case.folder / "snapshots" / f"member-{i}" for i in range(case.snapshots)]
            found[f"fusion of {case.snapshots} snapshots of one run"] = places
        return found

    def _run_of(self, member: Path) -> Path:
        return member.parent / "run" if member.parent.name == "snapshots" else member

    def _common(self, method: str, seed: int) -> list[str | Path]:
        case, data = self.case, self.data
        words: list[str | Path] = ["--checkpoint", case.run(seed) / "last.pt", "--method", method]
        words += ["--annotations", data.path("train"), "--images", data.path("train_images")]
        words += ["--features", case.folder / "features" / str(seed)]
        words += ["--before", case.run(seed) / "predictions.json"]
        return [*words, "--output", case.place(method, seed), "--overwrite"]

    def _refit(self, method: str, seed: int) -> None:
        place = self.case.place(method, seed)
        if not (place / "predictions.json").exists():
            val = ("--val", self.data.path("val"), "--val-images", self.data.path("val_images"))
            command("refit", *self._common(method, seed), *val)
            print(f"{method}, seed {seed}: done", flush=True)

    def _opinion(self, method: str, seed: int) -> None:
        if not (self.case.place(method, seed) / "predictions.json").exists():
            val = ("--predict", self.data.path("val"))
            val += ("--predict-images", self.data.path("val_images"))
            command("opinion", *self._common(method, seed), *val)
            print(f"{method}, seed {seed}: done", flush=True)

    def _rescored(self, method: str, seed: int) -> None:
        place = self.case.place(method, seed)
        if not (place / "predictions.json").exists():
            rescored(method, self.data, self.case.run(seed) / "predictions.json", place, command)
            print(f"{method}, seed {seed}: done", flush=True)

    def _fused(self, name: str, members: Sequence[Path]) -> Path:
        if len(members) == 1:
            return members[0] / "predictions.json"
        output = self.case.folder / f"{name.replace(' ', '_')}.json"
        if not output.exists():
            files = [folder / "predictions.json" for folder in members]
            command("fuse", *files, "--annotations", self.data.path("val"), "--output", output)
        return output

    def _training_minutes(self, method: str) -> float:
        return mean(training_minutes(self.case.run(seed, method)) for seed in self.case.seeds)

    def _minutes(self, method: str, seed: int) -> float:
        """From the checkpoint to the repaired one, features included where they are needed."""
        place = self.case.place(method, seed)
        if method in CHOSEN:
            return float(json.loads((place / "minutes.json").read_text())["minutes"])
        name = "refit.json" if method in self.case.refits else "opinion.json"
        first = json.loads((self.case.place("crt", seed) / "refit.json").read_text())
        own = json.loads((place / name).read_text())
        return float(first["minutes_of_features"] + own["minutes"])


def table(figures: Mapping[str, Any]) -> str:
    """Rows: methods. Columns: the figures of the groups, below each its difference's interval."""
    lines = compared_table(figures).splitlines()
    lines[0] += " minutes |"
    lines[1] += "---|"
    for i, row in enumerate(figures["methods"].values(), start=2):
        lines[i] += f" {row['minutes']:.1f} |" if "minutes" in row else " |"
    return "\n".join(lines)


def training_minutes(run: Path) -> float:
    """What the iterations of a run took, without evaluation."""
    records = [r for r in read_metrics(run) if r.get("images_per_second")]
    steps = np.diff([0, *(r["iteration"] for r in records)])
    batch = load_config(run / "config.yaml").train.batch_size
    seconds = [n * batch / r["images_per_second"] for n, r in zip(steps, records, strict=True)]
    return sum(seconds) / 60


def together(jobs: Sequence[Callable[[], Any]]) -> None:
    """One job a core at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def command(tool: str, *words: str | Path) -> None:
    """One of the tools, with one thread."""
    line = [sys.executable, f"tools/{tool}.py", *map(str, words)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(line, check=True, env=one_thread, stdout=subprocess.DEVNULL)
