"""What makes few examples count for more: mixing, crops, pastes, policies per frequency group.

An augmentation is called as `augmentation(image, target, generator)`; `Augmentation` says what
goes in, what comes out and what every one of them promises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detbalance.augmentation.crop import RareCrop
from detbalance.augmentation.donors import Donor, DonorBank
from detbalance.augmentation.mixing import Mixup, Mosaic
from detbalance.augmentation.paste import RarePaste
from detbalance.augmentation.pipeline import StandardAugmentation
from detbalance.augmentation.policies import GroupPolicy
from detbalance.augmentation.transform import Augmentation, Compose

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Compose",
    "Donor",
    "DonorBank",
    "GroupPolicy",
    "Mixup",
    "Mosaic",
    "RareCrop",
    "RarePaste",
    "StandardAugmentation",
]

# By the names that configurations use, in the order in which they are applied: mix first, then
# paste, then distort. Keyword arguments of the constructors are the settings; `build_augmentation`
# in `training/setup.py` says what the others may be called.
AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "mosaic": Mosaic,
    "mixup": Mixup,
    "crop": RareCrop,
    "paste": RarePaste,
    "policy": GroupPolicy,
    "standard": StandardAugmentation,
}

# Arguments that are made from settings of the same section.
PREPARED: dict[str, Callable[..., Any]] = {"donors": DonorBank}
