"""What stays out of compiled graphs."""

from __future__ import annotations

import pytest
import torch

from detbalance.losses.statistics import outside_graphs


@outside_graphs
def is_compiled(x):
    """1 where a compiler has seen this function, else 0."""
    return x * 0 + (1 if torch.compiler.is_compiling() else 0)


@pytest.mark.parametrize("break_before", [False, True])
def test_function_is_not_compiled_with_its_caller(break_before):
    def model(x):
        if break_before:
            torch._dynamo.graph_break()
        return is_compiled(x * 2) + 5 * is_compiled(x) + torch.compiler.is_compiling()

    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        assert compiled(torch.ones(2)).tolist() == [1, 1]
