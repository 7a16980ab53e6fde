"""What a plan looks like on the console, on disk and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from plans import coco, load, long_tail

from detbalance.planning import ClassPlan, Plan, make_plan
from detbalance.reporting.files import write_plan
from detbalance.reporting.plan_document import plan_document

rich_console = pytest.importorskip("rich.console")
console_module = pytest.importorskip("detbalance.reporting.console")

# Neither rich's markup nor matplotlib's formulas may be read out of a name.
LONG_NAME = r"no overtaking (trucks) [red] $\none$ on roads with more than two lanes"


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """Three classes and an absent one, few val boxes, a fault, a note."""
    folder = tmp_path_factory.mktemp("plan")
    document = coco(long_tail(), names=["sun"])
    document["annotations"][0]["bbox"][2] = -5
    document["annotations"][-1]["bbox"][2] = 700
    val = coco([["snow"]] * 5 + [["road"]] * 200, prefix="val")
    train, held_out = load(folder / "train.json", document), load(folder / "val.json", val)
    return make_plan(train, val=held_out, limits=(10, 100), images_per_second=10)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Plan:
    """As many classes as LVIS has, with a tail."""
    draw = np.random.default_rng(0)
    share = 1.0 / np.arange(1, 1204) ** 1.2
    share /= share.sum()
    images = [[f"thing {c:04}" for c in draw.choice(1203, 6, p=share)] for _ in range(1500)]
    names = [f"thing {c:04}" for c in range(1203)]
    folder = tmp_path_factory.mktemp("large")
    return make_plan(load(folder / "train.json", coco(images, names)))


def printed(plan: Plan, *, width: int = 80, terminal: bool = False, **options) -> str:
    stream = io.StringIO()
    console = rich_console.Console(
        file=stream,
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else "auto",
    )
    console_module.print_document(plan_document(plan, **options), console)
    return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())


def renamed(plan: Plan, old: str, new: str) -> Plan:
    rows = (dataclasses.replace(r, name=new) if r.name == old else r for r in plan.classes)
    return dataclasses.replace(plan, classes=tuple(rows))


def joined(text: str) -> str:
    return " ".join(text.split())


# Console


def test_console_answers_the_three_questions(plan):
    text = printed(plan)
    assert text.startswith("Recommended: ")
    for words in (
        "60.6 : 1 in boxes (303 road, 5 snow)",
        "What comes along when images of rare classes are repeated",
        "Boxes that 366 drawn images show",
        "Recommended: ",
        plan.recommendation.reason,
        "For the training configuration\n  sampling:\n    method: ",
        "Training counts iterations, so no setting makes it longer",
        "recall of snow will be known to +-0.33",
        plan.group_rule,
    ):
        assert words in text
    assert all(note in text for note in (*plan.class_notes, *plan.setting_notes))
    lines = text.splitlines()
    assert all(f"  {line}" in lines for line in plan.recommendation.lines.splitlines())


def test_findings_come_first_and_are_counted(plan):
    text = printed(plan)
    assert "1 finding to look at before training\n ! " in text
    assert text.index("negative width or height") < text.index("Classes, rarest first")
    assert "\n - " in text[: text.index("Classes, rarest first")]  # the clipped box, a note
    sound = dataclasses.replace(plan, findings=())
    assert "finding" not in printed(sound)
    noted = dataclasses.replace(plan, findings=plan.findings[1:])
    assert "Good to know" in printed(noted)


def test_every_class_is_a_row_with_its_figures(plan):
    lines = printed(plan).splitlines()
    table = lines[lines.index("Classes, rarest first") :]
    for row in plan.classes:
        cells = next(line for line in table if line.startswith(row.name)).split()
        known = "-" if math.isnan(row.half_width) else f"{row.half_width:.2f}".lstrip("0")
        size, mix = ("-", "-") if not row.boxes else (f"{row.median_size:.0f}", cells[5])
        expected = [row.name, row.group or "-", str(row.images), str(row.boxes), size, mix]
        assert cells == [*expected, str(row.val_images), str(row.val_boxes), known]
    snow = next(line for line in table if line.startswith("snow")).split()
    assert snow[5] == "100/0/0"


def test_settings_are_rows_with_cost_and_time(plan):
    lines = printed(plan).splitlines()
    table = lines[lines.index("Settings") :]
    for setting in plan.settings:
        cells = next(x for x in table if re.match(rf"{re.escape(setting.name)} +\d", x)).split()
        assert f"{setting.epoch_length:,.0f}" in cells
        assert cells[-1] == "s"
        assert float(cells[-2]) == round(setting.epoch_length / 10)
    untimed = tuple(dataclasses.replace(s, seconds=math.nan) for s in plan.settings)
    assert re.search("variety +time", "\n".join(lines))
    assert not re.search("variety +time", printed(dataclasses.replace(plan, settings=untimed)))


def test_exposures_are_for_equally_many_drawn_images(plan):
    lines = printed(plan).splitlines()
    table = lines[lines.index("Boxes that 366 drawn images show") :]
    cells = next(line for line in table if line.startswith("road")).split()[2:]
    for cell, setting in zip(cells, plan.settings, strict=True):
        shown = setting.exposure[-1] * 366 / setting.epoch_length
        assert int(cell.replace(",", "")) == round(shown)


@pytest.mark.parametrize("width", [80, 120])
def test_terminals_of_usual_width_show_all_columns(plan, large, width):
    long = renamed(plan, "snow", LONG_NAME)
    for shown in (long, large):
        text = printed(shown, width=width, terminal=True)
        # Lines of a configuration are to be copied, and not wrapped.
        lines = [line for line in text.splitlines() if not line.startswith("  sampling: {")]
        assert max(map(len, lines)) <= width
        start = text.splitlines().index("Settings")
        assert "variety" in " ".join(text.splitlines()[start : start + 3])
    lines = printed(long, width=80, terminal=True).splitlines()
    line = next(line for line in lines if line.startswith("no overtaking"))
    assert "…" in line
    assert line.split()[-1] == ".33"


def test_nothing_is_shortened_when_not_on_a_terminal(plan):
    text = printed(renamed(plan, "snow", LONG_NAME), width=40)
    assert LONG_NAME in text
    assert "…" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_many_classes_show_both_ends_and_say_how_many_more(large):
    text = printed(large, has_csv=True)
    classes = text[text.index("Classes, rarest") : text.index("size: median")].splitlines()
    names = [line.split("  ")[0] for line in classes if line.startswith("thing")]
    ordered = [row.name for row in large.classes]
    assert names == [*ordered[:20], *ordered[-5:]]
    assert "... 1,178 more, see plan.csv" in classes
    assert len(text.splitlines()) < 150
    assert "plan.csv" not in printed(large)
    assert printed(large).count("... 1,178 more\n") == 2


def test_shares_are_whole_numbers_up_to_all(tmp_path):
    """Classes in as many images each are one group: its share is 100, not 1e+02."""
    for images, shares in (
        ([["a"], ["b"]] * 20, "0/0/100"),
        ([["a"]] + [["b"]] * 260, "0.38/0/100"),
        ([["a"]] * 3 + [["b"]] * 197, "1.5/0/98"),
    ):
        text = printed(make_plan(load(tmp_path / "train.json", coco(images))), width=200)
        (line,) = [line for line in text.splitlines() if line.startswith("none ")]
        assert shares in line.split()
        assert "e+" not in text


def test_degenerate_plans_can_be_shown(tmp_path):
    for i, images in enumerate(([[], [], [], []], [["a"], ["a"]], [["a", "b"]])):
        train = load(tmp_path / f"{i}.json", coco(images, names=["z"]))
        shown = make_plan(train, val=train)
        text = printed(shown)
        assert shown.recommendation.reason in text
        assert "nan" not in text
        assert "inf" not in joined(text).replace("inf.", "").split()


# Files


def test_json_and_csv_have_every_class(plan, tmp_path):
    files = write_plan(plan, tmp_path / "new" / "folder")
    content = json.loads(files.json.read_text(), parse_constant=pytest.fail)
    assert content == plan.to_dict()
    with files.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row.name for row in plan.classes]
    fields = [field.name for field in dataclasses.fields(ClassPlan)]
    shown = [f"exposure: {setting.name}" for setting in plan.settings]
    assert list(rows[0]) == [*fields, *shown]
    for i, (row, known) in enumerate(zip(rows, plan.classes, strict=True)):
        for field, value in dataclasses.asdict(known).items():
            undefined = value is None or (isinstance(value, float) and math.isnan(value))
            assert row[field] == ("" if undefined else str(value))
        for name, setting in zip(shown, plan.settings, strict=True):
            value = setting.exposure[i]
            assert row[name] == ("" if math.isnan(value) else str(value))


def test_a_plan_that_cannot_be_written_is_one_line(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: the plan cannot be written \(.*\)\. Expected"):
        write_plan(plan, tmp_path / "file")


def test_an_interrupted_write_keeps_the_old_plan(plan, tmp_path, monkeypatch):
    before = write_plan(plan, tmp_path).json.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match="No space left"):
        write_plan(dataclasses.replace(plan, findings=()), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.csv", "plan.json"]


# Pictures

figure_module = pytest.importorskip("detbalance.reporting.plan_figure")


def count_color(path: Path, color: str) -> int:
    image = pytest.importorskip("PIL.Image")
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    with image.open(path) as opened:
        return int((np.asarray(opened.convert("RGB")) == wanted).all(axis=2).sum())


def svg_text(path: Path) -> str:
    """What an SVG says: matplotlib leaves each text as a comment beside its outlines."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8")))


@pytest.fixture(autouse=True)
def _matplotlib(request):
    if "picture" in request.node.name:
        pytest.importorskip("matplotlib")


def test_picture_is_the_same_every_time_and_says_what_is_seen(plan, tmp_path):
    one = figure_module.draw_plan(plan, tmp_path / "one")
    other = figure_module.draw_plan(plan, tmp_path / "other.png")
    assert one == tmp_path / "one.png"
    assert one.read_bytes() == other.read_bytes()
    text = svg_text(figure_module.draw_plan(plan, tmp_path / "plan.svg"))
    ratio = plan.recommended.max_min
    assert "Boxes of each class that training sees" in text
    assert f"60.6 : 1 without sampling, {ratio:.1f} : 1 with {plan.recommended.name}" in text
    for words in ("boxes in 366 drawn images", "none: every image once", "snow", "road", "sun"):
        assert words in text
    assert f"{plan.recommended.name}: recommended" in text
    # What shows the same as none is no line of its own.
    assert "repeat_factor (LVIS)" not in text


def test_picture_marks_the_recommended_setting_and_only_that(plan, tmp_path):
    drawn = figure_module.draw_plan(plan, tmp_path / "a.png")
    assert count_color(drawn, figure_module.AFTER_COLOR) > 50
    none = dataclasses.replace(plan.recommendation, setting="none", verdict="nothing is rare")
    plain = dataclasses.replace(plan, recommendation=none)
    drawn = figure_module.draw_plan(plain, tmp_path / "b.png")
    assert count_color(drawn, figure_module.AFTER_COLOR) == 0
    text = svg_text(figure_module.draw_plan(plain, tmp_path / "b.svg"))
    assert "60.6 : 1 without sampling (nothing is rare)" in text


def test_picture_of_many_classes_has_ranks_in_place_of_names(large, tmp_path):
    text = svg_text(figure_module.draw_plan(large, tmp_path / "large.svg"))
    assert "1,203 classes, most frequent first" in text
    assert "thing" not in text


def test_picture_of_odd_names_and_of_nothing(plan, tmp_path):
    figure_module.draw_plan(renamed(plan, "snow", LONG_NAME), tmp_path / "long.png")
    figure_module.draw_plan(renamed(plan, "snow", "雪"), tmp_path / "glyph.png")
    train = load(tmp_path / "empty.json", coco([[], []], names=["z"]))
    text = svg_text(figure_module.draw_plan(make_plan(train), tmp_path / "empty.svg"))
    assert "No class of empty.json has a box" in text
    with pytest.raises(ValueError, match=r"x\.xyz: the picture cannot be written .*xyz"):
        figure_module.draw_plan(plan, tmp_path / "x.xyz")


def test_missing_libraries_are_named_with_their_extra(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*\[plan\]"):
        figure_module.draw_plan(plan, tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "detbalance.reporting.console")
    with pytest.raises(ImportError, match=r"needs rich.*\[report\]"):
        importlib.import_module("detbalance.reporting.console")
