"""What every classification loss offers to the head that uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn

from detbalance.losses.weights import WeightMethod, checked_counts, class_weights


class ClassificationLoss(nn.Module, ABC):
    """A loss that knows all that its head must know: outputs, scores, starting bias, value.

    Labels are 0 for background, 1..K for the classes and -1 for rows to ignore.

    `class_counts`, weights and other constants are plain float64 tensors on the CPU, not buffers:
    they follow from the constructor's arguments, so they must not appear in a model's `state_dict`,
    and they must survive `model.half()`. They are cast to the device and precision of each call.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        class_weights: how a whole row is weighted by its label, a method of
            `detbalance.losses.class_weights`; background rows weigh 1.
        beta: of the method `effective_number`.

    Attributes:
        class_counts: float64 [K + 1].
        label_weights: float64 [K + 1], or None where all are 1.
        num_classes: K + 1, background included.
        num_outputs: logits per row, D.

    Raises:
        ValueError: if an argument is out of its range.
    """

    activation: ClassVar[Literal["sigmoid", "softmax"]]

    def __init__(
        self,
        class_counts: npt.ArrayLike | Tensor,
        *,
        class_weights: WeightMethod = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__()
        counts = checked_counts(class_counts)
        self.class_counts = torch.from_numpy(counts)
        self.label_weights = _weights(counts, class_weights, beta)
        self.num_classes = len(counts)
        self.num_outputs = self.num_classes - (self.activation == "sigmoid")

    @abstractmethod
    def initial_bias(self) -> Tensor:
        """Give the bias that the last layer starts from.

        Returns:
            float32 [D].
        """

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities at inference.

        Args:
            logits: float [A, D].

        Returns:
            float [A, K + 1] in 0..1; column 0 is background (all 0 for sigmoid losses). Half and
            bfloat16 logits give float32.
        """

    @abstractmethod
    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """Compute the loss of all rows.

        Args:
            logits: float [A, D].
            labels: int64 [A], -1..K.
            normalizer: what the sum is divided by, > 0; None for the loss's own choice.

        Returns:
            Scalar; finite for finite logits, 0 with a working backward where no row counts.

        Raises:
            ValueError: if shapes do not fit or a label is out of range.
            TypeError: if the labels are not int64.
        """

    def check(self, logits: Tensor, labels: Tensor) -> None:
        """Refuse logits and labels that do not belong together.

        The range of the labels is checked on the CPU only: on a GPU it would make every step wait.

        Args:
            logits: float [A, D].
            labels: int64 [A].

        Raises:
            ValueError: if shapes do not fit or a label is out of range.
            TypeError: if the labels are not int64.
        """
        name = type(self).__name__
        if logits.ndim != 2 or logits.shape[1] != self.num_outputs:
            raise ValueError(
                f"{name}: logits have the shape {tuple(logits.shape)}. Expected [rows, "
                f"{self.num_outputs}] for {self.num_classes} classes with background. "
                f"Build the head with num_outputs."
            )
        if labels.shape != logits.shape[:1]:
            raise ValueError(
                f"{name}: labels have the shape {tuple(labels.shape)}. Expected "
                f"[{logits.shape[0]}], one per row of the logits. Pass class indices, not one-hot."
            )
        if labels.dtype != torch.int64:
            raise TypeError(
                f"{name}: labels are {labels.dtype}. Expected torch.int64. Call labels.long()."
            )
        if labels.device.type == "cpu" and labels.numel():
            low, high = (int(v) for v in labels.aminmax())
            if low < -1 or high >= self.num_classes:
                raise ValueError(
                    f"{name}: a label is {low if low < -1 else high}. Expected -1 (ignored), 0 "
                    f"(background) or 1..{self.num_classes - 1}. Check the class mapping."
                )


def _weights(counts: npt.ArrayLike, method: WeightMethod, beta: float) -> Tensor | None:
    weights = class_weights(counts, method, beta=beta)
    return None if method == "none" else torch.from_numpy(weights)
