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
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {file: file.read_text(encoding="utf-8") for file in FILES}
README, TEXT = PAGES[FILES[0]], "\n".join(PAGES.values())
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
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
    listed = set(re.findall(r"`(configs/[\w/]+\.yaml)`", TEXT))
    assert listed == {p.relative_to(ROOT).as_posix() for p in ROOT.glob("configs/**/*.yaml")}
    for name in set(re.findall(r"\b(?:tools|configs)/\w+\.\w+", TEXT)):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), target


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_links_between_pages_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[file]):
        # Pages of the site that are made from the code.
        if target not in ("reference/commands.md", "reference/configuration.md"):
            assert (file.parent / target).exists(), target


def test_the_readme_is_a_page_that_one_reads():
    assert len(README.splitlines()) <= 150


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
        for name in (alias.name for alias in node.names):
            assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}")
