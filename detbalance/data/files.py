"""Reading and writing whole files: one-line errors, nothing half-written, one writer a folder."""

from __future__ import annotations

import errno
import glob
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_UNSAFE_START = re.compile(r"[/\\]|[A-Za-z]:")
_PARTS = re.compile(r"[/\\]")
try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
_locked: set[Path] = set()  # folders that this process holds: its own locks do not exclude it

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}


_BLOCK = 1 << 18  # bytes that are held at a time
_SLACK = 1 << 16


class FileText:
    """The bytes of a file, read block by block: searching gigabytes takes a quarter of a MB."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._start, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        stop = max(start, stop)
        if stop - start > _BLOCK:
            self._file.seek(start)
            return self._file.read(stop - start)
        at = self._hold(start, stop)
        return self._block[at : at + stop - start]

    def find(self, word: bytes) -> int:
        """Return the place of the first `word`, -1 if there is none."""
        for start in range(0, self._size, _BLOCK):
            place = self[start : start + _BLOCK + len(word) - 1].find(word)
            if place >= 0:
                return start + place
        return -1

    def cut(self, start: int, length: int, gap: re.Pattern[bytes]) -> tuple[bytes, int | None]:
        """Return the text from `start` to a gap, whose first byte it has, and that gap's end."""
        size = length
        while True:
            size += _SLACK
            at = self._hold(start, start + size)
            found = gap.search(self._block, at + length)
            if found:
                return self._block[at : found.start() + 1], self._start + found.end() - 1
            if start + size >= self._size:
                return self._block[at:], None
            size *= 2

    def _hold(self, start: int, stop: int) -> int:
        """Let the block hold these bytes; return where in it they begin."""
        if start < self._start or min(stop, self._size) > self._start + len(self._block):
            self._file.seek(start)
            self._start, self._block = start, self._file.read(max(stop - start, _BLOCK))
        return start - self._start


@contextmanager
def open_text(
    path: str | os.PathLike[str], error: type[ValueError] = ValueError
) -> Iterator[FileText]:
    """Open a file that must exist, hold something, and stay as it is while it is read."""
    try:
        with Path(path).open("rb") as file:
            if file.seekable():
                text, before = FileText(file), _state(file)
            else:  # a pipe
                text, before = FileText(io.BytesIO(file.read())), None
            _check_content(text, path, error)
            try:
                yield text
            finally:
                if before is not None and _state(file) != before:
                    raise error(
                        f"{path}: was changed while it was read. Expected a file that is written to"
                        " its end. Run this again when it is."
                    ) from None
    except FileNotFoundError:
        raise error(f"{path}: no such file. Expected a JSON file. Check the path.") from None
    except IsADirectoryError:
        raise error(
            f"{path}: this is a folder. Expected a JSON file. Name the file in it."
        ) from None
    except OSError as problem:
        raise error(
            f"{path}: cannot be read ({problem.strerror}). Expected a readable JSON file."
        ) from None


def _state(file: BinaryIO) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def _check_content(text: FileText, path: str | os.PathLike[str], error: type[ValueError]) -> None:
    start = text[:4096]
    if not start.strip(b"\xef\xbb\xbf \t\r\n\0") and len(text) <= 4096:
        raise error(f"{path}: the file is empty. Expected JSON. Write or download the file again.")
    for mark, name in _COMPRESSED.items():
        if start.startswith(mark):
            raise error(f"{path}: the file is compressed ({name}). Expected JSON. Unpack it first.")


def open_file(path: str | os.PathLike[str], error: type[ValueError] = ValueError) -> bytes:
    """Return all of a file, as `open_text` opens it."""
    with open_text(path, error) as text:
        return text[:]


def parse_json(
    data: bytes, path: str | os.PathLike[str], error: type[ValueError] = ValueError
) -> object:
    """Return the value of a JSON text, NaN and Infinity tokens and a byte order mark allowed."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as problem:
        what = f"{problem.msg.removesuffix(' at')} at line {problem.lineno}, column {problem.colno}"
        if problem.msg == "Extra data" and is_json_lines(data[:_BLOCK]):
            what = f"JSON lines: a second value begins at line {problem.lineno}"
    except UnicodeDecodeError as problem:
        what = f"byte {problem.start} is not {problem.encoding}"
    except RecursionError:
        what = "nested too deeply"
    except ValueError as problem:  # an integer of thousands of digits
        what = str(problem).split(";")[0]
    raise error(
        f"{path}: not JSON ({what}). Expected one JSON value. Write the file again."
    ) from None


def is_json_lines(start: bytes) -> bool:
    """Whether a text begins with a JSON object on a line of its own, and another one after it."""
    first, _, rest = start.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    if not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def points_outside(name: str) -> bool:
    """Whether a file name could point outside the folder that it starts from, on any system."""
    if ".." in name and ".." in _PARTS.split(name):
        return True
    return "\0" in name or _UNSAFE_START.match(name) is not None


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` only when all of it has been written.

    A reader sees the old content or the new, never a part. When the block raises, the old file
    stays. What a killed process left of the same file is removed.
    """
    path = Path(path)
    remove_leftovers(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path, temporary), temporary.open("wb") as file:
            _take_lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        mine = (None, str(temporary))  # a failed write does not say what it wrote to
        if isinstance(error, OSError) and error.errno and error.filename in mine:
            error.filename = str(path)
        raise


@contextmanager
def naming(
    path: str | os.PathLike[str], temporary: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Let an error of writing, which says what is wrong but not where, name the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # Torch's writer puts an error of its own over that of the disk.
        reason = error if isinstance(error, OSError) else error.__context__
        unnamed = (None, None if temporary is None else os.fspath(temporary))
        if not isinstance(reason, OSError) or reason.filename not in unnamed:
            raise
        reason.filename = os.fspath(path)
        raise reason from None


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove the unfinished files of killed processes: of one name, or all that are in a folder."""
    if fcntl is None:
        return  # os.kill(process, 0) does not only ask there
    for path in folder.glob(f".{glob.escape(name) or '*'}.*.tmp"):
        writer = path.name.split(".")[-2]
        if not writer.isdecimal() or _is_alive(int(writer)):
            continue
        with suppress(OSError), path.open("r+b") as file:
            # The number may be that of a process of another machine or container, which holds it.
            if _take_lock(file):
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _take_lock(file: BinaryIO) -> bool:
    """Lock an open file for as long as this process has it open; False if another one has."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Any other error: a drive that knows no locks.
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


@contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep every other run out of a folder while this one writes to it."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file. A folder is expected. Give another one.")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    key = folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = None if key in _locked else _locked_file(folder / LOCK_FILE)
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written to ({error.strerror}). A folder with room to write into"
            " is expected. Make room, or give another folder."
        ) from error
    if file is None:
        writer = os.getpid() if key in _locked else _writer(folder / LOCK_FILE)
        raise ValueError(
            f"{folder}: another run (process {writer}) is writing here. One at a time is expected."
            " Wait for it or stop it, or give another folder."
        )
    _locked.add(key)
    try:
        remove_leftovers(folder)
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK_FILE).unlink()
        file.close()
        _locked.discard(key)
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _locked_file(path: Path) -> BinaryIO | None:
    """The lock file, open, with the number of this process; None if another one has it."""
    while True:
        file = path.open("a+b", buffering=0)
        if not _take_lock(file):
            file.close()
            return None
        # The one that had it removes it, perhaps between these two lines.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()
    try:
        file.truncate(0)
        file.write(str(os.getpid()).encode())
    except OSError:  # no room
        path.unlink()
        file.close()
        raise
    return file


def _writer(path: Path) -> str:
    """The process that holds a lock file."""
    try:
        return path.read_text() or "unknown"
    except OSError:
        return "unknown"
