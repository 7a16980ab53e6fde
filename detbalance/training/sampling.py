"""The `sampling` section of a configuration, and the factors that it asks for."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from detbalance.data import Annotations
from detbalance.sampling import FACTORS, ImageLabels
from detbalance.training.sections import Section, section_of

# Computed last: its share of the draws depends on the factors of all other images.
_LAST = "background"


class NoSampling(Section):
    """Every image once in an epoch."""

    method: Literal["none"] = "none"


class _Method(Section):
    """One of the factor functions with its options."""

    @model_validator(mode="after")
    def _one_of_both(self) -> _Method:
        both = ("threshold", "target_length")
        if set(both) <= set(type(self).model_fields):
            given = [name for name in both if getattr(self, name) is not None]
            if len(given) != 1:
                method = self.model_dump()["method"]
                raise ValueError(f'method "{method}" needs either threshold or target_length')
        return self


def _sections(suffix: str, **extra: Any) -> Any:
    """The sections of all methods, told apart by `method`."""
    sections: list[Any] = [
        section_of(f"{name}{suffix}", function, base=_Method, method=(Literal[name], ...), **extra)
        for name, function in FACTORS.items()
    ]
    return sections


if TYPE_CHECKING:
    SamplingSection: TypeAlias = Section
else:
    _Further = Annotated[reduce(or_, _sections("Also")), Field(discriminator="method")]
    # Factors of further methods, which multiply.
    _ALSO = {"also": (tuple[_Further, ...], ())}
    SamplingSection = Annotated[
        reduce(or_, [NoSampling, *_sections("Section", **_ALSO)]), Field(discriminator="method")
    ]


def image_factors(section: SamplingSection, train: Annotations) -> npt.NDArray[np.float64]:
    """How often each training image is drawn in an epoch, in expectation."""
    options = section.model_dump()
    methods = [options, *options.pop("also", ())]
    held = ImageLabels(train)
    factors = np.ones(len(held))
    for method in sorted(methods, key=lambda part: part["method"] == _LAST):
        name = method.pop("method")
        if name == _LAST:
            method["factors"] = factors
        if name != "none":
            factors = factors * FACTORS[name](held, **method)
    return factors
