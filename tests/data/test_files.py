"""Files that are replaced whole, and folders that one run at a time writes to."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detbalance.data.files import LOCK_FILE, lock_folder, remove_leftovers, replace_file

HOLD = """
import sys
from detbalance.data.files import lock_folder, replace_file
with lock_folder(sys.argv[1]), replace_file(sys.argv[1] + "/big.bin") as file:
    file.write(b"half")
    file.flush()
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder "run" and is writing a file there."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"in\n"
        yield process
        process.kill()


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_that_another_process_writes_to_is_refused_and_nothing_of_it_touched(
    holder, tmp_path
):
    before = names(tmp_path / "run")
    refused = rf"run: another run \(process {holder.pid}\) is writing here\. .*give another folder"
    with pytest.raises(ValueError, match=refused), lock_folder(tmp_path / "run"):
        pytest.fail("two are in")
    assert names(tmp_path / "run") == before == {LOCK_FILE, f".big.bin.{holder.pid}.tmp"}


def test_a_killed_process_holds_nothing_and_its_unfinished_files_go(holder, tmp_path):
    holder.kill()
    holder.wait()
    run = tmp_path / "run"
    for name in ("notes.tmp", ".mine.tmp", f".of-a-live-one.{os.getpid()}.tmp"):
        (run / name).write_text("kept")
    assert len(names(run)) == 5
    with lock_folder(run):
        kept = {"notes.tmp", ".mine.tmp", f".of-a-live-one.{os.getpid()}.tmp"}
        assert names(run) == {LOCK_FILE, *kept}
    assert names(run) == kept


def test_a_lock_leaves_nothing_and_a_process_excludes_itself(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock_folder(folder):
        with pytest.raises(ValueError, match=rf"process {os.getpid()}"), lock_folder(folder):
            pass
        with lock_folder(folder.parent / "c"):
            pass
        assert names(folder) == {LOCK_FILE}
    assert not (tmp_path / "a").exists()
    with lock_folder(folder):
        (folder / "result").write_text("x")
    assert names(folder) == {"result"}


FORK = """
import os, sys, time
from detbalance.data.files import lock_folder
with lock_folder(sys.argv[1]):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_child_that_outlives_a_killed_run_does_not_hold_its_folder(tmp_path):
    """As the loader's workers do, for some seconds."""
    command = [sys.executable, "-c", FORK, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        process.kill()
    try:
        with lock_folder(tmp_path / "run"):
            os.kill(child, 0)  # it is there
    finally:
        os.kill(child, signal.SIGKILL)


def test_places_that_cannot_be_written_to_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ValueError, match=r"file: is a file\. A folder"),
        lock_folder(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"/proc/run: cannot be written to \(No such file"),
        lock_folder("/proc/run"),
    ):
        pass


def test_replacing_a_file_removes_what_a_killed_process_left_of_it(tmp_path):
    left = [tmp_path / f".{name}.{dead_process()}.tmp" for name in ("x.json", "y.json")]
    for path in left:
        path.write_text("half")
    with replace_file(tmp_path / "x.json") as file:
        file.write(b"whole")
    assert names(tmp_path) == {"x.json", left[1].name}
    remove_leftovers(tmp_path)
    assert names(tmp_path) == {"x.json"}


def test_a_file_that_is_being_written_elsewhere_is_no_leftover(holder, tmp_path):
    """Of another container, where process numbers are others."""
    own = tmp_path / "run" / f".big.bin.{holder.pid}.tmp"
    foreign = own.with_name(f".big.bin.{dead_process()}.tmp")
    os.link(own, foreign)
    remove_leftovers(tmp_path / "run")
    assert foreign.exists()


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, size):
    """Also where torch writes, which raises an error of its own over that of the disk."""
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with (
            pytest.raises(OSError, match=r"File too large: '\S+/last\.pt'"),
            replace_file(path) as file,
        ):
            torch.save({"weights": torch.zeros(size)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"last.pt"}
