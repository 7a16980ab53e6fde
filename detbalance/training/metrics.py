"""What a run logs: one JSON object a line, and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends records to metrics.jsonl and TensorBoard in the run's folder.

    Each record is flushed as it is written, so a killed run loses nothing that it logged.

    Args:
        folder: the run's folder.
        iteration: the iteration that training starts after. Records beyond it, left by a run that
            was killed after its last checkpoint, are removed: they are about to be written again.
    """

    def __init__(self, folder: Path, *, iteration: int = 0) -> None:
        self._path = folder / METRICS_FILE
        if self._path.exists():
            kept = [r for r in read_metrics(folder) if r["iteration"] <= iteration]
            fresh = self._path.with_suffix(".tmp")
            fresh.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
            fresh.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=iteration + 1 if iteration else None
        )

    def write(self, iteration: int, values: Mapping[str, Any]) -> None:
        """Log values (numbers, or mappings of numbers) after an iteration, counted from 1."""
        record = {"iteration": iteration, **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            parts = value.items() if isinstance(value, Mapping) else [("", value)]
            for part, number in parts:
                if number is not None:
                    tag = f"{name}/{part}" if part else name
                    self._board.add_scalar(tag, number, iteration)

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run, in the order in which they were written.

    A last line cut short by a kill is left out.
    """
    records = []
    for line in (Path(folder) / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
