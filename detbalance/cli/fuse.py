"""`detbalance fuse`: several results files made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from detbalance.calibration import Options, choose_fusion, fuse
from detbalance.calibration.fusion import Confidence, check_weights, keep_best
from detbalance.calibration.fusion_members import settings_to_try
from detbalance.cli.evaluating import (
    check_same_classes,
    load_probabilities,
    results_file,
    training_frequency,
)
from detbalance.cli.options import DROP_INVALID, FILE, RULES, SEED, Real, Whole, command
from detbalance.cli.outputs import OUTPUT_FILE, overwrite
from detbalance.cli.progress import waiting
from detbalance.data import Predictions, load_annotations, save_predictions
from detbalance.data.messages import counted
from detbalance.evaluation.rules import RulesChoice, choose_rules
from detbalance.reporting.calibration_document import fusion_document
from detbalance.reporting.console import print_document
from detbalance.reporting.terminal import say

_SECONDS = 3e-6  # about what one detection takes, for each fold and each setting tried


@command("fuse", "detbalance fuse a.json b.json --annotations val.json --output fused.json")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="RESULTS.JSON...")
@click.option("--annotations", required=True, type=FILE, help="COCO file that lists the images.")
@click.option("--output", required=True, type=OUTPUT_FILE, help="COCO results file to write.")
@click.option(
    "--method",
    default="wbf",
    type=click.Choice(["wbf", "nms", "soft_nms"]),
    help="Weighted boxes fusion, NMS, soft-NMS.",
)
@click.option(
    "--iou",
    "iou_thresholds",
    multiple=True,
    default=(0.55,),
    type=Real(0, 1, max_open=True),
    help="Boxes of a class that overlap more are one object. Repeatable with --calibrate-on: the"
    " best is chosen, the first unless another is clearly better.",
)
@click.option(
    "--fused-score",
    "confidence",
    default="box_and_model_avg",
    type=click.Choice(["box_and_model_avg", "avg", "max", "absent_model_aware_avg"]),
    help="How wbf makes one score of several.",
)
@click.option(
    "--sigma",
    default=0.5,
    type=Real(0, min_open=True),
    help="Of soft_nms: the larger, the less scores are lowered.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=Real(max=1e9),
    help="Weight of a results file, once for each, in their order. Default: equal, or chosen by"
    " --calibrate-on.",
)
@click.option(
    "--calibrate-on",
    type=FILE,
    help="COCO file, not training data, to make scores comparable and to choose weights on. That of"
    " --annotations will do: then each part of it is fused by what the others say.",
)
@click.option(
    "--calibration-predictions",
    multiple=True,
    type=FILE,
    help="Results on --calibrate-on, once for each results file, in their order.",
)
@click.option(
    "--train",
    "train_file",
    type=FILE,
    help="COCO file of the training data, to say what fusion does to rare and frequent classes.",
)
@click.option(
    "--score-threshold",
    default=0.0,
    type=Real(0, 1),
    help="Leave out detections with a lower score before they are fused.",
)
@click.option(
    "--min-fused-score",
    default=0.0,
    type=Real(0, 1),
    help="Leave out fused detections with a lower score.",
)
@click.option(
    "--max-detections",
    type=Whole(1),
    help="Detections of an image that stay. Default: 100, by LVIS's rules 300.",
)
@RULES
@click.option(
    "--folds",
    default=5,
    type=Whole(3),
    help="Parts of the calibration images; each is judged by what the others say.",
)
@SEED
@DROP_INVALID
@overwrite("Replace the output file.")
def fuse_command(
    files: tuple[Path, ...],
    annotations: Path,
    output: Path,
    method: str,
    iou_thresholds: tuple[float, ...],
    confidence: Confidence,
    sigma: float,
    weights: tuple[float, ...],
    calibrate_on: Path | None,
    calibration_predictions: tuple[Path, ...],
    train_file: Path | None,
    score_threshold: float,
    min_fused_score: float,
    max_detections: int | None,
    rules: RulesChoice,
    folds: int,
    seed: int,
    drop_invalid: bool,
) -> None:
    """Read, choose where there is something to choose on, print, fuse and write."""
    members = [results_file(file) for file in files]
    on_itself = calibrate_on is not None and calibrate_on.resolve() == annotations.resolve()
    _check(
        members,
        weights,
        calibrate_on,
        calibration_predictions,
        train_file,
        iou_thresholds,
        on_itself=on_itself,
    )
    truth = load_annotations(annotations, drop_invalid=drop_invalid, needs_boxes=on_itself)
    detections = [load_probabilities(member, truth) for member in members]
    cap = max_detections or choose_rules(truth, rules).max_detections
    options = Options(
        iou_threshold=iou_thresholds[0],
        confidence=confidence,
        sigma=sigma,
        score_threshold=score_threshold,
        min_fused_score=min_fused_score,
        max_detections=cap,
    )
    if calibrate_on is None:
        uncut = replace(options, max_detections=None)
        fused = fuse(detections, method, weights=weights or None, options=uncut)
        if len(members) > 1:
            say(
                "Note: scores of different files were taken as they are. With --calibrate-on they"
                " are made comparable first, and weights are chosen.",
                "yellow",
            )
    else:
        calibration, known = truth, detections
        if not on_itself:
            calibration = load_annotations(calibrate_on, drop_invalid=drop_invalid)
            check_same_classes(calibration, truth)
            known = [
                load_probabilities(results_file(file), calibration)
                for file in calibration_predictions
            ]
        work = sum(one.num_predictions for one in known) * folds
        seconds = _SECONDS * work * len(settings_to_try(iou_thresholds, len(members)))
        with waiting("choosing how to fuse", seconds):
            choice = choose_fusion(
                calibration,
                known,
                method,
                names=[str(member) for member in members],
                options=options,
                iou_thresholds=iou_thresholds,
                frequency=training_frequency(train_file, calibrate_on, drop_invalid),
                rules=rules,
                num_folds=folds,
                seed=seed,
            )
        print_document(fusion_document(choice))
        for warning in choice.warnings:
            say(f"Warning: {warning}", "bold red")
        if on_itself:
            say(
                f"Note: each of the {folds} parts of {annotations} was fused by what the"
                " others say, since scores were calibrated and weights chosen on this file."
                " Figures of the output are held-out ones.",
                "yellow",
            )
        uncut = replace(choice.options, max_detections=None)
        fused = choice.held_out if on_itself else replace(choice, options=uncut).fuse(detections)
    kept = keep_best(fused, cap)
    if note := _cut(fused, cap, is_cut=on_itself):
        say(f"Note: {note}", "yellow")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(output, kept, truth)
    files_read = counted(len(members), "file")
    say(
        f"Written: {output} ({counted(kept.num_predictions, 'detection')} of"
        f" {sum(d.num_predictions for d in detections):,} in {files_read})",
        "",
    )


def _cut(fused: Predictions, cap: int | None, *, is_cut: bool) -> str:
    """Say what the cap of an image leaves out, or where it may have left out something."""
    number = np.bincount(fused.image_index)
    if cap is None or number.max(initial=0) < cap + (not is_cut):
        return ""
    limit = f"an image keeps its best {cap} (--max-detections)"
    if is_cut:
        full = counted(int((number == cap).sum()), "image has", "images have")
        return f"{full} {cap} detections and may have had more: {limit}."
    full = counted(int((number > cap).sum()), "image has", "images have")
    cut = int(np.maximum(number - cap, 0).sum())
    were = "was" if cut == 1 else "were"
    return f"{cut:,} of {number.sum():,} fused detections {were} cut: {limit}, and {full} more."


def _check(
    members: Sequence[Path],
    weights: Sequence[float],
    calibrate_on: Path | None,
    calibration_predictions: Sequence[Path],
    train_file: Path | None,
    iou_thresholds: Sequence[float],
    *,
    on_itself: bool,
) -> None:
    """Refuse options that do not go together."""
    if weights:
        if calibrate_on is not None:
            raise ValueError(
                "--weight, --calibrate-on: both are given. Weights are either given or chosen on"
                " data. Leave out one of them."
            )
        if len(weights) != len(members):
            raise ValueError(
                f"--weight: {len(weights)} weights for {len(members)} results files. One for each"
                " is expected, in their order. Repeat --weight."
            )
        check_weights(weights, len(members))
    if calibrate_on is None:
        for option, given in (
            ("--calibration-predictions", bool(calibration_predictions)),
            ("--train", train_file is not None),
            ("--iou, more than one", len(iou_thresholds) > 1),
        ):
            if given:
                raise ValueError(
                    f"{option}: --calibrate-on is missing. A file to choose and judge on is"
                    " expected. Add --calibrate-on val.json."
                )
        return
    if train_file is not None and train_file.resolve() == calibrate_on.resolve():
        raise ValueError(
            f"--calibrate-on: {calibrate_on} is the training file too. Scores on images that"
            " detectors learned from are too high; other images are expected. Calibrate on the"
            " validation file."
        )
    if on_itself and calibration_predictions:
        raise ValueError(
            "--calibration-predictions: --calibrate-on is the file of --annotations, whose results"
            " are given. None are expected. Leave them out."
        )
    if not on_itself and len(calibration_predictions) != len(members):
        raise ValueError(
            f"--calibration-predictions: {len(calibration_predictions)} for {len(members)} results"
            f" files. Results of each on {calibrate_on} are expected, in their order. Repeat"
            " --calibration-predictions."
        )
