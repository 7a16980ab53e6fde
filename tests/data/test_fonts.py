"""Class names of any script in pictures: in a font that has the letters, or said to be missing."""

from __future__ import annotations

import numpy as np
import pytest

from detbalance.data import fonts
from detbalance.generation.output_folder import write_contact_sheet
from detbalance.reporting.pictures import Tile, save_sheet

pytest.importorskip("PIL")
cv2 = pytest.importorskip("cv2")

# Letters that no font of a machine has, from an area for private use.
LETTER, OTHER = "\ue0a7", "\ue0a8"
INK = (0, 0, 0)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A machine whose only font has capitals, a letter of its own, and squares for all of them."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000)
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
    letters = {ord(c): f"u{ord(c)}" for c in f"ABCLNOP {LETTER}"}
    builder.setupGlyphOrder([".notdef", *letters.values()])
    builder.setupCharacterMap(letters)
    glyphs = {}
    for name in (".notdef", *letters.values()):
        pen = pens.TTGlyphPen(None)
        side = 100 if name == ".notdef" else 700
        if name != "u32":
            pen.moveTo((50, 0))
            for point in ((50, side), (side, side), (side, 0)):
                pen.lineTo(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (800, 50) for name in glyphs})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares of a test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    folder = tmp_path / "fonts"
    folder.mkdir()
    builder.save(folder / "Squares.ttf")
    (folder / "damaged.otf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_folders", lambda: [folder])
    monkeypatch.setattr(fonts, "_of_matplotlib", list)
    caches = (fonts._installed, fonts._has, fonts._opened, fonts._say)
    for cached in caches:
        cached.cache_clear()
    yield str(folder / "Squares.ttf")
    for cached in caches:
        cached.cache_clear()


def drawn(text: str) -> np.ndarray:
    picture = np.full((40, 200, 3), 255, np.uint8)
    fonts.write_text(picture, text, 10, 30, 0.5, INK)
    return picture


def test_an_installed_font_with_the_letters_is_found(installed, caplog):
    assert fonts.find_font(f"AB {LETTER}") == installed
    assert fonts.lacking(installed, f"A{OTHER}xA{OTHER}\n") == f"{OTHER}x"
    assert not caplog.records


def test_what_no_font_has_is_said_once(installed, caplog):
    for _ in range(2):
        assert fonts.find_font(f"A{OTHER}{LETTER}") is None
    (record,) = caplog.records
    assert f"No installed font has the letters {OTHER}:" in record.getMessage()
    assert (drawn(f"A{OTHER}") == drawn("A?")).all()


def test_ascii_is_drawn_as_ever(installed, caplog):
    picture = np.full((40, 200, 3), 255, np.uint8)
    cv2.putText(picture, "bolt 7", (10, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    assert (drawn("bolt 7") == picture).all()
    assert fonts.text_size("bolt 7", 0.5) == cv2.getTextSize("bolt 7", 0, 0.5, 1)[0]


def test_letters_are_where_they_are_said_to_be(installed):
    ink = np.argwhere((drawn(f"{LETTER}A") < 128).any(axis=2))
    width, height = fonts.text_size(f"{LETTER}A", 0.5)
    assert ink[:, 0].max() == 29  # the baseline
    assert abs((30 - ink[:, 0].min()) - height) <= 1
    assert 10 <= ink[:, 1].min() <= 12
    assert abs(ink[:, 1].max() - (10 + width)) <= 4
    # Over every edge, and in lines: nothing is drawn beyond, nothing stops.
    for x, y in ((-500, 20), (-5, 3), (195, 20), (20, 300), (20, -20), (20, 45)):
        picture = np.full((40, 200, 3), 255, np.uint8)
        fonts.write_text(picture, f"{LETTER}A\n{LETTER}", x, y, 0.5, INK)


def test_sheets_show_the_letters(installed, tmp_path):
    def sheet(name: str) -> np.ndarray:
        image = np.full((60, 90, 3), 200, np.uint8)
        cell = Tile(image, name, np.array([[20.0, 30, 60, 50]]), [name], [(255, 0, 0)])
        return cv2.imread(str(save_sheet([cell], tmp_path / "a.png", columns=1)))

    def donors(name: str) -> np.ndarray:
        write_contact_sheet(tmp_path / "b.png", {name: ([np.zeros((9, 9, 3), np.uint8)], [])})
        return cv2.imread(str(tmp_path / "b.png"))

    for made in (sheet, donors):
        assert made(LETTER).shape == made("?").shape
        assert not (made(LETTER) == made("?")).all()
        assert (made(OTHER) == made("?")).all()


def test_figures_show_the_letters(installed, tmp_path, caplog):
    figure_module = pytest.importorskip("matplotlib.figure")
    from detbalance.reporting.pictures import save_figure

    def picture(name: str) -> bytes:
        figure = figure_module.Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.set_xticks([0, 1], [name, "bolt"], parse_math=False)
        axes.set_title(name, fontweight="bold")
        save_figure(figure, tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    shown, hidden = picture(LETTER), picture(OTHER)
    assert shown != hidden
    assert [record.name for record in caplog.records] == ["detbalance.data.fonts"]
    assert picture(OTHER) == hidden
