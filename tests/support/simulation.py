"""The benchmarks that simulate detectors, and their generator."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).parents[2] / "tools" / "benchmarks"


def benchmark(name: str) -> ModuleType:
    """A file of tools/benchmarks, found as tools/benchmark.py finds it."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    if spec.name not in sys.modules:
        sys.path.append(str(BENCHMARKS))
        try:
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(BENCHMARKS))
    return sys.modules[spec.name]


simulated = benchmark("_simulated")
