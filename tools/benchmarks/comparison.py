"""How often a comparison is right: simulated, where the true difference is known.

Hundreds of classes of one kind are hundreds of repeats on the same images. Two detectors of equal
skill must not differ (false positives, at a nominal 5 %); of two unequal ones the interval of the
difference must hold the true one. The detectors find and miss partly the same boxes. With several
runs a side each run has its own luck in training.
"""

import sys
import time
from dataclasses import dataclass, replace

import numpy as np
from _simulated import (
    DETECTORS,
    SAMPLES,
    SCORE_THRESHOLD,
    Detector,
    Sample,
    simulate_several,
    truth,
)

from detbalance.evaluation.bootstrap import bootstrap
from detbalance.evaluation.compare import adjust_classes
from detbalance.evaluation.differences import (
    Sides,
    class_sides,
    difference_interval,
    group_sides,
    p_values,
)
from detbalance.evaluation.figures import WITH_INTERVALS

GROUP_SIZE = 10  # classes of a group, and of a family of tests
LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Two sides.

    Attributes:
        ours: what ours is, beside the baseline of the setting.
        runs: of each side.
        training_noise: of each run, see `simulate_several`.
    """

    ours: dict[str, float]
    runs: int = 1
    training_noise: float = 0.0


PAIRS = {
    "equal": Pair({}),
    "ours better": Pair({"overlap": 0.4, "separation": 0.5}),
    "equal, 3 runs each": Pair({}, runs=3, training_noise=0.2),
}
OF = [
    name
    for name in SAMPLES
    if name.startswith(("10 ", "40 ", "200 ")) or name.endswith("eight, alike")
]
ALIKE = (0.0, 0.8)


def main() -> dict[str, dict[str, dict[str, float]]]:
    """Simulate, print and give the coverage and the false positives of every setting.

    Returns:
        For each pair and sample by name, and for each detector and likeness.
    """
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for between, pair in PAIRS.items():
        for of in OF:
            rows = figures[f"{between}: {of}"] = {}
            for name in ("poor", "fair", "good"):
                for alike in ALIKE:
                    start = time.perf_counter()
                    row = measure(DETECTORS[name], SAMPLES[of], pair, alike)
                    rows[f"{name}, alike {alike:g}"] = row
                    cells = " ".join(f"{what} {value:.3f}" for what, value in row.items())
                    seconds = time.perf_counter() - start
                    print(f"{between}: {of}, {name}, alike {alike:g} ({seconds:.1f} s): {cells}")
    return figures


def measure(
    detector: Detector,
    sample: Sample,
    pair: Pair,
    alike: float,
    *,
    repeats: int = 400,
    draws: int = 300,
    seed: int = 0,
) -> dict[str, float]:
    """Coverage of the difference and share of differences called real, in one setting."""
    other = replace(
        detector, **{name: getattr(detector, name) + by for name, by in pair.ours.items()}
    )
    before, after = truth(detector, sample), truth(other, sample)
    if not pair.ours:
        after = before
    matches = simulate_several(
        [detector] * pair.runs + [other] * pair.runs,
        sample,
        repeats,
        seed,
        alike=alike,
        training_noise=pair.training_noise,
    )
    drawn = [
        bootstrap([one], num_bootstrap=draws, seed=seed, score_threshold=SCORE_THRESHOLD)
        for one in matches
    ]
    sides = drawn[: pair.runs], drawn[pair.runs :]
    groups = (np.arange(repeats + 1) - 1) // GROUP_SIZE
    result = {}
    for figure in WITH_INTERVALS:
        classes = class_sides(figure, *sides)
        means = group_sides(figure, *sides, groups, repeats // GROUP_SIZE)
        true = after[figure] - before[figure]
        p = p_values(classes, figure)
        families = [adjust_classes(p[groups == group]) for group in range(groups.max() + 1)]
        result[figure] = held(classes, figure, true)
        result[f"{figure}, groups"] = held(means, figure, true)
        result[f"{figure}, real"] = share(p < LEVEL, ~np.isnan(p))
        result[f"{figure}, real of a family"] = float(
            np.mean([(family < LEVEL).any() for family in families])
        )
        q = p_values(means, figure)
        result[f"{figure}, groups real"] = share(q < LEVEL, ~np.isnan(q))
        low, high = difference_interval(classes, figure)
        result[f"{figure}, width"] = float(np.nanmean(high - low))
    return {name: round(value, 4) for name, value in result.items()}


def held(sides: Sides, figure: str, true: float) -> float:
    """Share of the defined intervals that hold the true difference."""
    low, high = difference_interval(sides, figure)
    return share((low <= true) & (true <= high), ~np.isnan(low))


def share(chosen: np.ndarray, among: np.ndarray) -> float:
    """Mean of the first over the second."""
    return float(chosen[among].mean())


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Rows: samples. Columns: coverage, and what is called real of equal detectors, at 5 %.

    Means over detectors and figures; behind the coverage of classes the lowest and the highest.
    """
    heads = (
        "held",
        "held: mean of 10 classes",
        "real: one class",
        "real: any of 10, corrected",
        "real: mean of 10 classes",
        "real: one class, 3 runs a side",
    )
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for of in OF:
        better = _cells(figures[f"ours better: {of}"])
        equal = _cells(figures[f"equal: {of}"])
        several = _cells(figures[f"equal, 3 runs each: {of}"])
        held_by = better[""]
        cells = (
            f"{_percent(held_by)} ({100 * min(held_by):.0f}-{100 * max(held_by):.0f} %)",
            _percent(better[", groups"]),
            _percent(equal[", real"]),
            _percent(equal[", real of a family"]),
            _percent(equal[", groups real"]),
            _percent(several[", real"]),
        )
        lines.append(f"| {of} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(rows: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """What was measured of all detectors and figures, by its kind."""
    kinds = ("", ", groups", ", real", ", real of a family", ", groups real")
    return {
        kind: [row[f"{figure}{kind}"] for row in rows.values() for figure in WITH_INTERVALS]
        for kind in kinds
    }


def _percent(values: list[float]) -> str:
    return f"{100 * float(np.mean(values)):.1f} %"


if __name__ == "__main__":
    sys.exit("Run it by: python tools/benchmark.py comparison")
