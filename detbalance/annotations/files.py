"""Reading and writing whole files: one-line errors, and nothing half-written."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_UNSAFE_START = re.compile(r"[/\\]|[A-Za-z]:")
_PARTS = re.compile(r"[/\\]")
FileContent = bytes | mmap.mmap
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}


def open_file(path: str | os.PathLike[str], error: type[ValueError] = ValueError) -> FileContent:
    """Return the content of a file that must exist and hold something.

    It is mapped where the system can: a large file then costs no memory and no copy.

    Raises:
        ValueError: (as the class `error`) if it is missing, a folder, empty, compressed or
            unreadable.
    """
    try:
        with Path(path).open("rb") as file:
            try:
                data: FileContent = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # an empty file, a pipe
                data = file.read()
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
    if not data[:4096].strip(b"\xef\xbb\xbf \t\r\n\0") and len(data) <= 4096:
        raise error(f"{path}: the file is empty. Expected JSON. Write or download the file again.")
    for start, name in _COMPRESSED.items():
        if data[: len(start)] == start:
            raise error(f"{path}: the file is compressed ({name}). Expected JSON. Unpack it first.")
    return data


def parse_json(
    data: FileContent, path: str | os.PathLike[str], error: type[ValueError] = ValueError
) -> object:
    """Return the value of a JSON text, NaN and Infinity tokens and a byte order mark allowed.

    Raises:
        ValueError: (as the class `error`) if it is not JSON, with the line and column.
    """
    try:
        return json.loads(data[:])
    except json.JSONDecodeError as problem:
        what = f"{problem.msg.removesuffix(' at')} at line {problem.lineno}, column {problem.colno}"
    except UnicodeDecodeError as problem:
        what = f"byte {problem.start} is not {problem.encoding}"
    except RecursionError:
        what = "nested too deeply"
    except ValueError as problem:  # an integer of thousands of digits
        what = str(problem).split(";")[0]
    raise error(
        f"{path}: not JSON ({what}). Expected one JSON value. Write the file again."
    ) from None


def points_outside(name: str) -> bool:
    """Whether a file name could point outside the folder that it starts from, on any system."""
    if ".." in name and ".." in _PARTS.split(name):
        return True
    return "\0" in name or _UNSAFE_START.match(name) is not None


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` only when all of it has been written.

    A reader sees the old content or the new, never a part. When the block raises, the old file
    stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
