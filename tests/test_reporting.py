"""What a report looks like on the console, on disk and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scenes import load, make_report, make_scene

from detbalance.annotations import Annotations
from detbalance.evaluation import ClassRow, GroupRow, Report, build_report, evaluate
from detbalance.predictions import Predictions
from detbalance.reporting.files import COLUMNS, write_report

rich_console = pytest.importorskip("rich.console")
console_module = pytest.importorskip("detbalance.reporting.console")

# Neither rich's markup nor matplotlib's formulas may be read out of a name.
LONG_NAME = r"no overtaking (trucks) [red] $\none$ on roads with more than two lanes"


def printed(
    show: Callable[..., None], content: object, *, width: int = 80, terminal: bool = False
) -> str:
    stream = io.StringIO()
    console = rich_console.Console(
        file=stream,
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else "auto",
    )
    show(content, console=console)
    assert console.width == width
    return stream.getvalue()


def renamed(report: Report, names: dict[int, str]) -> Report:
    rows = list(report.classes)
    for i, name in names.items():
        rows[i] = dataclasses.replace(rows[i], name=name)
    return dataclasses.replace(report, classes=tuple(rows))


def three_decimals(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def two_decimals(value: float) -> str:
    return f"{value:.2f}".removeprefix("0").replace("1.00", "1.0")


# Figures that have an interval on the console: without and with draws of images.
SPREAD, SPREAD_OF_DRAWS = ("recall", "precision"), ("AP", "recall")


def shown(row: ClassRow | GroupRow, spread: tuple[str, ...]) -> list[str]:
    """The cells of a row's figures, an interval as two."""
    cells = []
    for name in ("AP", "AP50", "AR", "recall", "precision"):
        cells.append(three_decimals(getattr(row, name)))
        if name in spread and name in row.intervals:
            low, high = map(two_decimals, row.intervals[name])
            cells += [f"[{low}", f"{high}]"]
    return cells


# Files


def test_csv_has_every_class_and_group_with_exact_figures(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    with write_report(report, tmp_path / "new" / "folder").csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    classes = [row for row in rows if row["kind"] == "class"]
    groups = [row for row in rows if row["kind"] == "group"]
    assert [row["name"] for row in classes] == [row.name for row in report.classes]
    assert [row["name"] for row in groups] == ["rare", "common", "frequent", "all"]
    sides = [*zip(classes, report.classes, strict=True)]
    sides += zip(groups, report.groups.values(), strict=True)
    for row, known in sides:
        cells = dataclasses.asdict(known)
        for figure, (low, high) in cells.pop("intervals").items():
            cells |= {f"{figure}_low": low, f"{figure}_high": high}
        for kind, error in cells.pop("errors").items():
            cells |= {f"{kind}_{field}": value for field, value in error.items()}
        for name, value in cells.items():
            undefined = value is None or (isinstance(value, float) and math.isnan(value))
            assert row[name] == ("" if undefined else str(value))


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: the report cannot be written \(.*\)\. Expected"):
        write_report(report, tmp_path / "file")


def test_an_interrupted_write_keeps_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _, _ = make_report(tmp_path)
    folder = tmp_path / "out"
    before = write_report(report, folder).json.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match="No space left"):
        write_report(dataclasses.replace(report, notes=("new",)), folder)
    assert (folder / "report.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.csv",
        "report.json",
        "report.md",
    ]


# Console


def test_console_shows_every_figure_and_what_it_is_of(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    lines = printed(console_module.print_report, report).splitlines()
    text = "\n".join(lines)
    for fact in ("val.json", "results.json", "train.json", "IoU .50 to .95", "score >= 0.3"):
        assert fact in text
    assert str(report.settings.group_rule) in text
    for row in report.classes:
        line = next(line for line in lines if line.startswith(row.name))
        cells = line.removeprefix(row.name).split()
        assert cells == [row.group, str(row.train_boxes), str(row.val_boxes), *shown(row, SPREAD)]
    for name, group in report.groups.items():
        line = next(line for line in lines if line.startswith(f"{name}, mean of"))
        boxes = [str(group.train_boxes), str(group.val_boxes)]
        assert line.split()[3:] == [str(group.num_evaluated), *boxes, *shown(group, SPREAD)]
    for name, value in report.summary.items():
        assert re.search(rf"\b{name} +{re.escape(three_decimals(value))}(\s|$)", text)


def with_shares(report: Report) -> Report:
    shares = [0.001, 0.25, math.nan, 0.5, 0.125, 1.0]
    rows = (
        dataclasses.replace(row, positive_share=share)
        for row, share in zip(report.classes, shares, strict=True)
    )
    return dataclasses.replace(report, classes=tuple(rows))


def test_share_of_the_gradient_is_shown_and_explained_where_it_is_known(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    assert "pos." not in printed(console_module.print_report, report)
    known = with_shares(report)
    lines = printed(console_module.print_report, known).splitlines()
    for row in known.classes:
        line = next(line for line in lines if line.startswith(row.name))
        assert line.split()[-2:] == [
            three_decimals(row.precision),
            three_decimals(row.positive_share),
        ]
    (explained,) = [line for line in lines if line.startswith("pos. share: ")]
    assert "pushed it down" in explained
    narrow = printed(console_module.print_report, known, terminal=True)
    plain = re.sub(r"\x1b\[[\d;]*m", "", narrow).splitlines()
    assert max(map(len, plain)) <= 80
    assert next(line for line in plain if line.startswith(known.classes[0].name)).endswith(".001")


def test_columns_are_aligned(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    lines = printed(console_module.print_report, report).splitlines()
    table = [line for line in lines if re.search(r"(\.\d{3}|-) +\S+$", line.rstrip())]
    rows = [line for line in table if any(line.startswith(row.name) for row in report.classes)]
    assert len({len(line) for line in rows}) == 1


def test_nothing_is_shortened_when_not_on_a_terminal(tmp_path: Path) -> None:
    report = renamed(make_report(tmp_path)[0], {0: LONG_NAME})
    for show, content in (
        (console_module.print_report, report),
        (console_module.print_comparison, {"plain": report, "balanced": report}),
    ):
        text = printed(show, content, width=40)
        assert LONG_NAME in text
        assert "…" not in text
        assert "\x1b" not in text
        assert not any(line.endswith(" ") for line in text.splitlines())


def test_a_narrow_terminal_shortens_names_only(tmp_path: Path) -> None:
    report = renamed(make_report(tmp_path)[0], {0: LONG_NAME})
    text = re.sub(r"\x1b\[[\d;]*m", "", printed(console_module.print_report, report, terminal=True))
    assert max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if line.startswith("no over"))
    assert "…" in line
    assert line.split()[-len(shown(report.classes[0], SPREAD)) :] == shown(
        report.classes[0], SPREAD
    )


def test_comparison_fits_100_columns(tmp_path: Path) -> None:
    report = renamed(make_report(tmp_path)[0], {0: "no overtaking (trucks)"})
    text = printed(
        console_module.print_comparison,
        {"plain": report, "balanced": report},
        width=100,
        terminal=True,
    )
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "no overtaking (trucks)" in plain
    assert "…" not in plain


def test_comparison_shows_both_and_the_signed_difference(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    row = next(row for row in report.classes if row.val_boxes)
    before = dataclasses.replace(row, AP50=0.25, recall=0.5)
    after = dataclasses.replace(row, AP50=1.0, recall=0.4)
    first, second = (
        dataclasses.replace(report, classes=tuple(new if r is row else r for r in report.classes))
        for new in (before, after)
    )
    reports = {"plain": first, "balanced": second}
    lines = printed(console_module.print_comparison, reports).splitlines()
    line = next(line for line in lines if line.startswith(row.name))
    assert line.split()[-6:] == [".250", "1.000", "+.750", ".500", ".400", "-.100"]
    coloured = printed(console_module.print_comparison, reports, terminal=True)
    assert "\x1b[32m+.750" in coloured
    assert "\x1b[31m-.100" in coloured
    absent = next(row for row in report.classes if not row.val_boxes)
    line = next(line for line in lines if line.startswith(absent.name))
    assert line.split()[-6:] == ["-"] * 6


def test_without_groups_the_console_says_what_is_missing(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(1))
    report = build_report(evaluate(annotations, predictions), annotations)
    text = printed(console_module.print_report, report)
    assert "rare" not in text
    assert "all, mean of" in text
    assert "Note: No training file was given (--train)" in text


def test_many_classes_show_the_rarest_and_say_how_many_more(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    rows = tuple(
        dataclasses.replace(report.classes[0], name=f"kind {i:02}", train_boxes=i)
        for i in range(61)
    )
    many = dataclasses.replace(report, classes=rows)
    text = printed(console_module.print_report, many)
    assert "kind 39" in text
    assert "kind 40" not in text
    assert "21 more frequent classes are not listed; report.csv has all 61" in text
    assert "kind 59" in printed(
        console_module.print_report, dataclasses.replace(many, classes=rows[:60])
    )


# Pictures

figures = pytest.importorskip("detbalance.reporting.figures")


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Annotations, Path, Predictions]:
    """Annotations and predictions with a grey 300 x 200 image for each file name."""
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    truth, found = make_scene(1)
    truth["categories"][0]["name"] = LONG_NAME
    for entry in truth["images"]:
        image.new("L", (300, 200), 128).save(tmp_path / entry["file_name"])
    annotations, predictions = load(tmp_path, truth, found)
    return annotations, tmp_path, predictions


def pixels(path: Path) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    with image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def count_color(path: Path, color: str) -> int:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels(path) == wanted).all(axis=2).sum())


def test_picture_is_the_same_every_time(pictures: tuple[Annotations, Path, Predictions]) -> None:
    annotations, folder, predictions = pictures
    models = {"plain": predictions, "balanced": predictions}
    one = figures.draw_predictions(annotations, folder, models, folder / "one")
    other = figures.draw_predictions(annotations, folder, models, folder / "other.png")
    assert one == folder / "one.png"
    assert one.read_bytes() == other.read_bytes()
    assert pixels(one).shape[1] > 3 * 300


def test_highlighted_classes_have_their_own_color(
    pictures: tuple[Annotations, Path, Predictions],
) -> None:
    annotations, folder, predictions = pictures
    label = int(annotations.labels[~annotations.is_crowd][0])
    plain = figures.draw_predictions(annotations, folder, {"a": predictions}, folder / "plain.png")
    lit = figures.draw_predictions(
        annotations, folder, {"a": predictions}, folder / "lit.png", highlight={label}
    )
    assert count_color(plain, figures.HIGHLIGHT_COLOR) == 0
    assert count_color(lit, figures.HIGHLIGHT_COLOR) > 500


def test_detections_below_the_threshold_are_not_drawn(
    pictures: tuple[Annotations, Path, Predictions],
) -> None:
    annotations, folder, predictions = pictures
    drawn = {
        threshold: count_color(
            figures.draw_predictions(
                annotations,
                folder,
                {"a": predictions},
                folder / f"{threshold}.png",
                rows=[1],
                score_threshold=threshold,
                ground_truth=False,
            ),
            figures.OTHER_COLOR,
        )
        for threshold in (0.0, 0.9, 1.1)
    }
    legend_only = drawn[1.1]
    assert legend_only < drawn[0.9] < drawn[0.0]


def test_picked_images_cover_the_classes_asked_for(tmp_path: Path) -> None:
    annotations, _ = load(tmp_path, *make_scene(4))
    present = set(annotations.labels[~annotations.is_crowd].tolist())
    rows = figures.pick_rows(annotations, count=annotations.num_images)
    shown: set[int] = set()
    gains = []
    for row in rows:
        inside = annotations.rows(row)
        labels = set(annotations.labels[inside][~annotations.is_crowd[inside]].tolist())
        gains.append(len(labels - shown))
        shown |= labels
    assert shown == present
    assert gains == sorted(gains, reverse=True)
    assert len(set(rows)) == len(rows)
    label = min(present)
    for row in figures.pick_rows(annotations, {label}, annotations.num_images):
        assert label in annotations.labels[annotations.rows(row)]


def test_picked_images_prefer_classes_not_shown_yet(tmp_path: Path) -> None:
    classes = {0: [1, 2], 1: [1, 2, 1], 2: [3], 3: []}
    annotations, _ = load(
        tmp_path,
        {
            "images": [{"id": row, "file_name": f"{row}.png"} for row in classes],
            "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
            "annotations": [
                {"id": 9 * row + i, "image_id": row, "category_id": label, "bbox": [0, 0, 9, 9]}
                for row, labels in classes.items()
                for i, label in enumerate(labels)
            ],
        },
        [],
    )
    assert figures.pick_rows(annotations) == [1, 2, 0]
    assert figures.pick_rows(annotations, {3}) == [2]


def test_pictures_refuse_what_cannot_be_drawn(
    pictures: tuple[Annotations, Path, Predictions],
) -> None:
    annotations, folder, predictions = pictures
    models = {"a": predictions}
    draw = figures.draw_predictions
    with pytest.raises(ValueError, match=r"1 image rows do not exist \(first: 99\)"):
        draw(annotations, folder, models, folder / "x.png", rows=[0, 99])
    with pytest.raises(ValueError, match="0 images and 2 columns"):
        draw(annotations, folder, models, folder / "x.png", rows=[])
    with pytest.raises(ValueError, match=r"x\.xyz: the picture cannot be written .*xyz"):
        draw(annotations, folder, models, folder / "x.xyz")
    name = annotations.file_name(0)
    (folder / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=rf"{name}: the image cannot be read"):
        draw(annotations, folder, models, folder / "x.png", rows=[0])
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: the image cannot be read"):
        draw(annotations, folder, models, folder / "x.png", rows=[0])
    assert not (folder / "x.png").exists()


def test_missing_libraries_are_named_with_their_extra(
    pictures: tuple[Annotations, Path, Predictions], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib
    import sys

    annotations, folder, predictions = pictures
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'needs matplotlib.*"detbalance\[quickstart\]"'):
        figures.draw_predictions(annotations, folder, {"a": predictions}, folder / "x.png")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "detbalance.reporting.console")
    with pytest.raises(ImportError, match=r'needs rich.*"detbalance\[report\]"'):
        importlib.import_module("detbalance.reporting.console")


def test_report_json_keeps_names_as_they_are(tmp_path: Path) -> None:
    report = renamed(make_report(tmp_path)[0], {0: "Vorfahrt gewähren ⚠"})
    path = write_report(report, tmp_path).json
    assert "Vorfahrt gewähren ⚠" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["classes"][0]["name"].endswith("⚠")
