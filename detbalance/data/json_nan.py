"""Undefined figures in files: NaN in memory, null in JSON."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def nan_to_null(value: Any) -> Any:
    """Return a nested value of dataclasses, mappings and lists as JSON has it, NaN as None."""
    if value is None or isinstance(value, (str, int, float)):  # nearly all of it, in large reports
        return None if value != value else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: nan_to_null(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_to_null(item) for item in value]
    return value


def null_to_nan(value: Any, kind: Any) -> Any:
    """Return a decoded JSON value with NaN for null where a plain float belongs."""
    if kind is float:
        return math.nan if value is None else value
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        fields = typing.get_type_hints(kind)
        return {k: null_to_nan(v, fields[k]) if k in fields else v for k, v in value.items()}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and isinstance(value, dict):
        return {key: null_to_nan(item, inner[1]) for key, item in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        kinds = inner if origin is tuple and inner[-1:] != (...,) else [inner[0]] * len(value)
        return [null_to_nan(v, k) for v, k in zip(value, kinds, strict=False)] + value[len(kinds) :]
    if origin in (typing.Union, types.UnionType) and value is not None:
        return null_to_nan(value, next(k for k in inner if k is not type(None)))
    return value
