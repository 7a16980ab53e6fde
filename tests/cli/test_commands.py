"""What holds for the program and for every command: its help, what is printed where, old names."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import click
import pytest
from commands import failing_command, run_command
from plans import coco, long_tail, write
from scenes import load, make_scene

from detbalance.cli import cli
from detbalance.cli.commands import COMMANDS, EXTRAS, HELP, RENAMED


@pytest.fixture
def files(tmp_path):
    """A folder with val.json and results.json, whose notes on data nobody has read yet."""
    load(tmp_path, *make_scene(1))
    return tmp_path


def test_commands_are_listed_by_what_they_are_for(capsys):
    status, out, _ = run_command(capsys, "--help")
    assert status == 0
    places = [out.index(f"{title}:") for title in COMMANDS]
    assert places == sorted(places)
    listed = [line.split()[0] for line in out.splitlines() if line[:3].strip() and line[:2] == "  "]
    assert [name for name in listed if name in HELP] == list(HELP)
    assert set(EXTRAS) == set(HELP)


@pytest.mark.parametrize("name", HELP)
def test_the_help_of_a_command_has_all_options_their_defaults_and_an_example(capsys, name):
    pytest.importorskip("rich")
    status, out, _ = run_command(capsys, name, "--help")
    assert status == 0
    text = " ".join(out.split())
    assert HELP[name] in text
    assert f"Example: detbalance {name} " in text
    command = cli.get_command(click.Context(cli), name)
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert f" {param.opts[0]} " in text
            if isinstance(param.default, (int, float, str)) and not param.is_flag:
                assert f"default: {param.default}" in text, param.name


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_ends_in_a_line_with_the_new_one(capsys, old, new):
    assert f"is called {new} now. Run: detbalance {new}" in failing_command(capsys, old, "--help")


def test_the_package_is_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "detbalance", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("detbalance, version ")


@pytest.mark.parametrize("command", ["plan", "report", "compare"])
def test_json_is_alone_on_the_output(files, capsys, command):
    pair = [files / "val.json", files / "results.json"]
    train = write(files / "train.json", coco(long_tail()))
    words = {
        "plan": [train],
        "report": [*pair, "--baseline", pair[1], "--num-bootstrap", 20],
        "compare": [pair[1], pair[1], "--annotations", pair[0], "--num-bootstrap", 20],
    }[command]
    output = [] if command == "plan" else ["--output", files / "out"]
    status, out, err = run_command(capsys, command, *words, "--json", *output)
    assert (status, err) == (0, "")
    document = "comparison" if command == "compare" else command
    assert json.loads(out)["schema"].startswith(f"detbalance.{document}/")
    if output:
        assert json.loads(out) == json.loads((files / f"out/{document}.json").read_text())


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    ("option", "level"), [("--quiet", logging.WARNING), ("--verbose", logging.DEBUG)]
)
def test_quiet_and_verbose_stand_before_or_after_the_command(files, capsys, place, option, level):
    words = ["report", files / "val.json", files / "results.json"]
    words = [option, *words] if place == "before" else [*words, option]
    assert run_command(capsys, *words)[0] == 0
    assert logging.root.level == level


def test_help_of_the_program_loads_no_library():
    script = (
        "import sys; from detbalance.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print({'numpy', 'rich', 'torch', 'msgspec'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "set()"
