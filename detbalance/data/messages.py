"""Words of messages: numbers with nouns, harmless texts, pip lines, and which name was meant."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

# No package index has the name: what works is a clone, or the place that it was installed from.
CLONE = 'pip install -e ".[{extra}]" in a clone of detbalance'


def needs(what: str, packages: str, extra: str) -> ImportError:
    """Return the error for a missing optional package, with the line that installs it."""
    return ImportError(f"{what} needs {packages}. Install with: {pip_line(extra)}")


def pip_line(extra: str) -> str:
    """Return the command that installs an extra from where the package itself came."""
    # Takes as long to import as NumPy, for an error message only.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution("detbalance").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    url = origin.get("url", "")
    if "dir_info" in origin and url.startswith("file:"):
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f'pip install {editable}"{unquote(urlparse(url).path)}[{extra}]"'
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}"
    return f'pip install "detbalance[{extra}] @ {url}"' if url else CLONE.format(extra=extra)


# C0 and C1 controls, line and paragraph separators, and what turns the direction of writing.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def counted(number: float, one: str, several: str | None = None) -> str:
    """Put a number before its noun."""
    few = isinstance(number, float) and number < 10
    text = f"{number:.1f}".removesuffix(".0") if few else f"{number:,.0f}"
    plural = f"{one.removesuffix('y')}ies" if one.endswith("y") else f"{one}s"
    plural = f"{one}es" if one.endswith(("s", "x")) else plural
    return f"{text} {one if text == '1' else several or plural}"


def rounded(value: float) -> str:
    """Write a ratio with three digits, from 100 on as a whole number, never as 1e+03."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def printable(text: str, *, keep: str = "") -> str:
    r"""Write control characters, and those that turn the direction of writing, as escapes."""

    def escape(found: re.Match[str]) -> str:
        char = found[0]
        return char if char in keep else char.encode("unicode_escape").decode()

    return _UNSHOWN.sub(escape, text)


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
