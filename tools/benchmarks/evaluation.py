"""Evaluation against pycocotools, faster-coco-eval and lvis-api: time and memory, two files in.

Made-up sets in the sizes of COCO val2017 and of LVIS: long-tailed classes, detections around
the boxes and anywhere, LVIS's lists of classes per image. Each evaluator loads the files and
evaluates in a process of its own; the fast ones take turns three times, and the best counts. All
must agree on AP before their times count. "detbalance report" is the whole command, from the start
of the interpreter to the printed table. Peaks of memory include interpreter and libraries.

faster-coco-eval and lvis are installed into runs/benchmarks/peers, beside this environment; where
that fails, they are left out and the table says so.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _evaluators import PEERS, PINNED

ROOT = Path(__file__).parents[2]
# Whole commands, by their options.
REPORT, DRAWN = "detbalance report --num-bootstrap 0", "detbalance report --num-bootstrap 1000"
SLOW = {"pycocotools", "faster-coco-eval", "lvis-api", DRAWN}


class Size(NamedTuple):
    """A set to make, and who evaluates it; the first is what the others are compared with."""

    style: str
    images: int
    classes: int
    boxes_per_image: float
    detections: int
    evaluators: tuple[str, ...]


OURS = ("hotcoco", "detbalance", REPORT)
SIZES = {
    "COCO": Size("coco", 5_000, 80, 7.3, 300_000, ("pycocotools", "faster-coco-eval", *OURS)),
    "LVIS": Size("lvis", 2_000, 1_203, 12, 150_000, ("lvis-api", "faster-coco-eval", *OURS)),
    # lvis-api passes 15 GB here, and faster-coco-eval 23 GB.
    "LVIS, 10x": Size("lvis", 20_000, 1_203, 12, 1_500_000, OURS),
    "COCO, 2x": Size("coco", 10_000, 80, 7.3, 600_000, (*OURS, DRAWN)),
}


def main(scale: float = 1.0) -> dict[str, Any]:
    """Measure all sets, print the table, and return the figures.

    Args:
        scale: share of the full sizes, for a quick look.

    Returns:
        For each set: its size, and for each evaluator load_s, evaluate_s, total_s, cpu_s, peak_mb
        and AP; or None where it could not be installed.
    """
    install_peers()
    figures: dict[str, Any] = {}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            # In its own process: Linux counts the peak of the parent as that of its children.
            command = [sys.executable, __file__, str(scale), folder, name]
            subprocess.run(command, check=True)
            files = [Path(folder) / file for file in ("val.json", "results.json")]
            runs: dict[str, list[dict[str, float]]] = {who: [] for who in size.evaluators}
            for turn in range(3):
                for who in size.evaluators:
                    if available(who) and not (turn and who in SLOW):
                        runs[who].append(run(who, *files, size.style))
                        print(f"{name}, {who}: {runs[who][-1]}", flush=True)
        best = {
            who: min(runs, key=lambda r: r["total_s"]) if runs else None
            for who, runs in runs.items()
        }
        averages = [row["AP"] for row in best.values() if row and "AP" in row]
        np.testing.assert_allclose(averages, averages[0], rtol=1e-9)
        figures[name] = {
            "images": int(size.images * scale),
            "classes": size.classes,
            "detections": int(size.detections * scale),
            "evaluators": best,
        }
    print(table(figures))
    return figures


def table(figures: dict[str, Any]) -> str:
    """Rows: sets and evaluators. Columns: seconds, megabytes, and how many times less they are."""
    heads = ["set", "evaluator", "load s", "evaluate s", "both s"]
    heads += ["CPU s (x less)", "peak MB (x less)"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, size in figures.items():
        rows = size["evaluators"]
        base = next(iter(rows.values()))
        words = (
            f"{name}: {size['images']:,} images, {size['classes']:,} classes, "
            f"{size['detections']:,} detections"
        )
        for who, row in rows.items():
            if row is None:
                lines.append(f"| {words} | {who} | could not be installed | | | | |")
                continue
            steps = [f"{row[key]:.2f}" if key in row else "" for key in ("load_s", "evaluate_s")]
            rest = [f"{row['total_s']:.2f}"]
            # Ratios of CPU time: what else the machine did does not show in them.
            for key, digits in (("cpu_s", 2), ("peak_mb", 0)):
                compared = base is not None and row is not base and base is not rows.get("hotcoco")
                ratio = f" ({base[key] / row[key]:.1f}x)" if compared else ""
                rest.append(f"{row[key]:.{digits}f}{ratio}")
            lines.append(f"| {words} | {who} | {' | '.join([*steps, *rest])} |")
            words = ""
    return "\n".join(lines)


def install_peers() -> None:
    """Put the peers that are not there into a folder of their own."""
    for module, pinned in PINNED.items():
        if not (PEERS / module).exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
            done = subprocess.run([*command, str(PEERS), pinned], check=False)
            if done.returncode:
                print(f"{pinned} could not be installed and is left out.")


def available(who: str) -> bool:
    """Whether an evaluator can run."""
    module = {"lvis-api": "lvis", "faster-coco-eval": "faster_coco_eval"}.get(who)
    return module is None or (PEERS / module).exists()


def run(who: str, annotations: Path, results: Path, style: str) -> dict[str, float]:
    """Run one evaluator, or the command, in its own process."""
    if who in (REPORT, DRAWN):
        command = [str(ROOT / "tools/report.py"), str(annotations), str(results)]
        command += who.split()[2:]
    else:
        command = [str(Path(__file__).with_name("_evaluators.py")), who]
        command += [str(annotations), str(results), style]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    total = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{who} failed with status {status}")
    figures = {"total_s": total, "cpu_s": usage.ru_utime + usage.ru_stime}
    if who not in (REPORT, DRAWN):
        own = json.loads(output.splitlines()[-1])
        figures = {**own, "total_s": own["load_s"] + own["evaluate_s"]}
    return {**figures, "peak_mb": usage.ru_maxrss / 1024}


def write_set(folder: Path, size: Size, scale: float) -> None:
    """Write annotations and results."""
    rng = np.random.default_rng(0)
    images, detections = int(size.images * scale), int(size.detections * scale)
    share = 1 / np.arange(1, size.classes + 1)
    share /= share.sum()
    count = int(images * size.boxes_per_image)
    image_of = np.sort(rng.integers(1, images + 1, count))
    class_of = rng.choice(size.classes, count, p=share) + 1
    boxes = np.c_[rng.uniform(0, 500, (count, 2)), np.exp(rng.normal(4, 0.9, (count, 2)))]
    # A third of the detections lies around a box, the others anywhere.
    close = rng.integers(0, count, detections // 3)
    moved = boxes[close] + rng.normal(0, 0.08, (len(close), 4)) * np.tile(boxes[close, 2:], 2)
    moved[:, 2:] = np.maximum(moved[:, 2:], 1)
    far = detections - len(close)
    away = np.c_[rng.uniform(0, 500, (far, 2)), np.exp(rng.normal(4, 0.9, (far, 2)))]
    found = zip(
        np.r_[image_of[close], rng.integers(1, images + 1, far)].tolist(),
        np.r_[class_of[close], rng.choice(size.classes, far, p=share) + 1].tolist(),
        np.r_[moved, away].round(2).tolist(),
        np.r_[rng.beta(4, 2, len(close)), rng.beta(1, 5, far)].round(4).tolist(),
        strict=True,
    )
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, values, strict=True)) for values in found]
    order = np.argsort([entry["image_id"] for entry in results], kind="stable")
    (folder / "results.json").write_text(json.dumps([results[i] for i in order]))
    crowd = (rng.random(count) < 0.01) & (size.style == "coco")
    notes = [
        {
            "id": i,
            "image_id": image,
            "category_id": label,
            "bbox": bbox,
            "iscrowd": int(is_crowd),
            "area": bbox[2] * bbox[3],
            "segmentation": [],
        }
        for i, (image, label, bbox, is_crowd) in enumerate(
            zip(image_of.tolist(), class_of.tolist(), boxes.round(2).tolist(), crowd, strict=True),
            start=1,
        )
    ]
    truth = {
        "images": [{"id": i, "width": 10_000, "height": 10_000} for i in range(1, images + 1)],
        "categories": [
            {"id": c, "name": f"class {c}", "frequency": "rcf"[min(2, int(math.log10(n + 1)))]}
            for c, n in enumerate(np.bincount(class_of, minlength=size.classes + 1)[1:].tolist(), 1)
        ],
        "annotations": notes,
    }
    if size.style == "lvis":
        present = np.split(class_of, np.searchsorted(image_of, np.arange(2, images + 1)))
        for image, here in zip(truth["images"], present, strict=True):
            looked_for = rng.integers(1, size.classes + 1, 20)
            image["neg_category_ids"] = np.setdiff1d(looked_for, here).tolist()
            image["not_exhaustive_category_ids"] = np.unique(here[:2]).tolist()
    (folder / "val.json").write_text(json.dumps(truth))


if __name__ == "__main__":
    share_of_full_size = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    if len(sys.argv) == 4:
        write_set(Path(sys.argv[2]), SIZES[sys.argv[3]], share_of_full_size)
    else:
        main(share_of_full_size)
