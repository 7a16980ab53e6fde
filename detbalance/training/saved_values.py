"""Whether what a checkpoint holds is of the keys, kinds and shapes that its reader goes by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, strided


def misfit(found: Any, wanted: Any, name: str) -> str | None:
    """Say what is wrong with a saved value."""
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return _unlike(found, "a mapping", name)
        for key, value in wanted.items():
            inner = f"{name}.{key}" if name else str(key)
            if key not in found:
                return f"{inner} is missing"
            parts.append((found[key], value, inner))
    elif isinstance(wanted, list):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            return _unlike(found, f"a list of {len(wanted)}", name)
        parts = [(f, w, f"{name}.{i}") for i, (f, w) in enumerate(zip(found, wanted, strict=True))]
    elif isinstance(wanted, Tensor):
        if not is_plain(found) or (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            return _unlike(found, _kind(wanted), name)
    else:
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        kinds = tuple(kind if isinstance(kind, type) else type(kind) for kind in kinds)
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            return _unlike(found, " or ".join(kind.__name__ for kind in kinds), name)
    return next((fault for part in parts if (fault := misfit(*part))), None)


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor that holds its numbers one by one, on the processor."""
    return (
        isinstance(value, Tensor)
        and value.layout is strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _unlike(found: Any, wanted: str, name: str) -> str:
    return f"{name} is {_kind(found)}, not {wanted}"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return type(value).__name__
