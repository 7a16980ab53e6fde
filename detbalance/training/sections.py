"""Sections of a configuration, those that are read off a constructor's signature included."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, create_model


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
