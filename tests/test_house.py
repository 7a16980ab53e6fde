"""The laws of the house: who imports whom, what imports cost and do, how files are cut."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import detbalance

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "detbalance"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room, and the rooms that it may import from. Arrows go one way.
ROOMS: dict[str, set[str]] = {
    "data": set(),
    "sampling": {"data"},
    "planning": {"data", "sampling"},
    "losses": {"data"},
    "augmentation": {"data"},
    "detection": {"data", "losses", "augmentation"},
    "training": {"data", "sampling", "losses", "augmentation", "detection"},
    "integrations": {"data", "sampling"},
    "evaluation": {"data"},
    "calibration": {"data", "evaluation"},
    "repair": {"data", "losses", "augmentation", "detection", "evaluation", "calibration"},
    "generation": {"data", "augmentation", "detection"},
    "reporting": {"data", "planning", "evaluation", "calibration"},
}
ROOMS["cli"] = set(ROOMS)

TRAINING_STACK = ["torchvision", "albumentations", "accelerate", "sklearn"]
WITHOUT_TRAINING_STACK = ["data", "sampling", "losses", "evaluation"]
WITHOUT_TORCH = ["data", "planning", "evaluation", "calibration", "reporting"]
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}


def room_of(file: Path) -> str:
    """The room of a file; "" for the package's own `__init__`."""
    first = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {"__init__": "", "__main__": "cli"}.get(first, first)


def modules(*rooms: str) -> list[str]:
    """Import names of all files, or of those of some rooms."""
    chosen = [file for file in FILES if not rooms or room_of(file) in rooms]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in chosen)
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def imported_rooms(source: str, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and room of each import of this package, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called == "import_module" and isinstance(node.args[0], ast.Constant):
                names = [str(node.args[0].value)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "detbalance" and len(parts) > 1 and parts[1] != "__version__":
                yield node.lineno, parts[1]


def run_python(script: str) -> str:
    """Standard output and error of a fresh interpreter; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


BLOCK = """
import importlib, sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)


sys.meta_path.insert(0, Blocked())
for name in {names}:
    importlib.import_module(name)
"""

# Some libraries change the environment or draw a random number when they are imported. That is
# theirs to answer for, so they are imported before the first look.
LOOK_AROUND = """
import importlib, logging, os, random, sys
import numpy, torch

for name in ("rich.style", "torchvision", "cv2", "timm", "accelerate", "matplotlib"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass

sockets = []
sys.addaudithook(lambda event, args: sockets.append(event) if event.startswith("socket.") else None)


def state():
    name, keys, *rest = numpy.random.get_state()
    return {{
        "random state of Python": random.getstate(),
        "random state of NumPy": (name, keys.tolist(), rest),
        "random state of torch": torch.get_rng_state().tolist(),
        "logging": (logging.root.handlers[:], logging.root.level),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "sockets": sockets[:],
    }}


before = state()
for name in {names}:
    importlib.import_module(name)
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    assert not changed, f"importing {{name}} changed: {{changed}} {{sockets}}"
"""


def test_every_file_belongs_to_a_room():
    assert len(FILES) > 10
    assert {room_of(file) for file in FILES} - {""} <= set(ROOMS)


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_rooms_import_only_from_the_rooms_below(room):
    allowed = ROOMS.get(room, set()) | {room}
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {target}"
        for file in FILES
        if room_of(file) == room
        for line, target in imported_rooms(file.read_text(), [*file.relative_to(ROOT).parts[:-1]])
        if target not in allowed
    ]
    assert not wrong


def imported_files(file: Path) -> Iterator[Path]:
    """The files of this package that a file imports, lazily or for types alone included."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno} is a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name.partition(".")[0] == "detbalance":
                path = ROOT / name.replace(".", "/")
                for found in (path.with_suffix(".py"), path / "__init__.py"):
                    if found.is_file():
                        yield found
                        name = ""
                name = name.rpartition(".")[0]


def test_no_file_imports_itself_by_a_detour():
    arrows = {file: set(imported_files(file)) for file in FILES}
    assert sum(map(len, arrows.values())) > len(FILES)
    while ends := {
        f for f, below in arrows.items() if not below or f not in set().union(*arrows.values())
    }:
        arrows = {f: below - ends for f, below in arrows.items() if f not in ends}
    circles = {str(f.relative_to(PACKAGE)): [b.name for b in below] for f, below in arrows.items()}
    assert not circles


def test_the_walk_over_imports_sees_every_kind():
    source = """
import detbalance.cli, numpy
from detbalance import losses
from detbalance.sampling.repeat_factors import repeat_factors
from . import kernel
from .. import data
from ..training import loop
def f():
    from detbalance.reporting import console
    importlib.import_module("detbalance.detection")
"""
    found = {room for _, room in imported_rooms(source, ["detbalance", "losses"])}
    rooms = {"cli", "losses", "sampling", "data", "training", "reporting", "detection"}
    assert found == rooms


@pytest.mark.parametrize("room", WITHOUT_TRAINING_STACK)
def test_room_works_without_the_training_stack(room):
    names = modules(room)
    assert names
    run_python(BLOCK.format(blocked=TRAINING_STACK, names=names))


def test_reports_work_without_torch():
    names = modules(*WITHOUT_TORCH)
    assert len(names) >= len(WITHOUT_TORCH)
    run_python(BLOCK.format(blocked=[*TRAINING_STACK, "torch"], names=names))


def test_pages_list_the_rooms_as_they_are():
    page = (ROOT / "docs/architecture.md").read_text()
    rows = {
        row[0]: row[2] for row in re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| .*\|$", page, re.M)
    }
    every = ", ".join(ROOMS)
    assert {
        room: set(re.findall(r"\w+", below.replace("all", every))) for room, below in rows.items()
    } == {room: below if room != "cli" else set(ROOMS) for room, below in ROOMS.items()}
    listed = re.findall(r"^- `detbalance\.(\w+)`", detbalance.__doc__, re.M)
    assert sorted(listed) == sorted(ROOMS)


def test_imports_have_no_side_effects():
    output = run_python(LOOK_AROUND.format(names=modules()))
    assert output == ""


def test_the_package_itself_loads_nothing_heavy():
    script = "import sys, detbalance; print({'numpy', 'torch', 'msgspec'} & set(sys.modules))"
    assert run_python(script).strip() == "set()"


def test_only_commands_print():
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        if room_of(file) != "cli"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "logging.basicConfig", "warnings.simplefilter"}
    ]
    assert not wrong


def test_files_are_short_and_folders_flat():
    long = {f.name: n for f in FILES if (n := len(f.read_text().splitlines())) > 420}
    assert not long
    assert max(len(file.relative_to(PACKAGE).parts) for file in FILES) <= 2


@pytest.mark.parametrize("room", ["evaluation", "calibration"])
def test_results_cannot_be_changed(room):
    """Figures, matches and draws are shared by whoever was given them."""
    found = [
        kind
        for name in modules(room)
        for kind in vars(importlib.import_module(name)).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == name
    ]
    assert len(found) > 4
    for kind in found:
        blank = object.__new__(kind)
        for field in dataclasses.fields(kind):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(blank, field.name, None)


def test_names_say_what_is_in_a_file():
    named = [*FILES, *(ROOT / "tools").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    wrong = [f for f in named if FORBIDDEN_NAMES & {p.stem for p in (f, *f.parents[:2])}]
    assert not wrong


def test_tools_are_a_few_lines_over_the_commands():
    own = {ROOT / f"tools/{name}.py" for name in ("benchmark", "fuzz", "docs_pages")}
    tools = set((ROOT / "tools").glob("*.py")) - own
    assert tools
    for tool in tools:
        source = tool.read_text()
        assert len(source.splitlines()) < 40, tool
        assert {room for _, room in imported_rooms(source, [])} <= {"cli"}, tool
