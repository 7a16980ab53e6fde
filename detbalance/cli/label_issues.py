"""`detbalance label-issues`: annotated boxes whose labels look wrong, images of unknown objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.table import Table

from detbalance.cli.options import (
    BATCH_SIZE,
    CHECKPOINT,
    DEVICE,
    DROP_INVALID,
    FEATURES,
    FILE,
    SEED,
    SHOWN_FROM,
    TRAINED_ON,
    WORKERS,
    Whole,
    command,
)
from detbalance.cli.outputs import Output, overwrite
from detbalance.cli.progress import progress
from detbalance.data import Annotations
from detbalance.data.files import replace_file
from detbalance.data.images import read_image
from detbalance.data.messages import counted
from detbalance.reporting.files import csv_lines
from detbalance.reporting.label_issues import FORMAT
from detbalance.reporting.terminal import Console

if TYPE_CHECKING:
    from detbalance.repair.label_issues import LabelIssues
    from detbalance.repair.novelty import NovelImages


NAME = "label_issues"
_PRINTED = 15


@command(
    "label-issues",
    "detbalance label-issues --checkpoint best.pt --annotations train.json --images train"
    " --output issues",
)
@CHECKPOINT
@TRAINED_ON
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--output",
    required=True,
    type=Output("label_issues.*", holds="label issues"),
    help="Folder for label_issues.json, label_issues.csv and a sheet.",
)
@FEATURES
@click.option(
    "--judge",
    default="combined",
    type=click.Choice(["combined", "classifier", "detector"]),
    help="A classifier that has not seen the image, the detector, or the mean of both.",
)
@SHOWN_FROM
@click.option(
    "--sheet",
    default=48,
    type=Whole(0),
    help="Boxes on the sheet of pictures; 0 for none.",
)
@BATCH_SIZE
@WORKERS
@DEVICE
@SEED
@DROP_INVALID
@overwrite("Replace what the folder holds.")
def label_issues_command(
    checkpoint: Path,
    annotations: Path,
    images: Path,
    output: Path,
    features: Path | None,
    judge: str,
    score_threshold: float,
    sheet: int,
    batch_size: int,
    workers: int | None,
    device: str | None,
    seed: int,
    drop_invalid: bool,
) -> None:
    """Judge every label by what other images taught, write lists and a sheet to look at."""
    from detbalance.cli.region_data import Detector, region_data
    from detbalance.repair.collecting import RegionQuota
    from detbalance.repair.label_issues import find_label_issues
    from detbalance.repair.novelty import novel_images

    detector = Detector.read(checkpoint, device)
    truth = detector.annotations(annotations, images, drop_invalid)
    output.mkdir(parents=True, exist_ok=True)
    every = max(1, len(truth.labels))
    data = region_data(
        detector,
        truth,
        images,
        features or output / "features",
        # Every box is to be judged, and background serves only to know it.
        limits=RegionQuota(every, hard=16, random=8, boxes=every),
        repeats=0,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
    )
    with progress("judging", "fits") as tell:
        found = find_label_issues(
            data.samples, data.rows, data.scores, judge, seed=seed, progress=tell
        )
    plain = np.flatnonzero(data.plain)
    novel = novel_images(
        data.samples.take(plain),
        data.rows[plain],
        data.scores[plain],
        data.boxes[plain],
        floor=score_threshold,
        seed=seed,
    )
    records = _records(found, truth)
    about = {
        "format": FORMAT,
        "checkpoint": str(checkpoint),
        "annotations": str(annotations),
        "images": str(images.absolute()),
        "judge": judge,
        "judged_by": "what regions of other images taught, by cross-fitting",
        "boxes_judged": len(records),
        "boxes_not_judged": int((~truth.is_crowd).sum()) - len(records),
        "classes_with_too_few_boxes": [truth.categories.name(label) for label in found.few],
        "label_issues": records,
        "score_threshold": score_threshold,
        "novel_images": _novel_records(novel, truth),
    }
    with replace_file(output / f"{NAME}.json") as file:
        file.write(json.dumps(about, indent=1).encode())
    with replace_file(output / f"{NAME}.csv") as file:
        file.write(_table(records).encode())
    written = [output / f"{NAME}.json", output / f"{NAME}.csv"]
    if sheet and records:
        written.append(_draw(found, truth, images, output / f"{NAME}.png", sheet))
    _print(about, [str(path) for path in written])
    Console().print(
        f"To see them by class, rarest first: detbalance report GT.JSON PREDICTIONS.JSON --output"
        f" REPORT --label-issues {output}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _records(found: LabelIssues, truth: Annotations) -> list[dict[str, Any]]:
    seen: dict[int, int] = {}
    records = []
    for place, (row, label, likely, suspicion) in enumerate(
        zip(found.rows, found.labels, found.likely, found.suspicion, strict=True), start=1
    ):
        seen[int(label)] = seen.get(int(label), 0) + 1
        image = int(truth.image_index[row])
        records.append(
            {
                "rank": place,
                "rank_in_class": seen[int(label)],
                "annotation_id": int(truth.annotation_ids[row]),
                "image_id": int(truth.image_ids[image]),
                "file_name": truth.file_name(image),
                "class": truth.categories.name(int(label)),
                "looks_like": truth.categories.name(int(likely)) if likely else None,
                "suspicion": round(float(suspicion), 4),
                "bbox": [round(float(value), 2) for value in truth.bbox[row]],
            }
        )
    return records


def _novel_records(found: NovelImages, truth: Annotations) -> list[dict[str, Any]]:
    return [
        {
            "image_id": int(truth.image_ids[image]),
            "file_name": truth.file_name(int(image)),
            "ood_score": round(float(ood_score), 3),
            "box": [round(float(value), 1) for value in box],
            "annotation_id": int(truth.annotation_ids[row]) if row >= 0 else None,
        }
        for image, ood_score, box, row in zip(
            found.images, found.ood_score, found.boxes, found.rows, strict=True
        )
    ]


def _table(records: list[dict[str, Any]]) -> str:
    names = [name for name in records[0] if name != "bbox"] if records else ["rank"]
    return csv_lines([names, *([record[name] for name in names] for record in records)])


def _draw(found: LabelIssues, truth: Annotations, images: Path, path: Path, count: int) -> Path:
    """The most suspicious boxes with what is around them."""
    from detbalance.reporting.gallery import part_around
    from detbalance.reporting.pictures import OWN, PASTED, Tile, save_sheet

    cells = []
    for row, label, likely in zip(
        found.rows[:count], found.labels[:count], found.likely[:count], strict=True
    ):
        pixels = read_image(truth.image_path(int(truth.image_index[row]), images))
        bbox = truth.bbox[row].astype(np.float64)
        left, top, width, height = part_around(pixels, bbox, np.zeros((0, 4)))
        part = pixels[top : top + height, left : left + width]
        box = truth.boxes[row] - np.array([left, top] * 2)
        name = truth.categories.name(int(label))
        looks = f"like {truth.categories.name(int(likely))}" if likely else ""
        color = PASTED if likely else OWN
        number = f"{truth.annotation_ids[row]}"
        cells.append(Tile(part, number, box[None], (name,), (color,), looks))
    title = "labels that look wrong: id, class that it looks like; on the box the label as it is"
    return save_sheet(cells, path, columns=8, width=150, title=title)


def _print(about: dict[str, Any], written: list[str]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    for name in ("annotation", "image", "class", "looks like", "suspicion"):
        table.add_column(name, justify="right" if name == "suspicion" else "left")
    for one in about["label_issues"][:_PRINTED]:
        table.add_row(
            str(one["annotation_id"]),
            one["file_name"],
            one["class"],
            one["looks_like"] or "-",
            f"{one['suspicion']:.2f}",
        )
    console.print(table, highlight=False, markup=False)
    console.print(
        f"{counted(about['boxes_judged'], 'box')} judged, {about['boxes_not_judged']} not;"
        " image of an unknown object:"
        f" {about['novel_images'][0]['file_name'] if about['novel_images'] else '-'}",
        highlight=False,
        markup=False,
    )
    if about["classes_with_too_few_boxes"]:
        few = ", ".join(about["classes_with_too_few_boxes"])
        console.print(f"Too few boxes to be judged: {few}", highlight=False, markup=False)
    console.print(f"Written: {', '.join(written)}", soft_wrap=True, highlight=False, markup=False)
