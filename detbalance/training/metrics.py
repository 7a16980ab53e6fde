"""What a run logs: one JSON object a line, and trackers; and what it counts for that.

Counts by class are int64 [K + 1]; index 0 is background.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detbalance.augmentation.paste import OUTCOMES
from detbalance.data import Categories
from detbalance.data.files import naming, replace_file
from detbalance.data.messages import rounded
from detbalance.losses.statistics import sum_over_ranks
from detbalance.sampling.balanced_exposure import exposure_ratio

METRICS_FILE = "metrics.jsonl"

MANY_CLASSES = 100
"""A mapping with more numbers than this is kept out of trackers: nobody opens so many charts."""

Track = Callable[[dict[str, float], int], None]


class MetricsLog:
    """Appends records to metrics.jsonl in the run's folder, and gives their numbers to trackers."""

    def __init__(
        self, folder: Path, track: Track | None = None, *, iteration: int = 0, evaluated: int = 0
    ) -> None:
        self._path, self._track = folder / METRICS_FILE, track
        if self._path.exists():
            upto = {True: evaluated, False: iteration}
            kept = [r for r in read_metrics(folder) if r["iteration"] <= upto["val" in r]]
            with replace_file(self._path) as file:
                file.write("".join(json.dumps(r) + "\n" for r in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, iteration: int, values: Mapping[str, Any], *, track: bool = True) -> None:
        """Log values (numbers, or mappings of numbers) after an iteration, counted from 1."""
        record = {"iteration": iteration, **values}
        with naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if track and self._track is not None:
            with naming(self._path.parent):
                self._track(_numbers(values), iteration)

    def close(self) -> None:
        """Flush and close the file."""
        with naming(self._path):
            self._file.close()


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers by names like val/AP50."""
    numbers = {}
    for name, value in values.items():
        parts = value if isinstance(value, Mapping) else {"": value}
        if len(parts) <= MANY_CLASSES:
            named = {f"{name}/{part}" if part else name: v for part, v in parts.items()}
            numbers.update({tag: v for tag, v in named.items() if v is not None})
    return numbers


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run, in the order in which they were written."""
    records = []
    for line in (Path(folder) / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class Tally:
    """Losses, images and seconds since the last log record."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self._sums: dict[str, Tensor] = {}
        self._batches = self._images = 0
        self.seconds = self.waiting = 0.0

    def add(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Count a batch: its losses, and how many images it had."""
        for name, value in losses.items():
            before = self._sums.get(name, torch.zeros_like(value))
            self._sums[name] = before.to(value.device) + value.detach()
        self._batches += 1
        self._images += images

    def mean_losses(self) -> dict[str, Tensor]:
        """The mean of each loss over the batches."""
        return {name: value / self._batches for name, value in self._sums.items()}

    def rate(self) -> float:
        """Images a second."""
        return self._images / self.seconds

    def state_dict(self) -> dict[str, Any]:
        """Give what was counted."""
        sums = {name: float(value) for name, value in self._sums.items()}
        counts = {"batches": self._batches, "images": self._images, "seconds": self.seconds}
        counts["waiting"] = self.waiting
        return {"sums": sums, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was counted."""
        self._sums = {name: torch.tensor(float(value)) for name, value in state["sums"].items()}
        self._batches, self._images = state["batches"], state["images"]
        self.seconds, self.waiting = state["seconds"], state.get("waiting", 0.0)


_PLACED = OUTCOMES.index("placed")
_SHOWN, _PASTED, _PASTES = 0, 1, 2  # rows of the counts; one for each outcome follows
_ENOUGH = 20  # pastes asked for before it is said that none can be placed
_NAMED = 20  # classes in the summary


class ExposureTotals:
    """Boxes shown, boxes pasted and outcomes of pastes, by class, over all processes of a run."""

    def __init__(self, num_classes: int, epoch_length: int) -> None:
        self._epoch_length = epoch_length
        self._new = torch.zeros(_PASTES + len(OUTCOMES), num_classes, dtype=torch.int64)
        self._run, self._recent = torch.zeros_like(self._new), torch.zeros_like(self._new)
        # Since a paste was placed: outcomes, and last how many images were drawn.
        self._drought = torch.zeros(len(OUTCOMES) + 1, dtype=torch.int64)
        self._drawn = 0

    def add(self, targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Count the targets of a batch of this process, as the data set gives them."""
        for target in targets:
            shown = target["labels"] > 0
            self._count(_SHOWN, target["labels"][shown])
            self._count(_PASTED, target["labels"][shown & target["pasted"]])
            for code in range(len(OUTCOMES)) if len(target.get("pastes", ())) else ():
                labels, outcomes = target["pastes"].unbind(dim=1)
                self._count(_PASTES + code, labels[outcomes == code])
        self._drawn += len(targets)

    def _count(self, row: int, labels: Tensor) -> None:
        self._new[row] += torch.bincount(labels.cpu(), minlength=self._new.shape[1])

    def collect(self, device: torch.device) -> None:
        """Take in what was added since the last call; all processes must call it."""
        flat = torch.cat([self._new.flatten(), torch.tensor([self._drawn])])
        total = sum_over_ranks(flat.to(device)).cpu()
        counts = total[:-1].view_as(self._new)
        self._run += counts
        self._recent += counts
        outcomes = counts[_PASTES:].sum(dim=1)
        if outcomes[_PLACED]:
            self._drought.zero_()
        else:
            self._drought += torch.cat([outcomes, total[-1:]])
        self._new.zero_()
        self._drawn = 0

    def problem(self) -> str | None:
        """Say why no paste was placed in an epoch's worth of draws; None if that is not so."""
        *outcomes, drawn = self._drought.tolist()
        attempts = sum(outcomes)
        if drawn < self._epoch_length or attempts < _ENOUGH:
            return None
        return (
            f"none of {attempts} pastes asked for in the last {drawn} images was placed"
            f" ({_reasons(outcomes)}). At least one in an epoch of {self._epoch_length} images is"
            " expected. Change what they fail by in augmentation.paste (scale, tries, classes,"
            " min_size), or turn it off with --set augmentation.paste=null."
        )

    def record(self, categories: Categories, *, shown: bool) -> dict[str, dict[str, int]]:
        """Give what was counted since the last record, for the log."""
        values: dict[str, dict[str, int]] = {}
        if self._recent[_PASTED].any():
            pasted = self._recent[_PASTED].tolist()
            values["pasted"] = {categories.name(c): n for c, n in enumerate(pasted) if n}
        outcomes = self._recent[_PASTES:].sum(dim=1).tolist()
        if sum(outcomes) > outcomes[_PLACED]:
            values["paste_refused"] = {
                name: n for name, n in zip(OUTCOMES, outcomes, strict=True) if n
            }
            values["paste_refused"].pop(OUTCOMES[_PLACED], None)
        self._recent[_PASTED:].zero_()
        if shown:
            numbers = self._recent[_SHOWN].tolist()
            values["shown"] = dict(zip(categories.names, numbers[1:], strict=True))
            self._recent[_SHOWN].zero_()
        return values

    def summary(self, categories: Categories) -> list[str]:
        """Say of each class how many pastes were asked for and what became of them."""
        pastes = self._run[_PASTES:].T.tolist()
        classes = [c for c, outcomes in enumerate(pastes) if sum(outcomes)]
        classes.sort(key=lambda c: pastes[c][_PLACED] - sum(pastes[c]))
        lines = [_outcomes(categories.name(c), pastes[c]) for c in sorted(classes[:_NAMED])]
        if rest := classes[_NAMED:]:
            together = [sum(column) for column in zip(*(pastes[c] for c in rest), strict=True)]
            lines.append(_outcomes(f"{len(rest)} further classes", together))
        return lines

    def balance(self, categories: Categories, expected: Any) -> str | None:
        """Compare the boxes that were shown with those that the sampler shows."""
        present = torch.as_tensor(expected, dtype=torch.float64).isfinite()
        present[0] = False
        shown = self._run[_SHOWN].double().masked_fill(~present, torch.nan)
        if not self._run[_SHOWN][present].any():
            return None
        classes = torch.nonzero(present).flatten()
        most, least = (int(classes[pick(shown[classes])]) for pick in (torch.argmax, torch.argmin))
        return (
            f"boxes shown: {categories.name(most)} {int(shown[most])}, {categories.name(least)}"
            f" {int(shown[least])}; most to least {rounded(exposure_ratio(shown.numpy()))} to 1, by"
            f" the sampler alone {rounded(exposure_ratio(expected))} to 1"
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Give the counts; `collect` before."""
        counts = {"run": self._run, "recent": self._recent, "drought": self._drought}
        return {name: count.clone() for name, count in counts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved counts."""
        self._run.copy_(state["run"])
        self._recent.copy_(state["recent"])
        self._drought.copy_(state["drought"])


def _outcomes(name: str, outcomes: Sequence[int]) -> str:
    pastes, placed = sum(outcomes), outcomes[_PLACED]
    why = f" ({_reasons(outcomes)})" if pastes > placed else ""
    return f"{name}: {pastes} pastes asked for, {placed} placed, {pastes - placed} refused{why}"


def _reasons(outcomes: Sequence[int]) -> str:
    """The reasons of refusal, the most frequent first."""
    named = [
        (number, name.replace("_", " "))
        for name, number in zip(OUTCOMES, outcomes, strict=True)
        if number and name != OUTCOMES[_PLACED]
    ]
    return ", ".join(f"{name} {number}" for number, name in sorted(named, key=lambda n: -n[0]))
