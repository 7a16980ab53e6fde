"""What a refit did to a detector, on images that it was not fitted to."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from detbalance.cli.compare import compare_command
from detbalance.cli.evaluate import image_progress
from detbalance.data import Annotations, save_predictions
from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.predict import predict
from detbalance.reporting.terminal import Console
from detbalance.training.setup import labels_in


def show_effect(
    before: nn.Module | Path,
    after: nn.Module,
    truth: Annotations,
    images: Path,
    output: Path,
    *,
    train_file: Path,
    batch_size: int,
    workers: int,
    max_loss: float,
    drop_invalid: bool,
    changed: Callable[[], AbstractContextManager[Any]] = nullcontext,
    name: str = "refit",
) -> None:
    """Predict with both, compare, and say plainly which groups lost more than is allowed."""
    console = Console(stderr=True)
    labels = labels_in(truth, after.categories, "the checkpoint")  # type: ignore[arg-type]
    files = {"before": output / "predictions_before.json", "after": output / "predictions.json"}
    if isinstance(before, Path):
        files["before"], asked = before, [(after, files["after"])]
    else:
        asked = [(before, files["before"]), (after, files["after"])]
    for model, file in asked:
        way = changed if file == files["after"] else nullcontext
        with way(), image_progress(console, truth.num_images) as tell:
            found = predict(
                model,
                DetectionDataset(truth, images),
                batch_size=batch_size,
                workers=workers,
                progress=tell,
            ).relabelled(labels)
        save_predictions(file, found, truth)
    compare_command(
        files=(files["before"], files["after"]),
        baseline=(),
        ours=(),
        annotations=Path(truth.source),
        train_file=train_file,
        output=output / "comparison",
        images=None,
        figure="AP50",
        fail_if=(),
        score_threshold=0.3,
        thresholds=None,
        rules="coco",
        bootstrap=500,
        confidence=0.95,
        seed=0,
        rare=None,
        common=None,
        drop_invalid=drop_invalid,
        overwrite=True,
    )
    groups = json.loads((output / "comparison" / "comparison.json").read_text())["groups"]
    lost = []
    for group in ("rare", "common", "frequent"):
        for figure in ("AP50", "recall"):
            values = groups.get(group, {}).get("figures", {}).get(figure, {})
            was, now = values.get("baseline"), values.get("ours")
            if was is not None and now is not None and was - now > max_loss:
                lost.append(f"{group} {figure} {was:.2f} -> {now:.2f}")
    out = Console()
    if lost:
        out.print(
            f"This {name} harms: {'; '.join(lost)} (limit {max_loss:g}, --max-loss). The detector"
            " before it may be the better one.",
            style="bold yellow",
            highlight=False,
            soft_wrap=True,
        )
    else:
        out.print(f"No group lost more than {max_loss:g} in AP50 or recall.", highlight=False)
