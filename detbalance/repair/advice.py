"""A second opinion on a detector's regions, heard before its boxes are made.

Letters: n regions, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detbalance.detection.adapter import Mixin, adapt
from detbalance.repair.classifier import Classifier
from detbalance.repair.one_stage import OneStageClassifier, patches

Advice = Callable[[Tensor, Tensor], Tensor]
"""From features float32 [n, F] and scores float32 [n, K + 1] of regions to new scores."""


@contextmanager
def advised(classifier: Classifier, advice: Advice, *, candidates: int = 300) -> Iterator[None]:
    """Let a detector hear advice in eval mode, as long as the block lasts."""
    model: Any = classifier.model
    if isinstance(classifier, OneStageClassifier):
        head = model.head.classification_head
        towers: list[Tensor] = []
        hooks = [
            head.conv.register_forward_hook(lambda module, args, out: towers.append(out)),
            head.register_forward_hook(
                lambda module, args, out: _one_stage(out, towers, classifier, advice, candidates)
            ),
        ]
    else:
        heads = adapt(model.roi_heads, _AdvisedRoIHeads)
        heads.advice = (classifier, advice, candidates)
        hooks = [
            heads.box_head.register_forward_hook(
                lambda module, args, out: setattr(heads, "seen", out)
            )
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if not isinstance(classifier, OneStageClassifier):
            model.roi_heads.__class__ = type(model.roi_heads).__bases__[1]


def _one_stage(
    logits: Tensor,
    towers: list[Tensor],
    classifier: OneStageClassifier,
    advice: Advice,
    candidates: int,
) -> Tensor:
    """New logits of the classes float [N, A, K + 1] whose sigmoid is what the advice says."""
    if classifier.model.training:
        towers.clear()
        return logits
    new = logits.clone()
    for i in range(len(logits)):
        scores = torch.sigmoid(logits[i])
        scores[:, 0] = 0.0
        rows = scores.amax(dim=1).topk(min(candidates, len(scores))).indices
        features = patches([tower[i] for tower in towers], classifier.slots, rows).float()
        given = advice(features, scores[rows])
        new[i, rows, 1:] = torch.logit(given[:, 1:].to(new))
    towers.clear()
    return new


class _AdvisedRoIHeads(Mixin):
    """A second stage that asks for advice on its scores."""

    advice: tuple[Classifier, Advice, int]
    seen: Tensor
    classification_loss: nn.Module | None

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        classifier, advice, candidates = self.advice
        scores = classifier.scores(class_logits).clone()
        start = 0
        for boxes in proposals:
            part = scores[start : start + len(boxes)]
            rows = part[:, 1:].amax(dim=1).topk(min(candidates, len(part))).indices
            part[rows] = advice(self.seen[start : start + len(boxes)][rows].float(), part[rows])
            start += len(boxes)
        own = self.classification_loss
        self.classification_loss = _Given(scores)
        try:
            return super().postprocess_detections(  # type: ignore[no-any-return]
                class_logits, box_regression, proposals, image_shapes
            )
        finally:
            self.classification_loss = own


class _Given(nn.Module):
    """Stands in for a loss: its scores are there already."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self._scores = scores

    def scores(self, logits: Tensor) -> Tensor:
        return self._scores
