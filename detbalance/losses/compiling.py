"""What must not become part of a compiled graph."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from torch._compile import _disable_dynamo

P = ParamSpec("P")
R = TypeVar("R")


def outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run as it stands where the model around it is compiled."""
    # Torch's own lazy form: unlike what could be written here, no compiler looks into it.
    disabled = cast("Callable[P, R]", _disable_dynamo(function))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        # Not only while this is compiled: after a break in the graph of the caller the compiler
        # still looks at every function that is called.
        return disabled(*args, **kwargs)

    return call
