"""`detbalance fuse`: several results files made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

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
from detbalance.cli.options import DropInvalid, Folds, Positional, Real, Rules, Seed, Whole, command
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.cli.printing import say, waiting
from detbalance.data import Predictions, load_annotations, save_predictions
from detbalance.data.messages import counted
from detbalance.evaluation.rules import choose_rules
from detbalance.reporting.calibration_document import fusion_document
from detbalance.reporting.console import print_document

_SECONDS = 3e-6  # about what one detection takes, for each fold and each setting tried


@command(
    "fuse",
    "detbalance fuse a.json b.json --annotations val.json --output fused.json",
    overwrite="Replace the output file.",
)
def fuse_command(
    *,
    files: Annotated[tuple[Path, ...], Positional("RESULTS.JSON...")],
    annotations: Annotated[Path, "COCO file that lists the images."],
    output: Annotated[Path, OUTPUT_FILE, "COCO results file to write."],
    method: Annotated[
        Literal["wbf", "nms", "soft_nms"], "Weighted boxes fusion, NMS, soft-NMS."
    ] = "wbf",
    iou_thresholds: Annotated[
        tuple[float, ...],
        "--iou",
        Real(0, 1, max_open=True),
        "Boxes of a class that overlap more are one object. Repeatable with --calibrate-on: the"
        " best is chosen, the first unless another is clearly better.",
    ] = (0.55,),
    confidence: Annotated[
        Confidence, "--fused-score", "How wbf makes one score of several."
    ] = "box_and_model_avg",
    sigma: Annotated[
        float, Real(0, min_open=True), "Of soft_nms: the larger, the less scores are lowered."
    ] = 0.5,
    weights: Annotated[
        tuple[float, ...],
        "--weight",
        Real(max=1e9),
        "Weight of a results file, once for each, in their order. Default: equal, or chosen by"
        " --calibrate-on.",
    ] = (),
    calibrate_on: Annotated[
        Path | None,
        "COCO file, not training data, to make scores comparable and to choose weights on. That of"
        " --annotations will do: then each part of it is fused by what the others say.",
    ] = None,
    calibration_predictions: Annotated[
        tuple[Path, ...], "Results on --calibrate-on, once for each results file, in their order."
    ] = (),
    train_file: Annotated[
        Path | None,
        "--train",
        "COCO file of the training data, to say what fusion does to rare and frequent classes.",
    ] = None,
    score_threshold: Annotated[
        float, Real(0, 1), "Leave out detections with a lower score before they are fused."
    ] = 0.0,
    min_fused_score: Annotated[
        float, Real(0, 1), "Leave out fused detections with a lower score."
    ] = 0.0,
    max_detections: Annotated[
        int | None, Whole(1), "Detections of an image that stay. Default: 100, by LVIS's rules 300."
    ] = None,
    rules: Rules = "auto",
    folds: Folds = 5,
    seed: Seed = 0,
    drop_invalid: DropInvalid = False,
) -> None:
    """Read, choose where there is something to choose on, print, fuse and write."""
    members = [results_file(file) for file in files]
    on_itself = calibrate_on is not None and calibrate_on.resolve() == annotations.resolve()
    _check_weights(weights, members, calibrate_on)
    if calibrate_on is None:
        for option, is_given in (
            ("--calibration-predictions", bool(calibration_predictions)),
            ("--train", train_file is not None),
            ("--iou, more than one", len(iou_thresholds) > 1),
        ):
            if is_given:
                raise ValueError(
                    f"{option}: --calibrate-on is missing. A file to choose and judge on is"
                    " expected. Add --calibrate-on val.json."
                )
    else:
        _check_calibration(calibrate_on, calibration_predictions, members, on_itself=on_itself)
        frequency = training_frequency(train_file, calibrate_on, drop_invalid, "--calibrate-on")
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
                style="yellow",
            )
    else:
        calibration, calibrated = truth, detections
        if not on_itself:
            calibration = load_annotations(calibrate_on, drop_invalid=drop_invalid)
            check_same_classes(calibration, truth)
            calibrated = [
                load_probabilities(results_file(file), calibration)
                for file in calibration_predictions
            ]
        work = sum(one.num_predictions for one in calibrated) * folds
        seconds = _SECONDS * work * len(settings_to_try(iou_thresholds, len(members)))
        with waiting("choosing how to fuse", seconds):
            choice = choose_fusion(
                calibration,
                calibrated,
                method,
                names=[str(member) for member in members],
                options=options,
                iou_thresholds=iou_thresholds,
                frequency=frequency,
                rules=rules,
                num_folds=folds,
                seed=seed,
            )
        print_document(fusion_document(choice))
        say(*(f"Warning: {warning}" for warning in choice.warnings), style="bold red")
        if on_itself:
            say(
                f"Note: each of the {folds} parts of {annotations} was fused by what the"
                " others say, since scores were calibrated and weights chosen on this file."
                " Figures of the output are held-out ones.",
                style="yellow",
            )
        uncut = replace(choice.options, max_detections=None)
        fused = choice.held_out if on_itself else replace(choice, options=uncut).fuse(detections)
    kept = keep_best(fused, cap)
    if note := _cut(fused, cap, is_cut=on_itself):
        say(f"Note: {note}", style="yellow")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(output, kept, truth)
    say(
        f"Written: {output} ({counted(kept.num_predictions, 'detection')} of"
        f" {sum(d.num_predictions for d in detections):,} in {counted(len(members), 'file')})"
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


def _check_weights(
    weights: Sequence[float], members: Sequence[Path], calibrate_on: Path | None
) -> None:
    if not weights:
        return
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


def _check_calibration(
    calibrate_on: Path,
    calibration_predictions: Sequence[Path],
    members: Sequence[Path],
    *,
    on_itself: bool,
) -> None:
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
