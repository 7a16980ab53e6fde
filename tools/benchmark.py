"""Measure against named peers: `python tools/benchmark.py annotations sampling`.

Each subject is a file in tools/benchmarks/ with `main()`, which measures, prints and returns the
figures, and `table(figures)`, which sets them as a table for README.md or a page of docs/,
between its marks there. Ratios within one run are what counts: absolute times depend on the machine
and on what else it does.

`python tools/benchmark.py --tables` only writes the tables from the last figures.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent / "benchmarks"
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SUBJECTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
# Where subjects find what they share: the files whose names begin with "_".
sys.path.append(str(FOLDER))


def main() -> None:
    """Run the subjects named on the command line, or all of them."""
    arguments = sys.argv[1:]
    unknown = [name for name in arguments if name not in [*SUBJECTS, "--tables"]]
    if unknown:
        sys.exit(f"benchmark: {unknown[0]} is not a subject. Known: {', '.join(SUBJECTS)}.")
    if "--tables" not in arguments:
        for name in arguments or SUBJECTS:
            figures = subject(name).main()
            results(name).write_text(json.dumps(figures, indent=2) + "\n")
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))


def subject(name: str) -> ModuleType:
    """The module of a subject."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(name: str) -> Path:
    """Where the last figures of a subject are."""
    return FOLDER / "results" / f"{name}.json"


def with_tables(text: str) -> str:
    """A page's text with the table of every subject made anew between its two marks.

    A subject without marks is left out.
    """
    for name in (name for name in SUBJECTS if results(name).exists()):
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, mark, rest = text.partition(begin)
        _, ending, after = rest.partition(end)
        if not (mark and ending):
            continue
        table = subject(name).table(json.loads(results(name).read_text()))
        text = f"{before}{begin}{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    main()
