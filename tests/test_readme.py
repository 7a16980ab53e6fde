"""What the README says is true: its tables, its files, its commands, its code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from detbalance.cli import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
CODE = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if "tools/" in line
]


def test_tables_are_those_of_the_last_measurement():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "tools/benchmark.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    marks = []
    for page in benchmark.PAGES:
        text = page.read_text(encoding="utf-8")
        assert benchmark.with_tables(text) == text
        marks += re.findall("<!-- table: (.*) -->", text)
    assert sorted(marks) == benchmark.SUBJECTS


def test_every_config_is_listed_and_every_named_file_is_there():
    listed = set(re.findall(r"`(configs/[\w/]+\.yaml)`", README))
    assert listed == {p.relative_to(ROOT).as_posix() for p in ROOT.glob("configs/**/*.yaml")}
    for name in set(re.findall(r"\b(?:tools|configs)/\w+\.\w+", README)):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"\]\((docs/[\w/.]+)", README):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), target


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_the_named_commands_exist(command):
    words = shlex.split(command)
    script = next(Path(word).stem for word in words if word.startswith("tools/"))
    name = script.replace("_", "-")
    if name == "benchmark":
        return
    known = CliRunner().invoke(cli, [name, "--help"]).output
    options = [w for w in words[words.index(f"tools/{script}.py") :] if w.startswith("--")]
    assert options
    assert all(option in known for option in options)


@pytest.mark.parametrize("code", CODE)
def test_named_parts_can_be_imported(code):
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert imports or "detbalance" in code
    for node in imports:
        module = importlib.import_module(node.module)
        assert all(hasattr(module, alias.name) for alias in node.names)
