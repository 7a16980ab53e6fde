"""Which file was meant by a name that is not there."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

__all__ = ["NamesIn", "names_in", "spelling_hint"]

NamesIn = Callable[[Path], dict[str, list[str]]]
"""`names_in`, or one that remembers what it gave."""


def spelling_hint(folder: Path, name: str, names: NamesIn) -> str:
    """The file that was probably meant: written in another way, or nearer to the folder."""
    for spelled in (name, unquote(name)):
        parts = PurePosixPath(spelled.replace("\\", "/")).parts
        for start in range(len(parts)):
            found = _nearest(folder, parts[start:], names)
            if found is not None:
                looks_alike = _folded(str(found)) == _folded(str(folder / name))
                form = " (another case or Unicode normal form)" if looks_alike else ""
                return f"; {found} is there{form}"
    return ""


def _nearest(folder: Path, parts: Sequence[str], names: NamesIn) -> Path | None:
    """A file of the same name but for case, normal form and extension, if there is just one."""
    path = folder
    for number, part in enumerate(parts, 1):
        same = names(path).get(_folded(part), [])
        if not same and number == len(parts):
            same = names(path).get(f"{PurePosixPath(_folded(part)).stem}/", [])
        if len(same) != 1:
            return None
        path /= same[0]
    return path if path.is_file() else None


def names_in(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by what is left of them without case; by the stem with a slash."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):
        for entry in folder.iterdir():
            folded = _folded(entry.name)
            names.setdefault(folded, []).append(entry.name)
            names.setdefault(f"{PurePosixPath(folded).stem}/", []).append(entry.name)
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
