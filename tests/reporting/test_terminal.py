"""Names and paths of others: the terminal shows them and obeys none, spreadsheets compute none."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import make_scene, training_file

from detbalance.cli import main
from detbalance.cli.running import run
from detbalance.data.messages import counted, printable

pytest.importorskip("rich")
from rich.text import Text

from detbalance.reporting.console import print_document
from detbalance.reporting.document import Cell, Column, Document, Facts, Table, lines
from detbalance.reporting.files import csv_lines
from detbalance.reporting.terminal import Console

CLI = Path(__file__).resolve().parents[2] / "detbalance" / "cli"
# Clears the screen, sets the title, rings, turns the writing, forges a line, ends a markup tag.
HOSTILE = "\x1b[2J\x1b]0;x\x07\u202e\x9b31m\r\nerror: gone[/x][link=a]`|<script>\x00"


@pytest.fixture(autouse=True)
def _plain_logging() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def commands_in(text: str) -> set[str]:
    """What a terminal would obey in a text: controls but the line's end, and turns of direction."""
    turns = set("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return {c for c in text if (unicodedata.category(c) == "Cc" and c != "\n") or c in turns}


@given(st.text())
def test_what_is_printable_has_no_command_and_nothing_else_is_changed(text: str) -> None:
    shown = printable(text)
    assert not commands_in(shown)
    assert "\n" not in shown
    harmless = "".join(c for c in text if c not in "\n\u2028\u2029" and not commands_in(c))
    assert printable(harmless) == harmless
    assert printable("\n", keep="\n") == "\n"


def test_a_number_and_its_noun() -> None:
    assert [counted(n, "box") for n in (0, 1, 2000)] == ["0 boxes", "1 box", "2,000 boxes"]
    nouns = ("image", "class", "category", "more class")
    assert [counted(1, noun) for noun in nouns] == [f"1 {noun}" for noun in nouns]
    assert [counted(2, noun)[2:] for noun in nouns] == [
        "images",
        "classes",
        "categories",
        "more classes",
    ]
    assert [counted(n, "image is", "images are") for n in (1, 2)] == ["1 image is", "2 images are"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_console_shows_markup_and_controls_instead_of_obeying(is_terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, color_system=None, width=200)
    console.print(HOSTILE, Text(HOSTILE), soft_wrap=True)
    table = Table([Column("class", numeric=False)], [[Cell(HOSTILE, name=True)]])
    facts = Facts({"annotations": HOSTILE})
    print_document(Document("", [table, *lines("note", HOSTILE), facts]), console)
    assert not commands_in(out.getvalue())
    assert out.getvalue().count("[/x][link=a]") == 5
    assert out.getvalue().count(r"\x1b[2J") == 5


def test_a_table_too_wide_for_a_terminal_leaves_out_what_is_spare_and_is_printed_in_parts() -> None:
    columns = [
        Column("class", numeric=False),
        Column("group", numeric=False, spare=True),
        *(Column(f"figure {i}") for i in range(4)),
    ]
    names = ("bolt", "a washer of a name that is far too long")
    rows = [
        [Cell(name, name=True), Cell("rare"), *(Cell(f"{i}" * 12) for i in range(4))]
        for name in names
    ]
    document = Document("", [Table(columns, rows)])

    def printed(width: int, is_terminal: bool = True) -> list[str]:
        out = io.StringIO()
        console = Console(file=out, force_terminal=is_terminal, color_system=None, width=width)
        print_document(document, console)
        lines = [line.rstrip() for line in out.getvalue().split("\n")]
        assert not is_terminal or max(map(len, lines)) <= width
        return lines

    whole = printed(120)
    assert "group" in whole[0]
    assert whole == printed(40, is_terminal=False)
    spare = printed(62)
    assert "group" not in spare[0]
    assert "figure 3" in spare[0]
    parts = printed(40)
    titles = [line.split() for line in parts if line.startswith("class")]
    assert titles == [
        ["class", "figure", "0", "figure", "1"],
        ["class", "figure", "2", "figure", "3"],
    ]
    assert sum(line.startswith("bolt") for line in parts) == 2
    assert parts.count("") == 2  # between the parts, and after the last line


def test_colours_of_our_own_stay() -> None:
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system="standard").print("cat", style="red")
    assert out.getvalue() == "\x1b[31mcat\x1b[0m\n"


def hostile_files(folder: Path) -> list[str]:
    """Annotations, results and a training file whose names are commands; their paths."""
    truth, found = make_scene(1)
    for number, category in enumerate(truth["categories"]):
        category["name"] = f"{'=+-@'[number % 4]}cmd{number}{HOSTILE}"
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}{HOSTILE}.png".replace("\x00", "")
    training_file(folder, {c["name"]: 3 + 9 * i for i, c in enumerate(truth["categories"])})
    (folder / "val.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(found))
    return [str(folder / name) for name in ("val.json", "results.json", "train.json")]


@pytest.mark.parametrize("command", ["report", "compare", "plan", "split", "thresholds", "fuse"])
def test_commands_show_hostile_names_and_write_what_they_should(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    if command == "plan":
        pytest.importorskip("matplotlib")
    folder = tmp_path / "in[/x]\x1b[2J"
    folder.mkdir(parents=True)
    val, results, train = hostile_files(folder)
    output = str(folder / "out[/x]")
    arguments = {
        "report": [val, results, "--train", train, "--num-bootstrap", "0", "--output", output],
        "compare": [
            results,
            results,
            "--annotations",
            val,
            "--num-bootstrap",
            "9",
            "--output",
            output,
        ],
        "plan": [train, "--output", output],
        "split": [train, "--output", output, "--val-share", "0.3"],
        "thresholds": ["--annotations", val, "--predictions", results, "--output", output],
        "fuse": [results, results, "--annotations", val, "--output", output],
    }[command]
    with pytest.raises(SystemExit) as stopped:
        main([command, *arguments])
    captured = capsys.readouterr()
    assert not stopped.value.code, captured.err
    assert not commands_in(captured.out + captured.err)
    assert "\nerror: gone" not in captured.out + captured.err
    assert "out[/x]" in captured.out
    for file in Path(output).glob("*.csv"):
        rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode(), newline="")))
        assert any("cmd1" in row["name"] for row in rows)
        assert not any(cell[:1] in "=+@\t\r" for row in rows for cell in row.values() if cell)
        assert any(row["name"].startswith("'=cmd0") for row in rows)
    for file in Path(output).glob("*.md"):
        assert not commands_in(file.read_text())
        assert "<script>" not in file.read_text()
        assert "\nerror: gone" not in file.read_text()


def test_errors_and_log_lines_are_shown_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object, **__: object) -> None:
        logging.getLogger("detbalance.any").warning("%s", HOSTILE)
        raise ValueError(HOSTILE)

    logging.root.handlers.clear()

    class Stopping:
        main = staticmethod(stop)

    with pytest.raises(SystemExit) as stopped:
        run(Stopping(), ["report"])  # type: ignore[arg-type]
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert not commands_in("".join(lines))


def test_cells_that_a_spreadsheet_would_compute_are_text_and_numbers_are_numbers() -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "cat", "a=1", ""]
    text = csv_lines([["name", "AP"], *([name, -0.5] for name in names)])
    _, *rows = csv.reader(io.StringIO(text, newline=""))
    assert [row[0] for row in rows] == [f"'{n}" for n in names[:8]] + names[8:]
    assert {row[1] for row in rows} == {"-0.5"}
    assert csv_lines([[None, 0, 1.5, "a,b"]]) == ',0,1.5,"a,b"\n'


def test_commands_print_on_that_console_and_bars_read_no_markup() -> None:
    wrong = []
    for file in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
                wrong += [file.name for alias in node.names if alias.name == "Console"]
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "TextColumn":
                fixed = isinstance(node.args[0], ast.Constant) and "{task.desc" not in str(
                    node.args[0].value
                )
                plain = any(ast.unparse(k) == "markup=False" for k in node.keywords)
                wrong += [] if fixed or plain else [f"{file.name}:{node.lineno}"]
    assert not wrong
