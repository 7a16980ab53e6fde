"""What a run logs: one JSON object a line, and TensorBoard; and what it counts for that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from detbalance.data.files import naming, replace_file

METRICS_FILE = "metrics.jsonl"

MANY_CLASSES = 100
"""A mapping with more numbers than this is kept out of TensorBoard: nobody opens so many charts."""


class MetricsLog:
    """Appends records to metrics.jsonl and TensorBoard in the run's folder."""

    def __init__(self, folder: Path, *, iteration: int = 0, evaluated: int = 0) -> None:
        self._path = folder / METRICS_FILE
        if self._path.exists():
            upto = {True: evaluated, False: iteration}
            kept = [r for r in read_metrics(folder) if r["iteration"] <= upto["val" in r]]
            with replace_file(self._path) as file:
                file.write("".join(json.dumps(r) + "\n" for r in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=iteration + 1 if iteration else None
        )

    def write(self, iteration: int, values: Mapping[str, Any], *, board: bool = True) -> None:
        """Log values (numbers, or mappings of numbers) after an iteration, counted from 1."""
        record = {"iteration": iteration, **values}
        with naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        with naming(self._board.log_dir):
            self._draw(iteration, values if board else {})

    def _draw(self, iteration: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping) and len(value) > MANY_CLASSES:
                continue
            parts = value.items() if isinstance(value, Mapping) else [("", value)]
            for part, number in parts:
                if number is not None:
                    tag = f"{name}/{part}" if part else name
                    self._board.add_scalar(tag, number, iteration)

    def close(self) -> None:
        """Flush and close both files."""
        with naming(self._path):
            self._file.close()
        with naming(self._board.log_dir):
            self._board.close()


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
        self.seconds = 0.0

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
        return {"sums": sums, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was counted."""
        self._sums = {name: torch.tensor(float(value)) for name, value in state["sums"].items()}
        self._batches, self._images = state["batches"], state["images"]
        self.seconds = state["seconds"]
