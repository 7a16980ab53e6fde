"""Classification losses for imbalanced classes, and class weights.

Each loss is an `nn.Module` built from the boxes per class of the training set. It works in any
PyTorch detector; `detbalance.detection` puts it into torchvision's.
"""

from detbalance.losses.class_counts import ClassCounts, class_weights
from detbalance.losses.equalization import (
    EqualizationLoss,
    EqualizationLossV2,
    EqualizedFocalLoss,
    EqualizedQualityFocalLoss,
)
from detbalance.losses.group_softmax import GroupSoftmaxLoss
from detbalance.losses.kernel import sigmoid_loss_sum
from detbalance.losses.loss import ClassificationLoss
from detbalance.losses.seesaw import SeesawLoss
from detbalance.losses.sigmoid import BalancedSigmoidLoss, FederatedLoss, SigmoidFocalLoss
from detbalance.losses.softmax import (
    BalancedSoftmaxLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SoftmaxCrossEntropyLoss,
    adjust_logits,
)

__all__ = [
    "LOSSES",
    "BalancedSigmoidLoss",
    "BalancedSoftmaxLoss",
    "ClassCounts",
    "ClassificationLoss",
    "EqualizationLoss",
    "EqualizationLossV2",
    "EqualizedFocalLoss",
    "EqualizedQualityFocalLoss",
    "FederatedLoss",
    "GroupSoftmaxLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "SeesawLoss",
    "SigmoidFocalLoss",
    "SoftmaxCrossEntropyLoss",
    "adjust_logits",
    "class_weights",
    "sigmoid_loss_sum",
]

LOSSES: dict[str, type[ClassificationLoss]] = {
    "focal": SigmoidFocalLoss,
    "equalization": EqualizationLoss,
    "equalization_v2": EqualizationLossV2,
    "equalized_focal": EqualizedFocalLoss,
    "equalized_quality_focal": EqualizedQualityFocalLoss,
    "federated": FederatedLoss,
    "balanced_sigmoid": BalancedSigmoidLoss,
    "cross_entropy": SoftmaxCrossEntropyLoss,
    "balanced_softmax": BalancedSoftmaxLoss,
    "logit_adjustment": LogitAdjustedLoss,
    "ldam": LDAMLoss,
    "seesaw": SeesawLoss,
    "group_softmax": GroupSoftmaxLoss,
}
