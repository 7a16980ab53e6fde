"""One evaluator in a process of its own: `python _evaluators.py NAME ANNOTATIONS RESULTS STYLE`.

It loads both files, evaluates by COCO's or LVIS's rules, and prints its times and its AP. Imports
are outside the times of loading and evaluating.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEERS = Path(__file__).parents[2] / "runs" / "benchmarks" / "peers"
# Without their dependencies: lvis would pull in a second OpenCV.
PINNED = {"lvis": "lvis==0.5.3", "faster_coco_eval": "faster-coco-eval==1.8.0"}
Steps = tuple[Callable[[], Any], Callable[[Any], float]]


def pycocotools(annotations: str, results: str, lvis: bool) -> Steps:
    """The reference of COCO."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def load() -> Any:
        truth = COCO(annotations)
        return truth, truth.loadRes(results)

    return load, lambda loaded: coco_ap(COCOeval(*loaded, iouType="bbox"))


def faster_coco_eval(annotations: str, results: str, lvis: bool) -> Steps:
    """The C++ rewrite."""
    from faster_coco_eval import COCO, COCOeval_faster

    def load() -> Any:
        truth = COCO(annotations)
        return truth, truth.loadRes(results)

    return load, lambda loaded: coco_ap(
        COCOeval_faster(*loaded, iouType="bbox", lvis_style=lvis, print_function=lambda *_: None),
        lvis,
    )


def lvis_api(annotations: str, results: str, lvis: bool) -> Steps:
    """The reference of LVIS."""
    vars(np)["float"] = float  # it asks for a name that NumPy took back in 1.24
    from lvis import LVIS, LVISEval, LVISResults

    def load() -> Any:
        truth = LVIS(annotations)
        return truth, LVISResults(truth, results)

    return load, lambda loaded: coco_ap(LVISEval(*loaded, iou_type="bbox"))


def hotcoco(annotations: str, results: str, lvis: bool) -> Steps:
    """The engine that detbalance uses, without detbalance."""
    from hotcoco import COCO, COCOeval

    def load() -> Any:
        truth = COCO(annotations)
        return truth, truth.load_res(results)

    return load, lambda loaded: coco_ap(COCOeval(*loaded, "bbox", lvis_style=lvis), lvis)


def detbalance(annotations: str, results: str, lvis: bool) -> Steps:
    """The grid, and the matching pass that all else is counted from."""
    from detbalance.data import load_annotations, load_predictions
    from detbalance.evaluation.accumulate import compute_grid
    from detbalance.evaluation.average_precision import average_precision, recall
    from detbalance.evaluation.matching import match

    def load() -> Any:
        truth = load_annotations(annotations)
        return truth, load_predictions(results, truth)

    def evaluate(loaded: Any) -> float:
        grid = compute_grid(*loaded)
        matches = match(*loaded)
        recall(matches)
        ours = float(np.nanmean(average_precision(matches)))
        np.testing.assert_allclose(np.nanmean(grid.precision[..., 0, -1]), ours, rtol=1e-12)
        return ours

    return load, evaluate


def coco_ap(evaluator: Any, lvis: bool = False) -> float:
    """Evaluate, and give AP over all classes and sizes with the largest cap."""
    if lvis:
        evaluator.params.maxDets = [300]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"])
    # lvis-api has no axis of caps.
    precision = precision[..., 0, -1] if precision.ndim == 5 else precision[..., 0]
    return float(precision[precision > -1].mean())


EVALUATORS = {
    "pycocotools": pycocotools,
    "faster-coco-eval": faster_coco_eval,
    "lvis-api": lvis_api,
    "hotcoco": hotcoco,
    "detbalance": detbalance,
}


def main(name: str, annotations: str, results: str, style: str) -> None:
    """Load, evaluate, print the figures as JSON."""
    sys.path.append(str(PEERS))
    with contextlib.redirect_stdout(io.StringIO()):
        load, evaluate = EVALUATORS[name](annotations, results, style == "lvis")
        moments = [(time.perf_counter(), time.process_time())]
        loaded = load()
        moments.append((time.perf_counter(), time.process_time()))
        average = evaluate(loaded)
        moments.append((time.perf_counter(), time.process_time()))
    walls, cpus = (np.diff(values).tolist() for values in zip(*moments, strict=True))
    figures = {"load_s": walls[0], "evaluate_s": walls[1], "cpu_s": sum(cpus), "AP": average}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
