"""Letters of any script in pictures: an installed font that has them.

OpenCV draws ASCII only, and the font that comes with matplotlib has no Chinese, Japanese or Korean.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data.images import import_cv2

_logger = logging.getLogger(__name__)

_EM = 29  # pixels of a font that is as high as OpenCV's at scale 1
_STYLES = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black", "condensed")
# Fonts whose glyphs are empty or say which font is missing.
_NO_LETTERS = ("lastresort", "blank", "notdef")


def text_size(text: str, scale: float) -> tuple[int, int]:
    """Return width and height of what `write_text` would draw, in pixels."""
    text = " ".join(text.splitlines())
    font = _letters(text, scale)
    if font is None:
        cv2 = import_cv2()
        (width, height), _ = cv2.getTextSize(_plain(text), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        return width, height
    left, top, right, _ = font.getbbox(text, anchor="ls")
    return round(right - min(left, 0)), round(-top)


def write_text(
    picture: npt.NDArray[np.uint8],
    text: str,
    x: int,
    y: int,
    scale: float,
    color: tuple[int, int, int],
) -> None:
    """Draw a line of text into a picture."""
    text = " ".join(text.splitlines())
    font = _letters(text, scale)
    if font is None:
        cv2 = import_cv2()
        place, face = (x, y), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, _plain(text), place, face, scale, color, 1, cv2.LINE_AA)
        return
    from PIL import Image, ImageDraw

    left, top, right, bottom = (round(v) for v in font.getbbox(text, anchor="ls"))
    x0, y0 = max(0, x + left), max(0, y + top)
    part = picture[y0 : max(0, y + bottom + 1), x0 : max(0, x + right + 1)]
    if part.size:
        canvas = Image.fromarray(np.ascontiguousarray(part))
        ImageDraw.Draw(canvas).text((x - x0, y - y0), text, color, font, anchor="ls")
        part[:] = np.asarray(canvas)


def find_font(text: str) -> str | None:
    """Find an installed font that has all letters of a text; says once if there is none."""
    fewest = text
    for path in _installed():
        try:
            missing = lacking(path, text)
        except ImportError:
            break
        if not missing:
            return path
        fewest = min(fewest, missing, key=len)
    _say("".join(letter for letter in dict.fromkeys(fewest) if not letter.isascii()))
    return None


def lacking(path: str, text: str) -> str:
    """Return the letters of a text that a font file has no glyph for, in order."""
    return "".join(letter for letter in dict.fromkeys(text) if not _has(path, letter))


@cache
def _say(letters: str) -> None:
    _logger.warning(
        "No installed font has the letters %s: pictures cannot show them. Install one that does,"
        " such as Noto Sans CJK.",
        letters if len(letters) <= 20 else f"{letters[:20]}...",
    )


def _letters(text: str, scale: float) -> Any:
    """Pillow's font for a text that OpenCV cannot draw, where there is one."""
    if text.isascii():
        return None
    path = find_font(text)
    return None if path is None else _opened(path, max(6, round(_EM * scale)))


@cache
def _opened(path: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(path, size)


@cache
def _has(path: str, letter: str) -> bool:
    """Whether a font draws a letter otherwise than one that it does not have."""
    if letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf", "Cs"):
        return True
    try:
        drawn, missing = (_opened(path, 20).getmask(c) for c in (letter, "\uffff"))
    except (OSError, ValueError):  # no font, or a damaged one
        return False
    return drawn.size != missing.size or bytes(drawn) != bytes(missing)


@cache
def _installed() -> tuple[str, ...]:
    """Font files of this machine and of matplotlib, plain upright ones first."""
    files = {
        str(path)
        for folder in _folders()
        for path in folder.rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    }

    def order(path: str) -> tuple[int, int, str]:
        name = Path(path).stem.lower()
        return sum(style in name for style in _STYLES), len(name), path

    usable = (path for path in files if not any(n in path.lower() for n in _NO_LETTERS))
    return (*sorted(usable, key=order), *_of_matplotlib())


def _folders() -> list[Path]:
    home, environment = Path.home(), os.environ
    places = [
        "/usr/share/fonts",
        "/usr/local/share/fonts",
        environment.get("XDG_DATA_HOME", f"{home}/.local/share") + "/fonts",
        f"{home}/.fonts",
        "/System/Library/Fonts",
        "/Library/Fonts",
        f"{home}/Library/Fonts",
        environment.get("WINDIR", "C:/Windows") + "/Fonts",
        environment.get("LOCALAPPDATA", str(home)) + "/Microsoft/Windows/Fonts",
    ]
    return [Path(place) for place in places if Path(place).is_dir()]


def _of_matplotlib() -> list[str]:
    """The font that comes with matplotlib, without an import of it."""
    spec = find_spec("matplotlib")
    folders: list[str] = list(spec.submodule_search_locations or ()) if spec else []
    paths = [Path(folder) / "mpl-data/fonts/ttf/DejaVuSans.ttf" for folder in folders]
    return [str(path) for path in paths if path.is_file()]


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode()
