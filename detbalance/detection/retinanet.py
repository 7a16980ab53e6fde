"""The head of a RetinaNet with an exchangeable classification loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detbalance.detection.crowd import Target
from detbalance.detection.one_stage import BalancedOneStageHead


class BalancedRetinaNetHead(BalancedOneStageHead):
    """Both heads of a RetinaNet together."""

    regression_head: Any

    def box_losses(
        self, target: Target, head_outputs: dict[str, Tensor], anchors: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        """Compute the box loss of one image; see `BalancedOneStageHead`."""
        loss = self.regression_head.compute_loss([target], head_outputs, [anchors], [matched])
        return {"bbox_regression": loss}

    def decoded(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Turn predicted offsets into boxes; see `BalancedOneStageHead`."""
        return self.regression_head.box_coder.decode_single(offsets, anchors)  # type: ignore[no-any-return]
