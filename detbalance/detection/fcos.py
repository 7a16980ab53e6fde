"""The head of an FCOS with an exchangeable classification loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detbalance.detection.crowd import Target
from detbalance.detection.one_stage import IGNORED, BalancedOneStageHead

SILENT = -100.0
"""A logit at which torchvision's focal loss of background is 0 to the last bit."""


class BalancedFCOSHead(BalancedOneStageHead):
    """The heads for classes, boxes and centerness together."""

    box_coder: Any

    def stock_losses(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute torchvision's own losses, which know no locations to ignore, without those."""
        if any(len(target["crowd"]) for target in targets):
            ignored = (torch.stack(matched_idxs) == IGNORED).unsqueeze(2)
            logits = head_outputs["cls_logits"].masked_fill(ignored, SILENT)
            head_outputs = {**head_outputs, "cls_logits": logits}
        return super().stock_losses(targets, head_outputs, anchors, matched_idxs)

    def box_losses(
        self, target: Target, head_outputs: dict[str, Tensor], anchors: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        """Compute the box and centerness losses of one image; see `BalancedOneStageHead`."""
        # Torchvision's function does all three losses. One column of constant logits makes the one
        # for the classes, which is not wanted, cheap.
        labels = torch.zeros_like(target["labels"])
        logits = torch.zeros_like(head_outputs["bbox_ctrness"])
        losses = super().stock_losses(
            [{"boxes": target["boxes"], "labels": labels}],
            {**head_outputs, "cls_logits": logits},
            [anchors],
            [matched],
        )
        return {name: loss for name, loss in losses.items() if name != "classification"}

    def decoded(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Turn predicted distances into boxes; see `BalancedOneStageHead`."""
        return self.box_coder.decode(offsets, anchors)  # type: ignore[no-any-return]
