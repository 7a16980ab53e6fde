"""Measure speed and memory against named peers: `python tools/benchmark.py annotations sampling`.

Each subject is a file in tools/benchmarks/. Ratios within one run are what counts: absolute times
depend on the machine and on what else it does.
"""

import importlib.util
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "benchmarks"


def main() -> None:
    """Run the subjects named on the command line, or all of them."""
    known = sorted(path.stem for path in FOLDER.glob("*.py"))
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")] or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"benchmark: {unknown[0]} is not a subject. Known: {', '.join(known)}.")
    for name in wanted:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        results = Path("runs/benchmarks")
        results.mkdir(parents=True, exist_ok=True)
        (results / f"{name}.json").write_text(json.dumps(module.main(), indent=2) + "\n")


if __name__ == "__main__":
    main()
