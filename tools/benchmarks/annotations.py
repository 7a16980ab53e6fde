"""Loading annotations: CPU time, memory, and growth of loader workers, against pycocotools.

The file is made up in the size of COCO train2017 (118k images, 860k boxes with polygons, about
450 MB). Each reader loads it in a process of its own, readers taking turns, twice. Memory is what
the process holds after loading, interpreter and libraries included. Growth is the private memory
that a forked worker gains while it reads the boxes of every image once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, BOXES, CATEGORIES = 118_287, 860_001, 80
WORKERS = 4
READERS = {
    "pycocotools COCO()": "pycocotools",
    "detbalance": "detbalance",
    "detbalance, segmentations": "segmentations",
}


def main(scale: float = 1.0) -> dict[str, object]:
    """Measure all readers, print the table, and return the figures.

    Args:
        scale: share of the full size, for a quick look.

    Returns:
        For each reader: cpu_s (both passes), resident_mb, peak_mb, growth_mb of each worker, and
        the same figures relative to pycocotools.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        size = write_file(path, scale)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
        for _ in range(2):
            for name, reader in READERS.items():
                output = subprocess.run(
                    [sys.executable, __file__, reader, str(path)],
                    check=True,
                    stdout=subprocess.PIPE,
                )
                runs[name].append(json.loads(output.stdout))
    figures: dict[str, object] = {"file_mb": size, "boxes": int(BOXES * scale)}
    base = mean_of(runs["pycocotools COCO()"])
    print(f"\nLoading annotations: {size:.0f} MB, {int(BOXES * scale)} boxes; {WORKERS} workers")
    print(
        f"{'reader':<28}{'CPU s (two passes)':>20}{'':>9}{'resident MB':>13}{'':>9}"
        f"{'peak MB':>9}{'growth per worker MB':>22}"
    )
    for name, passes in runs.items():
        mean = mean_of(passes)
        ratio = {key: base[key] / mean[key] for key in KEYS}
        cpu = " / ".join(f"{run['cpu_s']:.2f}" for run in passes)
        print(
            f"{name:<28}{cpu:>20}{ratio['cpu_s']:>8.1f}x{mean['resident_mb']:>13.0f}"
            f"{ratio['resident_mb']:>8.1f}x{mean['peak_mb']:>9.0f}{mean['growth_mb']:>22.1f}"
        )
        figures[name] = {"passes": passes, "mean": mean, "pycocotools_over_this": ratio}
    print("x: how many times less than pycocotools.")
    return figures


def table(figures: dict[str, Any]) -> str:
    """Rows: readers. Columns: mean figures, and how many times less than pycocotools."""
    lines = ["| reader | CPU s | resident MB | growth per loader worker, MB |", "|---" * 4 + "|"]
    for name in READERS:
        mean, ratio = figures[name]["mean"], figures[name]["pycocotools_over_this"]
        less = {key: f" ({ratio[key]:.1f}x less)" if ratio[key] != 1 else "" for key in KEYS}
        lines.append(
            f"| {name} | {mean['cpu_s']:.1f}{less['cpu_s']}"
            f" | {mean['resident_mb']:.0f}{less['resident_mb']} | {mean['growth_mb']:.1f} |"
        )
    return "\n".join(lines)


def mean_of(passes: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the passes."""
    return {key: float(np.mean([run[key] for run in passes])) for key in KEYS}


KEYS = ("cpu_s", "resident_mb", "peak_mb", "growth_mb")


def write_file(path: Path, scale: float) -> float:
    """Write a COCO file with polygons; return its size in MB."""
    rng = np.random.default_rng(0)
    images, boxes = int(IMAGES * scale), int(BOXES * scale)
    # A pool of polygons, since their text is only there to be read over.
    lengths = rng.geometric(1 / 19, size=997) * 2 + 6
    polygons = [json.dumps([rng.uniform(0, 640, n).round(2).tolist()]) for n in lengths]
    image_of = rng.integers(1, images + 1, boxes).tolist()
    category_of = rng.integers(1, CATEGORIES + 1, boxes).tolist()
    corners = rng.uniform(0, 400, (boxes, 2)).round(2).tolist()
    sides = rng.uniform(2, 80, (boxes, 2)).round(2).tolist()
    with path.open("w") as file:
        file.write('{"info": {}, "licenses": [], "categories": ')
        json.dump([{"id": c + 1, "name": f"class {c}"} for c in range(CATEGORIES)], file)
        file.write(', "images": [')
        file.write(
            ", ".join(
                f'{{"license": 3, "file_name": "{i:012d}.jpg", "coco_url": '
                f'"http://images.example.org/train2017/{i:012d}.jpg", "height": 480, "width": 640, '
                f'"date_captured": "2013-11-14 11:18:45", "flickr_url": '
                f'"http://farm9.example.org/8186/{i:010d}_cbd8119fad_z.jpg", "id": {i}}}'
                for i in range(1, images + 1)
            )
        )
        file.write('], "annotations": [')
        for start in range(0, boxes, 10_000):
            file.write(", " if start else "")
            file.write(
                ", ".join(
                    f'{{"segmentation": {polygons[n % 997]}, "area": {w * h:.4f}, "iscrowd": '
                    f'{int(n % 100 == 0)}, "image_id": {image_of[n]}, "bbox": '
                    f"[{x}, {y}, {w}, {h}], "
                    f'"category_id": {category_of[n]}, "id": {n + 1}}}'
                    for n in range(start, min(start + 10_000, boxes))
                    for (x, y), (w, h) in [(corners[n], sides[n])]
                )
            )
        file.write("]}")
    return path.stat().st_size / 1e6


def measure(reader: str, path: str) -> dict[str, float]:
    """Load the file with one reader in this process, then fork workers that read all boxes."""
    if reader == "pycocotools":
        from pycocotools.coco import COCO

        started = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = COCO(path)
        cpu = time.process_time() - started

        def read_boxes() -> float:
            return sum(
                box["bbox"][0]
                for image_id in loaded.getImgIds()
                for box in loaded.loadAnns(loaded.getAnnIds(imgIds=image_id))
            )
    else:
        from detbalance.data import load_annotations

        started = time.process_time()
        annotations = load_annotations(path, segmentations=reader == "segmentations")
        cpu = time.process_time() - started

        def read_boxes() -> float:
            return sum(
                float(annotations.boxes[annotations.rows(image), 0].sum())
                for image in range(annotations.num_images)
            )

    status = memory("/proc/self/status")
    return {
        "cpu_s": cpu,
        "resident_mb": status["VmRSS"],
        "peak_mb": status["VmHWM"],
        "growth_mb": float(np.mean([growth(read_boxes) for _ in range(WORKERS)])),
    }


def growth(read_boxes) -> float:
    """Return how much private memory a forked worker gains by reading, in MB."""
    receive, send = os.pipe()
    worker = os.fork()
    if worker == 0:
        before = private()
        read_boxes()
        os.write(send, str(private() - before).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        gained = float(pipe.read())
    os.waitpid(worker, 0)
    return gained


def private() -> float:
    """Return the memory of this process that no other process shares, in MB."""
    rollup = memory("/proc/self/smaps_rollup")
    return rollup["Private_Clean"] + rollup["Private_Dirty"]


def memory(path: str) -> dict[str, float]:
    """Return the sizes in a file of /proc in MB."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0][:-1]: int(words[1]) / 1024 for words in lines if words[-1] == "kB"}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        json.dump(measure(sys.argv[1], sys.argv[2]), sys.stdout)
    else:
        main()
