"""Standard augmentation, and boxes of rare classes pasted into other images.

An augmentation is called as `augmentation(image, target, generator)`; `Augmentation` says what
goes in, what comes out and what every one of them promises.
"""

from detbalance.augmentation.contract import Augmentation, Compose
from detbalance.augmentation.donors import Donor, DonorBank
from detbalance.augmentation.mixing import Mixup, Mosaic
from detbalance.augmentation.paste import RarePaste
from detbalance.augmentation.standard import StandardAugmentation

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Compose",
    "Donor",
    "DonorBank",
    "Mixup",
    "Mosaic",
    "RarePaste",
    "StandardAugmentation",
]

# By the names that configurations use; keyword parameters of the constructors are their settings.
AUGMENTATIONS = {
    "mosaic": Mosaic,
    "mixup": Mixup,
    "paste": RarePaste,
    "standard": StandardAugmentation,
}
