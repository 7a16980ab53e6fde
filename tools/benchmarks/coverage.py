"""How often the bootstrap's nominal 95 % intervals hold the true figure: a simulation.

Hundreds of classes of one kind are hundreds of repeats on the same images. The truth is the figure
of the same generator on a hundred thousand boxes or more. The percentiles of the draws stand
beside ours, to show why they are not used.
"""

import sys
import time

import numpy as np
from _simulated import DETECTORS, SAMPLES, SCORE_THRESHOLD, Detector, Sample, simulate, truth

from detbalance.evaluation.bootstrap import BootstrapFigures, bootstrap
from detbalance.evaluation.figures import WITH_INTERVALS

GROUP_SIZE = 10  # classes of a group


def main() -> dict[str, dict[str, dict[str, float]]]:
    """Simulate every detector on every sample, print and give the coverage.

    Returns:
        For each detector and sample ("good, 10 boxes, one per image") the coverage of each figure,
        of its percentile interval and of groups, and true figures.
    """
    figures = {}
    for name, detector in DETECTORS.items():
        for of, sample in SAMPLES.items():
            start = time.perf_counter()
            figures[f"{name}, {of}"] = row = measure(detector, sample)
            cells = " ".join(f"{what} {value:.3f}" for what, value in row.items())
            print(f"{name}, {of} ({time.perf_counter() - start:.1f} s): {cells}", flush=True)
    return figures


def measure(
    detector: Detector, sample: Sample, *, repeats: int = 400, draws: int = 300, seed: int = 0
) -> dict[str, float]:
    """Coverage in one setting, of as many classes as there are repeats."""
    true = truth(detector, sample)
    matches = simulate(detector, sample, repeats, seed)
    drawn = bootstrap([matches], num_bootstrap=draws, seed=seed, score_threshold=SCORE_THRESHOLD)
    # Every group as large as any other; those left over are in none.
    groups = np.arange(repeats + 1) // GROUP_SIZE
    groups[0], groups[groups >= repeats // GROUP_SIZE] = -1, -1
    result = {}
    for figure in WITH_INTERVALS:
        low, high = drawn.interval(figure)
        result[figure] = held(low, high, true[figure])
        result[f"{figure}, width"] = float(np.nanmean(high - low))
        result[f"{figure}, percentiles"] = held(*percentiles(drawn, figure), true[figure])
        result[f"{figure}, groups"] = held(*drawn.group_interval(figure, groups), true[figure])
        result[f"{figure}, reliable"] = float(drawn.reliable(figure)[1:].mean())
        result[f"{figure}, true"] = true[figure]
        result[f"{figure}, mean"] = float(np.nanmean(drawn.estimates[figure]))
    return {name: round(value, 4) for name, value in result.items()}


def percentiles(drawn: BootstrapFigures, figure: str) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5 % and the 97.5 % of the draws, for classes with a box."""
    known = ~np.isnan(drawn.estimates[figure][0])
    low, high = np.nanpercentile(drawn.values[figure][0][:, known], [2.5, 97.5], axis=0)
    return low, high


def held(low: np.ndarray, high: np.ndarray, true: float) -> float:
    """Share of the defined intervals that hold the truth."""
    known = ~np.isnan(low)
    return float(((low <= true) & (true <= high))[known].mean())


def table(figures: dict[str, dict[str, float]]) -> str:
    """Rows: samples. Columns: figures, lowest and highest coverage among the detectors.

    Groups of all detectors are taken together: of each there are only 40.
    """
    heads = [*WITH_INTERVALS, "their percentiles", f"means of {GROUP_SIZE} classes"]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for of in SAMPLES:
        rows = [figures[f"{name}, {of}"] for name in DETECTORS]
        kinds = [[row[figure] for row in rows] for figure in WITH_INTERVALS]
        kinds.append([row[f"{figure}, percentiles"] for row in rows for figure in WITH_INTERVALS])
        kinds.append(
            [np.mean([row[f"{figure}, groups"] for row in rows]) for figure in WITH_INTERVALS]
        )
        cells = (f"{100 * min(values):.0f}-{100 * max(values):.0f} %" for values in kinds)
        lines.append(f"| {of} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit("Run it by: python tools/benchmark.py coverage")
