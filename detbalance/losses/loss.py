"""What every classification loss offers to the head that uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.losses.class_counts import ClassCounts, ClassWeights, CountsLike, label_weights
from detbalance.losses.statistics import Float64Buffers


class ClassificationLoss(Float64Buffers, ABC):
    """A loss that knows all that its head must know: outputs, scores, starting bias, value.

    Labels are 0 for background, 1..K for the classes and -1 for rows to ignore.

    Counts, weights and other constants are plain float64 tensors on the CPU, not buffers: they
    follow from the constructor's arguments, so they must not appear in a model's `state_dict`.
    Running statistics are buffers. They keep their precision when a model is cast, they change only
    in training mode, under grad mode, with logits that require a gradient, and they are summed over
    all processes where a process group exists. The one thing that every loss saves is its name, as
    a tensor, so that a model trained with one loss is not loaded with another. TorchScript compiles
    `scores` and leaves `forward` out.

    Args:
        class_counts: boxes per class [K + 1], index 0 not used; or, for the losses that need to
            know more, a `Frequency` or `ClassCounts`.
        class_weights: how a whole row is weighted by its label: a method of
            `detbalance.losses.class_weights`, or weights by class name (others 1). Background rows
            weigh 1.
        beta: of the method `effective_number`.

    Attributes:
        counts: what is known of the training set.
        label_weights: float64 [K + 1], or None where all are 1.
        num_classes: K + 1, background included.
        num_outputs: logits per row, D.
        accumulation: training calls per optimizer step. Statistics are gathered over so many calls
            before they take effect, so that accumulated steps are one large batch to them.

    Raises:
        ValueError: if an argument is out of its range.
    """

    activation: ClassVar[Literal["sigmoid", "softmax"]]
    """Sigmoid losses work on RetinaNet, FCOS and R-CNNs, softmax losses on R-CNNs."""
    normalized_by: ClassVar[Literal["foreground", "rows"]]
    """The rows of a two-stage head that the loss's sum is divided by: those with an object, or all
    that are not ignored. A one-stage head always divides by those with an object."""
    last_layer: ClassVar[Literal["linear", "cosine"]] = "linear"
    """What makes the logits; "cosine" is the cosine of the angle between features and weights."""
    extra_inputs: ClassVar[frozenset[str]] = frozenset()
    """Further keyword arguments of `forward` that a head must give: "quality", float [A] in 0..1,
    the IoU of each foreground row's predicted box with its object (0 elsewhere); "image_index",
    int64 [A], the image of each row; "image_labels", int8 [N, K + 1], what each image's lists say:
    1 the class is verified absent, -1 its objects are not all annotated, 0 nothing."""

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__()
        self.counts = ClassCounts.of(class_counts)
        weights = label_weights(self.counts, class_weights, beta=beta, where=type(self).__name__)
        self.label_weights = None if weights is None else torch.from_numpy(weights)
        self.num_classes = len(self.counts.instance_counts)
        self.num_outputs = self.num_classes - (self.activation == "sigmoid")
        self.accumulation = 1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A scripted detector detects; what trains it is more than TorchScript takes.
        torch.jit.unused(cls.forward)

    @abstractmethod
    def initial_bias(self) -> Tensor:
        """Give the bias that the last layer starts from, float32 [D]."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities at inference.

        Args:
            logits: float [A, D].

        Returns:
            float [A, K + 1] in 0..1; column 0 is background (0 where no output speaks for it). Half
            and bfloat16 logits give float32.
        """

    @abstractmethod
    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """Compute the loss of all rows, and in training update the running statistics.

        A loss with `extra_inputs` takes them as further keyword arguments; they take no gradient.

        Args:
            logits: float [A, D].
            labels: int64 [A], -1..K.
            normalizer: what the rows' parts are divided by, > 0: one number or one per row [A];
                None for the rows that count (`normalized_by`), at least 1.

        Returns:
            Scalar, float64 for float64 logits, else float32; finite for finite logits, 0 with a
            working backward where no row counts. Of sigmoid losses it can be differentiated once.

        Raises:
            ValueError: if shapes do not fit or a label is out of range.
            TypeError: if the labels are not int64.
        """

    def counted_rows(self, labels: Tensor) -> Tensor:
        """Count the rows that the sum is divided by in a two-stage head, int64 scalar >= 0."""
        return (labels > 0 if self.normalized_by == "foreground" else labels >= 0).sum()

    def own_normalizer(self, labels: Tensor) -> Tensor:
        """Count the rows that the sum is divided by when no normalizer is given, at least 1."""
        return self.counted_rows(labels).clamp(min=1)

    def divided(self, cost: Tensor, labels: Tensor, normalizer: Tensor | float | None) -> Tensor:
        """Sum what the rows cost over the normalizer; a scalar cost has been summed already."""
        if is_per_row(normalizer):
            return (cost / self.constant(normalizer, cost)).sum()
        return cost.sum() / (self.own_normalizer(labels) if normalizer is None else normalizer)

    def positive_weights(self) -> Float64:
        """Tell how much this loss's settings make a box of each class count as what it is.

        Only what is fixed from the start; nothing that follows from running statistics.

        Returns:
            float64 [K + 1], >= 0; index 0 (background) is 1.
        """
        if self.label_weights is None:
            return np.ones(self.num_classes)
        return np.array(self.label_weights.numpy(), dtype=np.float64)

    def updates_statistics(self, logits: Tensor) -> bool:
        """Tell whether a call may change running statistics."""
        return self.training and torch.is_grad_enabled() and logits.requires_grad

    def constant(self, values: Any, logits: Tensor) -> Tensor:
        """Bring a constant to the device of a call, in float64 for float64 logits, else float32."""
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        # The host need not wait for its own constant to arrive on the device.
        constant = torch.as_tensor(values)
        return constant.to(logits.device, dtype, non_blocking=logits.is_cuda)

    def check(self, logits: Tensor, labels: Tensor) -> None:
        """Refuse logits and labels that do not belong together."""
        name = type(self).__name__
        if logits.ndim != 2 or logits.shape[1] != self.num_outputs:
            raise ValueError(
                f"{name}: logits have the shape {tuple(logits.shape)}. Expected [rows,"
                f" {self.num_outputs}] for {self.num_classes} classes with background. Build the"
                " head with num_outputs."
            )
        if labels.shape != logits.shape[:1]:
            raise ValueError(
                f"{name}: labels have the shape {tuple(labels.shape)}. Expected"
                f" [{logits.shape[0]}], one per row of the logits. Pass class indices, not one-hot."
            )
        if labels.dtype != torch.int64:
            raise TypeError(
                f"{name}: labels are {labels.dtype}. Expected torch.int64. Call labels.long()."
            )
        # On a GPU this would make every step wait.
        if labels.device.type == "cpu" and labels.numel():
            low, high = (int(v) for v in labels.aminmax())
            if low < -1 or high >= self.num_classes:
                raise ValueError(
                    f"{name}: a label is {low if low < -1 else high}. Expected -1 (ignored), 0"
                    f" (background) or 1..{self.num_classes - 1}. Check the class mapping."
                )

    def identity(self) -> str:
        """Name the loss, and the order of its columns where that is up to its settings."""
        return type(self).__name__

    def get_extra_state(self) -> Tensor:
        """Give what `state_dict` keeps beside the buffers: the letters of what `identity` says."""
        return torch.tensor(list(self.identity().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Refuse the state of another loss with a ValueError."""
        other = other_loss(saved_name(state), self.identity())
        if other is not None:
            raise ValueError(
                f"load_state_dict(): the model was trained {other}. The same loss is expected. Set"
                " the loss that it was trained with before loading."
            )


def saved_name(state: Any) -> str | None:
    """Read which loss a state is of."""
    if isinstance(state, dict):
        state = state.get("loss")
    elif isinstance(state, Tensor) and state.dtype == torch.uint8 and state.ndim == 1:
        state = bytes(state.tolist()).decode(errors="replace")
    return state if isinstance(state, str) else None


def other_loss(saved: str | None, own: str | None) -> str | None:
    """Tell in what the loss of a state differs from that of a model."""
    both = [identity or "torchvision's own loss" for identity in (saved, own)]
    names = [identity.partition(" with ")[0] for identity in both]
    if both[0] in (both[1], names[1]):
        return None
    theirs, ours = both if names[0] == names[1] else names
    return f"with {theirs}, this one has {ours}"


def is_per_row(normalizer: Tensor | float | None) -> TypeGuard[Tensor]:
    """Tell whether each row has a normalizer of its own."""
    return isinstance(normalizer, Tensor) and normalizer.ndim > 0


def wide(logits: Tensor) -> Tensor:
    """Give logits in the precision that losses are computed in."""
    return logits if logits.dtype == torch.float64 else logits.float()
