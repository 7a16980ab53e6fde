"""What holds for the paths and numbers of every command, before its work."""

from __future__ import annotations

import os

import click
import pytest

from detbalance.cli import cli, main
from detbalance.cli.commands import HELP
from detbalance.cli.options import Real, Whole
from detbalance.cli.outputs import Command, Output
from detbalance.data.files import lock_folder

COMMANDS = sorted(HELP)


def command_of(name):
    """The command, which the group imports."""
    return cli.get_command(click.Context(cli), name)


def paths(command, *, output):
    """The parameters of a command that are paths to write, or paths to read."""
    found = [p for p in command_of(command).params if isinstance(p.type, click.Path)]
    return [param for param in found if isinstance(param.type, Output) is output]


def words(command, given):
    """A command line with all that is required, and some paths."""
    line = [command]
    for param in command_of(command).params:
        value = given.get(param.name, "nowhere" if param.required else None)
        if value is not None:
            name = [param.opts[0]] if isinstance(param, click.Option) else []
            line += [*name, str(value)]
        elif param.name == "overwrite":
            line.append("--overwrite")
    return line


def fails(capsys, line):
    """The one line and the status that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(line)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert stop.value.code == 2
    return said[0]


def hits(command):
    """Every output with every input, every kind of file that is written, and every link."""
    return [
        (output, source, name, link)
        for output in paths(command, output=True)
        for source in paths(command, output=False)
        for name in output.type.names or [""]
        for link in ("same", "hard", "symbolic")
    ]


@pytest.mark.parametrize("command", [command for command in COMMANDS if hits(command)])
def test_no_command_writes_over_what_it_reads(tmp_path, capsys, command):
    for number, (output, source, name, link) in enumerate(hits(command)):
        place = tmp_path / str(number) / "place"
        written = place / name.replace("*", "1") if name else place
        read = written if link == "same" else place.with_name("source")
        for file in (read, written):
            file.parent.mkdir(exist_ok=True, parents=True)
        read.write_text("{}")
        if link == "hard":
            os.link(read, written)
        elif link == "symbolic":
            written.symlink_to(read)
        error = fails(capsys, words(command, {output.name: place, source.name: read}))
        assert "is one of the files to read" in error, (output.name, source.name, name, link)
        assert output.opts[0] in error
        assert read.read_text() == "{}"
        assert not list(place.parent.rglob("*lock*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_which_paths_it_writes(command):
    assert isinstance(command_of(command), Command)
    outputs = paths(command, output=True)
    assert [p.name for p in outputs if p.name == "output"] == ["output"]
    assert not [p.name for p in paths(command, output=False) if p.name == "output"]


@pytest.mark.parametrize(
    ("command", "output"),
    [(c, o) for c in COMMANDS for o in paths(c, output=True) if o.type.lock],
    ids=str,
)
def test_a_second_run_on_the_same_output_is_refused(tmp_path, capsys, command, output):
    place = tmp_path / "place"
    held = place if output.type.lock == "inside" else tmp_path / ".place.lock"
    with lock_folder(held):
        error = fails(capsys, words(command, {output.name: place}))
    assert "another run (process" in error
    assert f"{place}:" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_are_none_or_beyond_all_bounds_are_refused(command):
    numbers = (click.types.IntParamType, click.types.FloatParamType)
    for param in command_of(command).params:
        kind = param.type
        if isinstance(kind, numbers):
            assert isinstance(kind, (Real, Whole)), param.name
            wrong = ["nan", "inf", "-inf", "1e999"] if isinstance(kind, Real) else ["1" + "0" * 30]
            for text in wrong:
                with pytest.raises(click.BadParameter, match=r"not a finite number|not in the"):
                    kind.convert(text, param, None)


def test_images_in_the_folder_of_images_are_inputs_and_earlier_outputs_are_not(tmp_path, capsys):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    given = {"annotations": tmp_path / "none.json", "images": images}
    for name in ("sub/a.png", "b.JPG", "frame_1"):
        (images / name).write_bytes(b"pixels")
        error = fails(capsys, [*words("donors", {**given, "output": images / name}), "--overwrite"])
        assert "is one of the files to read (--images)" in error
        assert (images / name).read_bytes() == b"pixels"
    earlier = images / "donors.safetensors"
    earlier.write_bytes(b"")
    error = fails(capsys, [*words("donors", {**given, "output": earlier}), "--overwrite"])
    assert "none.json: no such file" in error


def test_the_results_in_a_runs_folder_are_an_input(tmp_path, capsys):
    results = tmp_path / "run" / "predictions.json"
    results.parent.mkdir()
    results.write_text("[]")
    line = ["fuse", str(results.parent), "--annotations", "gt.json", "--overwrite", "--output"]
    assert "is one of the files to read" in fails(capsys, [*line, str(results)])


def says_what_is_there(command):
    """Whether that is looked at here, not in the command."""
    return all(not p.type.names or p.type.holds for p in paths(command, output=True)[:1])


@pytest.mark.parametrize("command", [*filter(says_what_is_there, COMMANDS)])
def test_what_is_there_already_is_not_replaced_unasked(tmp_path, capsys, command):
    output = next(p for p in paths(command, output=True) if p.name == "output")
    for name in output.type.names or [""]:
        place = tmp_path / name.partition(".")[0].replace("/*", "") / "place"
        mine = place / name.replace("*", "1") if name else place
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        error = fails(capsys, [w for w in words(command, {"output": place}) if w != "--overwrite"])
        assert "already" in error
        assert mine.read_text() == "mine"
