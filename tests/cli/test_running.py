"""What a command ends with when the system, not the user's data, is at fault."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from detbalance.cli.outputs import OUTPUT_FILE, Command
from detbalance.cli.running import run
from detbalance.data.files import replace_file


def ended(capsys, work):
    """Status and the one line of a command that does this work."""

    @click.group()
    def group():
        pass

    @group.command("work", cls=Command)
    @click.option("--output", type=OUTPUT_FILE)
    def _work(output):
        work(output)

    with pytest.raises(SystemExit) as stop:
        run(group, ["work", "--output", "there/out.json"])
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return stop.value.code, said[0]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full. Room is expected. Free some"),
        (errno.EROFS, "the disk can only be read. Another one is expected. Name"),
        (errno.EACCES, "this user may not read or write here"),
        (errno.EMFILE, "too many files are open. Fewer are expected. Lower --workers"),
        (errno.ENOENT, "there is no such file or folder. One is expected. Check"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_what_the_system_refuses_names_the_path_and_a_remedy(
    tmp_path, capsys, monkeypatch, number, words
):
    monkeypatch.chdir(tmp_path)

    def named(output):
        raise OSError(number, os.strerror(number), "a/file")

    def in_a_worker(output):
        error = OSError(number, os.strerror(number), "a/file")
        raise OSError(f"Caught it.\nOriginal Traceback (most recent call last):\nOSError: {error}")

    for work in (named, in_a_worker):
        status, line = ended(capsys, work)
        assert status == 2
        assert line.startswith(f"error: a/file: {words}")
        assert "Errno" not in line


def test_a_write_that_does_not_say_where_names_the_output(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def bare(output):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def whole_file(output):
        with replace_file(tmp_path / "state.json"):
            bare(output)

    assert ended(capsys, bare)[1].startswith("error: there/out.json: the disk is full")
    assert ended(capsys, whole_file)[1].startswith(f"error: {tmp_path / 'state.json'}: the disk")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_told_as_such(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(output):
        with Path("/dev/full").open("w") as file:
            file.write("x")
            file.flush()

    status, line = ended(capsys, write)
    assert (status, "the disk is full" in line) == (2, True)


def test_memory_that_is_not_there_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch = pytest.importorskip("torch")
    np = pytest.importorskip("numpy")
    for make in (torch.empty, np.empty):
        status, line = ended(capsys, lambda output, make=make: make((2**20, 2**30)))
        assert status == 2
        assert "work: the machine is out of memory. A batch must fit" in line


def test_our_own_mistakes_are_not_hidden(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def wrong(output):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        ended(capsys, wrong)


SLEEPER = """
import signal, sys, time, click
from detbalance.cli.outputs import OUTPUT_FILE, Command
from detbalance.cli.running import run

@click.group()
def group():
    pass

@group.command("work", cls=Command)
@click.option("--output", type=OUTPUT_FILE)
def work(output):
    print("ready", flush=True)
    time.sleep(60)

# A process that is started in the background may have been told to leave it alone.
signal.signal(signal.SIGINT, signal.default_int_handler)
run(group, ["work", "--output", "there/out.json"])
"""


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_command_that_is_stopped_ends_in_one_line(tmp_path, number, status, word):
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        started = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == status
    assert re.fullmatch(f"\\s*error: {word}\\s*", said)
    assert not list(tmp_path.iterdir())  # no lock is left
