"""Which image is drawn next: factors per image, and a sampler that draws by them.

The factors need NumPy only; torch is imported when `RepeatFactorSampler` is first asked for.
"""

from typing import TYPE_CHECKING, Any

from detbalance.sampling.exposure import class_exposure, exposure_ratio
from detbalance.sampling.factors import repeat_factors, threshold_for_target_length
from detbalance.sampling.labels import ImageLabels

if TYPE_CHECKING:
    from detbalance.sampling.samplers import RepeatFactorSampler

__all__ = [
    "ImageLabels",
    "RepeatFactorSampler",
    "class_exposure",
    "exposure_ratio",
    "repeat_factors",
    "threshold_for_target_length",
]


def __getattr__(name: str) -> Any:
    if name != "RepeatFactorSampler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from detbalance.sampling.samplers import RepeatFactorSampler
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ImportError(
            "detbalance.sampling.RepeatFactorSampler needs torch. "
            'Install it with: pip install "detbalance[sampling]"'
        ) from error
    return RepeatFactorSampler
