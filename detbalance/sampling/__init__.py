"""Which image is drawn next: factors per image, and samplers that draw by them.

The factors need NumPy only; torch is imported when a sampler is first asked for. To add a method,
write a function from labels to factors and add it to `FACTORS`: its keyword-only arguments are its
configuration keys.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from detbalance.data.arrays import Float64
from detbalance.data.messages import needs
from detbalance.sampling.balance import (
    background_factors,
    class_aware_factors,
    dataset_factors,
    oversampling_factors,
    undersampling_factors,
)
from detbalance.sampling.balanced_exposure import (
    balanced_exposure_factors,
    class_exposure,
    exposure_ratio,
)
from detbalance.sampling.labels import ImageLabels
from detbalance.sampling.repeat_factors import (
    exponential_factors,
    instance_aware_factors,
    repeat_factors,
    threshold_for_target_length,
)

if TYPE_CHECKING:
    from detbalance.sampling.batches import BalancedBatchSampler, aspect_ratio_groups
    from detbalance.sampling.samplers import ClassAwareSampler, RepeatFactorSampler

__all__ = [
    "FACTORS",
    "BalancedBatchSampler",
    "ClassAwareSampler",
    "ImageLabels",
    "RepeatFactorSampler",
    "aspect_ratio_groups",
    "background_factors",
    "balanced_exposure_factors",
    "class_aware_factors",
    "class_exposure",
    "dataset_factors",
    "exponential_factors",
    "exposure_ratio",
    "instance_aware_factors",
    "oversampling_factors",
    "repeat_factors",
    "threshold_for_target_length",
    "undersampling_factors",
]

FACTORS: dict[str, Callable[..., Float64]] = {
    "repeat_factor": repeat_factors,
    "instance_aware": instance_aware_factors,
    "exponential": exponential_factors,
    "class_aware": class_aware_factors,
    "oversampling": oversampling_factors,
    "undersampling": undersampling_factors,
    "background": background_factors,
    "balanced_exposure": balanced_exposure_factors,
}

# What needs torch, and the file that it is in.
_SAMPLERS = {
    "BalancedBatchSampler": "batches",
    "ClassAwareSampler": "samplers",
    "RepeatFactorSampler": "samplers",
    "aspect_ratio_groups": "batches",
}


def __getattr__(name: str) -> Any:
    if name not in _SAMPLERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_SAMPLERS[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise needs(f"{__name__}.{name}", "torch", "sampling") from error
