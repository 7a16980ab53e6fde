"""What must not become part of a compiled graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run as it stands where the model around it is compiled.

    The same as `torch.compiler.disable`, but that imports the compiler at once, which doubles the
    time that importing the losses takes.

    Args:
        function: any; under `torch.compile` a call of it is a break in the graph.

    Returns:
        The function.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        disable = cast("Callable[[Callable[P, R]], Callable[P, R]]", torch.compiler.disable)
        return disable(function)(*args, **kwargs)

    return call
