"""Slow and plain forms of the losses that balance by gradients, with their running sums."""

from __future__ import annotations

import numpy as np
from focal import focal_twin


class GradientTwin:
    """Sums of gradients over steps; what the twins of the losses have in common.

    `step` gives loss [A, D] and gradient [A, D], not divided, and takes the gradient in.
    """

    def __init__(self, classes):
        self.positive, self.negative, self.steps = np.zeros(classes), np.zeros(classes), 0

    def ratio(self, initial):
        if not self.steps:
            return np.full(len(self.positive), initial)
        return self.positive / (self.negative + 1e-10)

    def take(self, gradient, labels, divisor):
        """Add |gradient| [A, K] of labels 1..K (others are no positives)."""
        own = np.asarray(labels)[:, None] == np.arange(1, gradient.shape[1] + 1)
        self.positive += np.abs(np.where(own, gradient, 0.0)).sum(0) / divisor
        self.negative += np.abs(np.where(own, 0.0, gradient)).sum(0) / divisor
        self.steps += 1


class EqualizationV2Twin(GradientTwin):
    def __init__(self, classes, gamma=12.0, mu=0.8, alpha=4.0):
        super().__init__(classes)
        self.gamma, self.mu, self.alpha = gamma, mu, alpha

    def step(self, logits, labels):
        labels = np.asarray(labels)
        f = 1.0 / (1.0 + np.exp(-self.gamma * (self.ratio(100.0) - self.mu)))
        f = np.r_[1.0, f]
        loss, gradient = focal_twin(
            logits,
            np.where(labels < 0, -1, labels + 1),
            positive=1.0 + self.alpha * (1.0 - f),
            negative=f,
            gamma=0.0,
        )
        self.take(gradient[:, 1:], labels, 1.0)
        return loss, gradient


class EqualizedFocalTwin(GradientTwin):
    def __init__(self, classes, gamma=2.0, scale=8.0, alpha=0.25):
        super().__init__(classes)
        self.gamma, self.scale, self.alpha = gamma, scale, alpha

    def step(self, logits, labels):
        gamma = self.gamma + self.scale * (1.0 - np.clip(self.ratio(1.0), 0.0, 1.0))
        positive, negative = (1.0, 1.0) if self.alpha < 0 else (self.alpha, 1.0 - self.alpha)
        loss, gradient = self.terms(logits, labels, gamma, positive, negative)
        self.take(gradient, labels, max((np.asarray(labels) > 0).sum(), 1))
        return loss, gradient

    def terms(self, logits, labels, gamma, positive, negative):
        factor = gamma / self.gamma
        return focal_twin(
            logits, labels, positive=positive * factor, negative=negative * factor, gamma=gamma
        )


class EqualizedQualityFocalTwin(EqualizedFocalTwin):
    def __init__(self, classes, gamma=2.0, scale=8.0):
        super().__init__(classes, gamma, scale, alpha=-1.0)

    def step(self, logits, labels, quality):
        self.quality = np.asarray(quality, np.float64)
        return super().step(logits, labels)

    def terms(self, logits, labels, gamma, positive, negative):
        x, labels = np.asarray(logits, np.float64), np.asarray(labels)
        own = labels[:, None] == np.arange(1, x.shape[1] + 1)
        q = np.where(own, self.quality[:, None], 0.0)
        p, rest = np.exp(-np.logaddexp(0, -x)), np.exp(-np.logaddexp(0, x))
        cost = q * np.logaddexp(0, -x) + (1 - q) * np.logaddexp(0, x)
        distance = (1 - q) * p - q * rest
        size = np.abs(distance)
        weight = (gamma / self.gamma) * (labels >= 0)[:, None]
        slope = gamma * size ** (gamma - 1) * np.sign(distance) * p * rest * cost
        return weight * size**gamma * cost, weight * (slope + size**gamma * distance)
