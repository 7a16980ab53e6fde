"""The part of a head that holds the classification loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from detbalance.detection.adapter import Mixin
from detbalance.losses.contract import other_loss, saved_name

if TYPE_CHECKING:
    from detbalance.losses import ClassificationLoss


class LossHolder(Mixin):
    """A head that refuses the weights of a model with another loss, also where not strict."""

    class_layer: ClassVar[str]
    """Name of the last layer, below the head."""

    classification_loss: ClassificationLoss | None
    detector_classes: int

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **named: Any
    ) -> None:
        saved = saved_name(state_dict.get(f"{prefix}classification_loss._extra_state"))
        own = self.classification_loss
        # A part of a state_dict, without the last layer, says nothing of the loss.
        has_layer = f"{prefix}{self.class_layer}.weight" in state_dict
        if (saved is None) != (own is None) and (saved is not None or has_layer):
            other = other_loss(saved, None if own is None else own.identity())
            raise ValueError(
                f"load_state_dict(): the model was trained {other}. The same loss is expected."
                " Before loading, call set_classification_loss() with the loss that it was trained"
                " with, None for torchvision's own."
            )
        super()._load_from_state_dict(state_dict, prefix, *others, **named)
