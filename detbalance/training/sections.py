"""Sections of a configuration, those that are read off a constructor's signature included."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from detbalance.data import Annotations
from detbalance.sampling import FACTORS, ImageLabels


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def section_of(
    title: str,
    /,
    *constructors: Callable[..., Any],
    base: type[Section] = Section,
    **extra: Any,
) -> Any:
    """A section whose fields are the keyword-only arguments of the constructors."""
    fields: dict[str, Any] = dict(extra)
    for constructor in constructors:
        function = constructor.__init__ if inspect.isclass(constructor) else constructor
        hints = typing.get_type_hints(function)
        for parameter in inspect.signature(function).parameters.values():
            is_array = hints.get(parameter.name) in (npt.ArrayLike, npt.ArrayLike | None)
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not is_array:
                assert parameter.name not in fields, f"{title}: two meanings of {parameter.name}"
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[parameter.name] = (hints[parameter.name], default)
    return create_model(title, __base__=base, **fields)


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
        values = [getattr(self, name, None) for name in both]
        if set(both) <= set(type(self).model_fields) and values.count(None) != 1:
            method = self.model_dump()["method"]
            raise ValueError(f'method "{method}" needs either threshold or target_length')
        return self


def _sections(suffix: str, **extra: Any) -> list[Any]:
    """The sections of all methods, told apart by `method`."""
    return [
        section_of(f"{name}{suffix}", function, base=_Method, method=(Literal[name], ...), **extra)
        for name, function in FACTORS.items()
    ]


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
    image_labels = ImageLabels(train)
    factors = np.ones(len(image_labels))
    for method in sorted(methods, key=lambda part: part["method"] == _LAST):
        name = method.pop("method")
        if name == _LAST:
            method["factors"] = factors
        if name != "none":
            factors = factors * FACTORS[name](image_labels, **method)
    return factors
