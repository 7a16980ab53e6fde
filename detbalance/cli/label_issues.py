"""`detbalance label-issues`: annotated boxes whose labels look wrong, images of unknown objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from detbalance.cli.options import (
    DetectorOptions,
    Features,
    Seed,
    ShownFrom,
    TrainedOn,
    Whole,
    command,
)
from detbalance.cli.outputs import Output
from detbalance.cli.printing import print_table, progress, say
from detbalance.data import Annotations
from detbalance.data.files import replace_file
from detbalance.data.images import read_image
from detbalance.data.messages import counted
from detbalance.reporting.files import csv_lines
from detbalance.reporting.label_issues import FORMAT

if TYPE_CHECKING:
    from detbalance.repair.label_issues import LabelIssues
    from detbalance.repair.novelty import NovelImages


NAME = "label_issues"
_PRINTED = 15


@command(
    "label-issues",
    "detbalance label-issues --checkpoint best.pt --annotations train.json --images train"
    " --output issues",
    overwrite="Replace what the folder holds.",
)
def label_issues_command(
    *,
    options: DetectorOptions,
    annotations: TrainedOn,
    images: Annotated[Path, "Folder of its images."],
    output: Annotated[
        Path,
        Output("label_issues.*", holds="label issues"),
        "Folder for label_issues.json, label_issues.csv and a sheet.",
    ],
    features: Features = None,
    judge: Annotated[
        Literal["combined", "classifier", "detector"],
        "A classifier that has not seen the image, the detector, or the mean of both.",
    ] = "combined",
    score_threshold: ShownFrom = 0.3,
    sheet: Annotated[int, Whole(0), "Boxes on the sheet of pictures; 0 for none."] = 48,
    seed: Seed = 0,
) -> None:
    """Judge every label by what other images taught, write lists and a sheet to look at."""
    from detbalance.cli.region_data import Detector, region_data
    from detbalance.repair.collecting import RegionQuota
    from detbalance.repair.label_issues import find_label_issues
    from detbalance.repair.novelty import novel_images

    detector = Detector.read(options)
    truth = detector.annotations(annotations, images)
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
    )
    with progress("judging", "fits") as tell:
        issues = find_label_issues(
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
    records = _records(issues, truth)
    about = {
        "format": FORMAT,
        "checkpoint": str(options.checkpoint),
        "annotations": str(annotations),
        "images": str(images.absolute()),
        "judge": judge,
        "judged_by": "what regions of other images taught, by cross-fitting",
        "boxes_judged": len(records),
        "boxes_not_judged": int((~truth.is_crowd).sum()) - len(records),
        "classes_with_too_few_boxes": [truth.categories.name(label) for label in issues.few],
        "label_issues": records,
        "score_threshold": score_threshold,
        "novel_images": _novel_records(novel, truth),
    }
    names = [name for name in records[0] if name != "bbox"] if records else ["rank"]
    lines = csv_lines([names, *([record[name] for name in names] for record in records)])
    written = []
    for suffix, text in (("json", json.dumps(about, indent=1)), ("csv", lines)):
        written.append(output / f"{NAME}.{suffix}")
        with replace_file(written[-1]) as file:
            file.write(text.encode())
    if sheet and records:
        written.append(_draw(issues, truth, images, output / f"{NAME}.png", sheet))
    _print(about)
    say(
        f"Written: {', '.join(map(str, written))}",
        f"To see them by class, rarest first: detbalance report GT.JSON PREDICTIONS.JSON --output"
        f" REPORT --label-issues {output}",
    )


def _records(issues: LabelIssues, truth: Annotations) -> list[dict[str, Any]]:
    seen: dict[int, int] = {}
    records = []
    for place, (row, label, likely, suspicion) in enumerate(
        zip(issues.rows, issues.labels, issues.likely, issues.suspicion, strict=True), start=1
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


def _novel_records(novel: NovelImages, truth: Annotations) -> list[dict[str, Any]]:
    return [
        {
            "image_id": int(truth.image_ids[image]),
            "file_name": truth.file_name(int(image)),
            "ood_score": round(float(ood_score), 3),
            "box": [round(float(value), 1) for value in box],
            "annotation_id": int(truth.annotation_ids[row]) if row >= 0 else None,
        }
        for image, ood_score, box, row in zip(
            novel.images, novel.ood_score, novel.boxes, novel.rows, strict=True
        )
    ]


def _draw(issues: LabelIssues, truth: Annotations, images: Path, path: Path, count: int) -> Path:
    """The most suspicious boxes with what is around them."""
    from detbalance.reporting.gallery import part_around
    from detbalance.reporting.pictures import OWN, PASTED, Tile, save_sheet

    cells = []
    for row, label, likely in zip(
        issues.rows[:count], issues.labels[:count], issues.likely[:count], strict=True
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


def _print(about: dict[str, Any]) -> None:
    novel, few = about["novel_images"], about["classes_with_too_few_boxes"]
    print_table(
        ("annotation", "image", "class", "looks like", "suspicion"),
        (
            (
                str(one["annotation_id"]),
                one["file_name"],
                one["class"],
                one["looks_like"] or "-",
                f"{one['suspicion']:.2f}",
            )
            for one in about["label_issues"][:_PRINTED]
        ),
        f"{counted(about['boxes_judged'], 'box')} judged, {about['boxes_not_judged']} not; image of"
        f" an unknown object: {novel[0]['file_name'] if novel else '-'}",
        *([f"Too few boxes to be judged: {', '.join(few)}"] if few else []),
        num_texts=4,
    )
