"""Which classes are generated, which are left out and why, and which others are learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.donor_choice import choose_donors, wanted_labels
from detbalance.data import Annotations
from detbalance.data.frequency import class_frequency
from detbalance.data.messages import counted
from detbalance.generation.crops import MAX_OVERLAP, MIN_SIZE
from detbalance.generation.result import ClassResult, Settings

_ENOUGH = 200  # donors of a class that needs no other class to learn from


@dataclass(frozen=True, eq=False)
class Choice:
    """The classes of a run."""

    wanted: NDArray[np.int64]
    others: NDArray[np.int64]
    results: tuple[ClassResult, ...]


def choose_classes(annotations: Annotations, settings: Settings) -> Choice:
    """Choose the classes to generate and those to learn from."""
    asked = wanted_labels(
        annotations,
        settings.classes,
        class_frequency(annotations),
        owner="generate",
        purpose="to generate",
    )
    every = np.arange(1, annotations.categories.num_classes)
    rows = choose_donors(annotations, every, min_size=MIN_SIZE, max_overlap=MAX_OVERLAP).rows
    counts = np.bincount(annotations.labels[rows], minlength=len(every) + 1)
    enough = counts >= settings.min_donors
    results = [
        ClassResult(
            name=annotations.categories.name(int(label)),
            donors=int(counts[label]),
            left_out=""
            if enough[label]
            else f"{counts[label]} donors, fewer than {settings.min_donors}",
        )
        for label in sorted(asked.tolist(), key=lambda label: (counts[label], label))
    ]
    wanted = asked[enough[asked]]
    if not len(wanted):
        most = results[-1]
        raise ValueError(
            f"{annotations.source}: none of the {counted(len(asked), 'class')} to generate has"
            f" {settings.min_donors} donors (the most: {most.name}, {most.donors}). With so few, a"
            " generator learns them by heart. Paste the real ones instead (augmentation.paste), or"
            " lower --min-donors."
        )
    others = np.setdiff1d(every[enough[1:]], asked)
    with_others = settings.with_others
    if with_others is None:
        with_others = bool((counts[wanted] < _ENOUGH).any())
    return Choice(wanted, others if with_others else others[:0], tuple(results))
