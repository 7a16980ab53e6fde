"""Classification losses for imbalanced classes, and class weights.

Each loss is an `nn.Module` built from the boxes per class of the training set. It works in any
PyTorch detector; `detbalance.detection` puts it into torchvision's.
"""

from detbalance.losses.contract import ClassificationLoss
from detbalance.losses.counts import ClassCounts
from detbalance.losses.kernel import sigmoid_loss_sum
from detbalance.losses.sigmoid import SigmoidFocalLoss
from detbalance.losses.softmax import SoftmaxCrossEntropyLoss
from detbalance.losses.weights import class_weights

__all__ = [
    "LOSSES",
    "ClassCounts",
    "ClassificationLoss",
    "SigmoidFocalLoss",
    "SoftmaxCrossEntropyLoss",
    "class_weights",
    "sigmoid_loss_sum",
]

LOSSES: dict[str, type[ClassificationLoss]] = {
    "focal": SigmoidFocalLoss,
    "cross_entropy": SoftmaxCrossEntropyLoss,
}
