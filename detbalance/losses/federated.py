"""Federated loss: what a batch does not speak of is mostly left alone."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.sigmoid import SigmoidLoss
from detbalance.losses.statistics import outside_graphs


class FederatedLoss(SigmoidLoss):
    """Binary cross-entropy over the classes of the batch and some drawn ones.

    Where each image is searched for a few of many classes only, an unlabelled object is no proof
    of absence, and a rare class gets a thousand negatives for each positive. So each call judges a
    set of classes. With p = sigmoid(logit), a row of label c costs, times the weight of its label::

        class c:                           -log(p)
        every other class k of the set:    -log(1 - p)
        every class outside the set:       nothing

    The set has all classes that are labels in this call. Until it has `classes_per_batch`, others
    are drawn, without replacement, with a probability proportional to images^power. A class without
    images is never drawn. More labelled classes than that all belong to the set, and none is drawn.
    Where at most `classes_per_batch` classes have images all of them always belong to it: binary
    cross-entropy.

    The lists of LVIS, where they are given, go before the set. A class that was verified to be
    absent from an image is a negative of all rows of that image; a class whose objects are not all
    annotated in an image is a negative of none of them. Positives always count.

    The draw takes one random number per class and call from torch's default generator of the CPU,
    which checkpoints keep. Every process draws for its own part of the batch.

    Args:
        class_counts: a `Frequency` or `ClassCounts` with the images per class; where only boxes per
            class [K + 1] are known, they take the place of the images.
        classes_per_batch: size of the set, >= 1.
        power: of the counts, >= 0; 0 draws all classes alike, 1 in proportion to their images.
        prior: in (0, 1), the probability that each class starts from.
        class_weights, beta: see `ClassificationLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = FederatedLoss([0, 900, 100, 0], classes_per_batch=2)
        >>> loss.class_set(torch.tensor([2, 0, -1])).tolist()
        [False, True, True, False]

    Source: Zhou et al., Probabilistic Two-Stage Detection, 2021, arXiv:2103.07461, experiments on
    LVIS; the drawing: Efraimidis and Spirakis, Weighted Random Sampling with a Reservoir, 2006.
    Differs from the code of Detic, CenterNet2 and detectron2: background rows take none of the
    `classes_per_batch` places; classes without images are not drawn where too few others are left,
    nor with power 0; the lists of LVIS are honoured, because the set alone would teach an absence
    that nobody verified and throw away one that somebody did. There is no softmax form: there it
    masks the weight of the target only, and all targets are in the set, so it is cross-entropy.
    """

    normalized_by: ClassVar[Literal["foreground", "rows"]] = "rows"
    extra_inputs: ClassVar[frozenset[str]] = frozenset({"image_index", "image_labels"})

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        classes_per_batch: int = 50,
        power: float = 0.5,
        prior: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, prior=prior, class_weights=class_weights, beta=beta)
        name = type(self).__name__
        check_number(
            name, "classes_per_batch", classes_per_batch, least=1, whole=True, advice="Usual is 50."
        )
        check_number(name, "power", power, least=0, advice="Usual is 0.5.")
        self.classes_per_batch = classes_per_batch
        counts = self.counts.image_counts
        counts = (self.counts.instance_counts if counts is None else counts)[1:]
        log_weights = np.full(len(counts), -np.inf)
        log_weights[counts > 0] = power * np.log(counts[counts > 0])
        self._log_weights = torch.from_numpy(log_weights).float()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        normalizer: Tensor | float | None = None,
        image_index: Tensor | None = None,
        image_labels: Tensor | None = None,
    ) -> Tensor:
        self.check(logits, labels)
        negative = self.class_set(labels)[1:]
        if image_index is not None or image_labels is not None:
            listed = self._lists(labels, image_index, image_labels)[:, 1:].to(logits.device)
            negative = torch.where(listed == 0, negative, listed > 0)
        groups = None if image_index is None else image_index.to(logits.device)
        sums = self.kernel_loss(logits, labels, normalizer, negative_weight=negative, groups=groups)
        return sums.loss

    @outside_graphs
    def class_set(self, labels: Tensor) -> Tensor:
        """Draw the classes that a call judges, bool [K + 1]; background is none of them."""
        # Every class starts an exponential clock that runs as fast as its weight; the first to ring
        # are a draw without replacement. The labelled classes have rung before the start. Unlike
        # torch.multinomial this need not know how many there are, so no device is waited for.
        clocks = torch.full((self.num_classes,), torch.inf)
        clocks[1:] = torch.empty(self.num_classes - 1).exponential_().log_() - self._log_weights
        rings = clocks.to(labels.device, non_blocking=True)
        labelled = torch.zeros_like(rings, dtype=torch.bool)
        labelled.index_fill_(0, labels.clamp(min=0), True)
        labelled[0] = False
        rings = rings.masked_fill(labelled, -torch.inf)
        places = min(self.classes_per_batch, self.num_classes)
        first = rings.topk(places, largest=False).indices
        drawn = torch.zeros_like(labelled).index_fill_(0, first, True) & (rings < torch.inf)
        return labelled | drawn

    def _lists(
        self, labels: Tensor, image_index: Tensor | None, image_labels: Tensor | None
    ) -> Tensor:
        """The lists, checked to belong to the rows."""
        name = type(self).__name__
        if image_index is None or image_labels is None:
            missing = "image_index" if image_index is None else "image_labels"
            raise ValueError(
                f"{name}: {missing} is missing. Expected image_index and image_labels, or neither."
                " Give both."
            )
        if image_index.shape != labels.shape:
            raise ValueError(
                f"{name}: image_index has the shape {tuple(image_index.shape)}. Expected"
                f" [{len(labels)}], one per row of the logits. Give the image of each row."
            )
        if image_labels.ndim != 2 or image_labels.shape[1] != self.num_classes:
            raise ValueError(
                f"{name}: image_labels have the shape {tuple(image_labels.shape)}. Expected"
                f" [images, {self.num_classes}], with a column for background. Leave column 0 at 0."
            )
        if image_index.device.type == "cpu" and image_index.numel():
            low, high = (int(v) for v in image_index.aminmax())
            if low < 0 or high >= len(image_labels):
                raise ValueError(
                    f"{name}: an image_index is {low if low < 0 else high}. Expected"
                    f" 0..{len(image_labels) - 1}, a row of image_labels. Number the images of the"
                    " batch from 0."
                )
        return image_labels
