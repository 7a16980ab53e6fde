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
from pages import with_figure
from scenes import load, make_report, make_scene
from shown_documents import markdown_report, print_report

from detbalance.data import Annotations, Predictions
from detbalance.evaluation import ClassRow, GroupRow, Report, build_report, evaluate
from detbalance.evaluation.report import ERROR_KINDS, Cell
from detbalance.reporting.files import write_report

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


# Figures of a row in the order of all tables.
TABLE_FIGURES = ("AP", "AP50", "AR", "recall", "precision")
# Those of them that have an interval on the console: without and with draws of images.
WITH_INTERVALS, SPREAD_OF_DRAWS = ("recall", "precision"), ("AP", "recall")


def shown(row: ClassRow | GroupRow, spread: tuple[str, ...]) -> list[str]:
    """The cells of a row's figures, an interval as two."""
    cells = []
    for name in TABLE_FIGURES:
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
    assert len({tuple(row) for row in rows}) == 1
    classes = [row for row in rows if row["kind"] == "class"]
    groups = [row for row in rows if row["kind"] == "group"]
    assert [row["name"] for row in classes] == [row.name for row in report.classes]
    assert [row["name"] for row in groups] == ["rare", "common", "frequent", "all"]
    sides = [*zip(classes, report.classes, strict=True)]
    sides += zip(groups, report.groups.values(), strict=True)
    for row, known in sides:
        cells = dataclasses.asdict(known)
        cells |= cells.pop("figures")
        if "more_boxes" in cells:
            cells["more_boxes"] = int(cells["more_boxes"])
        for figure, (low, high) in cells.pop("intervals").items():
            cells |= {f"{figure}_low": low, f"{figure}_high": high}
        for kind, error in cells.pop("errors").items():
            cells |= {f"{kind}_{field}": value for field, value in error.items()}
        for name, value in cells.items():
            undefined = value is None or (isinstance(value, float) and math.isnan(value))
            assert row[name] == ("" if undefined else str(value))


def test_json_has_a_line_for_each_field_and_each_curve(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    text = write_report(report, tmp_path).json.read_text()
    assert json.loads(text) == report.to_dict()
    lines = text.splitlines()
    assert any('"AP": null,' in line for line in lines)
    assert report.details is not None
    name, curve = next(iter(report.details.curves.items()))
    wanted = json.dumps({"precision": curve.precision, "scores": curve.scores})
    assert any(line.strip().rstrip(",") == f'"{name}": {wanted}' for line in lines)
    assert len(lines) < 800


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
    lines = printed(print_report, report).splitlines()
    text = "\n".join(lines)
    for fact in ("val.json", "results.json", "train.json", "IoU .50 to .95", "score >= 0.3"):
        assert fact in text
    assert str(report.settings.group_rule) in text
    for row in report.classes:
        line = next(line for line in lines if line.startswith(row.name))
        cells = line.removeprefix(row.name).split()
        assert cells == [
            row.group,
            str(row.train_boxes),
            str(row.val_boxes),
            *shown(row, WITH_INTERVALS),
        ]
    for name, group in report.groups.items():
        line = next(line for line in lines if line.startswith(f"{name}, mean of"))
        boxes = [str(group.train_boxes), str(group.val_boxes)]
        assert line.split()[3:] == [str(group.num_evaluated), *boxes, *shown(group, WITH_INTERVALS)]
    summary = lines.index("COCO summary")
    assert lines[summary + 1].split() == list(report.summary)
    assert lines[summary + 3].split() == [three_decimals(v) for v in report.summary.values()]


def with_shares(report: Report) -> Report:
    shares = [0.001, 0.25, math.nan, 0.5, 0.125, 1.0]
    rows = (
        with_figure(row, "positive_share", share)
        for row, share in zip(report.classes, shares, strict=True)
    )
    return dataclasses.replace(report, classes=tuple(rows))


def test_share_of_the_gradient_is_shown_and_explained_where_it_is_known(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    assert "pos." not in printed(print_report, report)
    known = with_shares(report)
    lines = printed(print_report, known).splitlines()
    for row in known.classes:
        line = next(line for line in lines if line.startswith(row.name))
        assert line.split()[-2:] == [
            three_decimals(row.precision),
            three_decimals(row.positive_share),
        ]
    (explained,) = [line for line in lines if line.startswith("pos. share: ")]
    assert "pushed it down" in explained
    narrow = printed(print_report, known, terminal=True)
    plain = re.sub(r"\x1b\[[\d;]*m", "", narrow).splitlines()
    assert max(map(len, plain)) <= 80
    assert next(line for line in plain if line.startswith(known.classes[0].name)).endswith(".001")


def test_columns_are_aligned(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    lines = printed(print_report, report).splitlines()
    table = [line for line in lines if re.search(r"(\.\d{3}|-) +\S+$", line.rstrip())]
    rows = [line for line in table if any(line.startswith(row.name) for row in report.classes)]
    assert len({len(line) for line in rows}) == 1


def test_nothing_is_shortened_when_not_on_a_terminal(tmp_path: Path) -> None:
    report = renamed(make_report(tmp_path)[0], {0: LONG_NAME})
    text = printed(print_report, report, width=40)
    assert LONG_NAME in text
    assert "…" not in text
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_a_narrow_terminal_shortens_names_only(tmp_path: Path) -> None:
    report = renamed(make_report(tmp_path)[0], {0: LONG_NAME})
    text = re.sub(r"\x1b\[[\d;]*m", "", printed(print_report, report, terminal=True))
    assert max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if line.startswith("no over"))
    assert "…" in line
    assert line.split()[-len(shown(report.classes[0], WITH_INTERVALS)) :] == shown(
        report.classes[0], WITH_INTERVALS
    )


def test_without_groups_the_console_says_what_is_missing(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(1))
    report = build_report(evaluate(annotations, predictions), annotations)
    text = printed(print_report, report)
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
    text = printed(print_report, many)
    assert "kind 39" in text
    assert "kind 40" not in text
    assert "21 classes are not listed; report.csv has all 61, the group rows" in text
    empty = tuple(
        dataclasses.replace(row, val_boxes=0, false_positives=0) if i < 25 else row
        for i, row in enumerate(rows)
    )
    text = printed(print_report, dataclasses.replace(many, classes=empty))
    assert "kind 24" not in text
    assert "kind 60" in text
    assert "25 classes are not listed, 25 of all classes have no box to find; report.csv" in text
    assert "kind 59" in printed(print_report, dataclasses.replace(many, classes=rows[:60]))


def with_draws(report: Report) -> Report:
    """The report as if images had been drawn: every class has every interval."""
    rows = tuple(
        dataclasses.replace(row, intervals=dict.fromkeys(TABLE_FIGURES, (0.125, 0.996)))
        for row in report.classes
    )
    settings = dataclasses.replace(report.settings, num_bootstrap=1000)
    return dataclasses.replace(report, classes=rows, settings=settings)


def test_intervals_of_draws_are_beside_ap_and_recall(tmp_path: Path) -> None:
    report = with_draws(renamed(make_report(tmp_path)[0], {0: "eighteen letters !"}))
    lines = printed(print_report, report).splitlines()
    assert any("95%, from 1,000 draws of the images" in line for line in lines)
    for row in report.classes:
        line = next(line for line in lines if line.startswith(row.name))
        assert line.split()[-9:] == shown(row, SPREAD_OF_DRAWS)
        assert line.count("[.12 1.0]") == 2
        assert len(line) <= 100
    on_terminal = printed(print_report, report, width=100, terminal=True)
    assert "eighteen letters !" in on_terminal
    assert "…" not in on_terminal


def test_console_says_what_errors_cost_each_group(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    lines = printed(print_report, report).splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith("Errors: AP50 that each")]
    assert "(number of them with score >= 0.3)" in lines[start]
    assert lines[start + 1].split() == ["group", *ERROR_KINDS]
    for line, (name, group) in zip(lines[start + 3 :], report.groups.items(), strict=False):
        cells = [
            cell
            for error in group.errors.values()
            for cell in (three_decimals(error.cost), f"({error.shown})")
        ]
        assert line.split() == [name, *cells]
        assert len(line) <= 100
    bare = dataclasses.replace(
        report,
        groups={k: dataclasses.replace(row, errors={}) for k, row in report.groups.items()},
        details=None,
    )
    old = printed(print_report, bare)
    assert "Errors" not in old
    assert "Most confused" not in old


def test_sentences_name_confusions_and_missing_boxes(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    assert report.details is not None
    cells = [Cell(None, "a", 90), Cell("b", "c", 7), Cell("b", None, 5), Cell("c", "b", 2)]
    details = dataclasses.replace(report.details, confusion=[*cells, Cell("a", "b", 1)])
    rows = tuple(
        dataclasses.replace(with_figure(row, "more_boxes", lacking), name=f"kind {i}", val_boxes=9)
        for i, (row, lacking) in enumerate(
            zip(report.classes, (0, 312, math.nan, 5, 0, 7), strict=True)
        )
    )
    report = dataclasses.replace(report, details=details, classes=rows)
    for text in (printed(print_report, report), markdown_report(report)):
        plain = text.replace("&gt;", ">")
        assert "Most confused at score >= 0.3 (true as found): b as c 7x, c as b 2x." in plain
        wanted = "val lacks 312 of kind 1, 5 of kind 3, 7 of kind 5."
        assert wanted in plain
    many = tuple(with_figure(row, "more_boxes", 9) for row in rows)
    assert "9 of kind 4; 1 more class lacks some, too." in printed(
        print_report, dataclasses.replace(report, classes=many)
    )
    none = tuple(
        dataclasses.replace(with_figure(row, "more_boxes", 9 * (i % 2)), val_boxes=9 - 9 * (i % 2))
        for i, row in enumerate(rows)
    )
    assert "To know recall" not in printed(print_report, dataclasses.replace(report, classes=none))


def test_classes_with_floors_of_their_own_are_said_to_have_them(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    settings = dataclasses.replace(report.settings, score_threshold=math.nan, thresholds="t.json")
    report = dataclasses.replace(report, settings=settings)
    for text in (printed(print_report, report), markdown_report(report)):
        assert "the threshold of the class" in text
        assert "t.json" in text
        assert "nan" not in text


# Markdown


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, without the line of dashes."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return [[table[0], *table[2:]] for table in found if table]


def test_markdown_has_groups_classes_errors_and_summary(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    groups, classes, errors, summary = tables(markdown_report(report))
    assert [row[0].split(",")[0] for row in groups[1:]] == list(report.groups)
    assert [row[0] for row in classes[1:]] == [row.name for row in report.classes]
    for cells, row in zip(classes[1:], report.classes, strict=True):
        assert cells[1:4] == [row.group, str(row.train_boxes), str(row.val_boxes)]
        for cell, name in zip(cells[4:], TABLE_FIGURES, strict=True):
            value = getattr(row, name)
            assert cell.split(" ")[0] == ("-" if math.isnan(value) else f"{value:.3f}")
            if name in row.intervals:
                low, high = row.intervals[name]
                assert cell.endswith(f" [{low:.2f}, {high:.2f}]")
    assert errors[0] == ["group", *ERROR_KINDS]
    assert len(errors) == 5
    assert summary[0] == list(report.summary)
    for table in (groups, classes, errors, summary):
        assert len({len(row) for row in table}) == 1


def test_names_are_harmless_in_markdown(tmp_path: Path) -> None:
    name = "<script>alert(1)</script> a|b *c* [d](e) `f` \n# g"
    report = renamed(make_report(tmp_path)[0], {0: name})
    text = markdown_report(report)
    assert "<script>" not in text
    rows = tables(text)[1]
    assert len({len(row) for row in rows}) == 1
    assert rows[1][0] == (r"&lt;script&gt;alert(1)&lt;/script&gt; a\|b \*c\* \[d\](e) \`f\` \# g")


def test_many_classes_are_folded_in_markdown(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    assert "<details>" not in markdown_report(report)
    rows = tuple(dataclasses.replace(report.classes[0], name=f"kind {i}") for i in range(30))
    text = markdown_report(dataclasses.replace(report, classes=rows))
    assert "<details><summary>All 30 classes, rarest first</summary>\n\n|" in text
    assert text.count("</details>") == 1


# Pictures

figures = pytest.importorskip("detbalance.reporting.pictures")


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
    with pytest.raises(ImportError, match=r"needs matplotlib.*\[quickstart\]"):
        figures.draw_predictions(annotations, folder, {"a": predictions}, folder / "x.png")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "detbalance.reporting.console")
    with pytest.raises(ImportError, match=r"needs rich.*\[report\]"):
        importlib.import_module("detbalance.reporting.console")


def test_report_json_keeps_names_as_they_are(tmp_path: Path) -> None:
    report = renamed(make_report(tmp_path)[0], {0: "Vorfahrt gewähren ⚠"})
    path = write_report(report, tmp_path).json
    assert "Vorfahrt gewähren ⚠" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["classes"][0]["name"].endswith("⚠")


def test_a_group_without_classes_has_no_row(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    none = dataclasses.replace(report.groups["common"], num_categories=0, num_evaluated=0)
    fewer = dataclasses.replace(report, groups={**report.groups, "common": none})
    for one, there in ((report, True), (fewer, False)):
        assert ("common, mean of" in printed(print_report, one)) == there
        assert ("\n| common |" in markdown_report(one)) == there
        assert "rare, mean of" in printed(print_report, one)


# The answer, and what one entry of the table of figures does


def test_the_answer_comes_first_and_says_whether_val_can_tell(tmp_path: Path) -> None:
    report, _, _ = make_report(tmp_path)
    (first, *_) = printed(print_report, report).splitlines()
    assert first.startswith("AP50 is ")
    measured = [row for row in report.classes if row.val_boxes]
    unsure = sum(row.more_boxes > 0 for row in measured)
    assert first.endswith(
        f". For {unsure} of {len(measured)} classes val has too few boxes to know recall to +-.05."
    )
    enough = tuple(with_figure(row, "more_boxes", 0) for row in measured)
    (first, *_) = printed(print_report, dataclasses.replace(report, classes=enough)).splitlines()
    assert first.endswith(". Val has enough boxes to know recall of each to +-.05.")
    assert "&gt;" not in markdown_report(report)


def test_a_new_figure_is_shown_everywhere_by_its_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detbalance.evaluation import figures as table
    from detbalance.reporting import report_document
    from detbalance.reporting.page_data import page_data

    def compute(measured: table.Measured) -> np.ndarray:
        return 0 * measured.at_half.recall

    new = table.Figure("newest", "what is new", compute, digits=1, shown=True)
    monkeypatch.setitem(table.FIGURES, "new_figure", new)
    monkeypatch.setattr(
        report_document, "SHOWN_FIGURES", (*report_document.SHOWN_FIGURES, "new_figure")
    )
    report, _, _ = make_report(tmp_path)
    assert "newest" in printed(print_report, report)
    assert "| newest |" in markdown_report(report)
    files = write_report(report, tmp_path / "out")
    assert "new_figure" in files.csv.read_text().splitlines()[0].split(",")
    assert json.loads(files.json.read_text())["classes"][0]["figures"]["new_figure"] == 0
    assert page_data(report)["figures"][-1] == {
        "key": "new_figure",
        "title": "newest",
        "help": "what is new",
        "digits": 1,
        "shown": True,
        "score": None,
    }
