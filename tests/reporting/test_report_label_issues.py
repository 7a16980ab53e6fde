"""Labels that look wrong, in a report: which boxes it shows, where it cuts, what it refuses."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_issue_files import COLORS, painted, suspect, written
from pages import HOSTILE, made_report
from scenes import load, make_scene
from shown_documents import markdown_report

from detbalance.cli import main
from detbalance.reporting.label_issues import (
    LabelIssuesSection,
    label_issues_section,
    load_label_issues,
)

cv2 = pytest.importorskip("cv2")


def section(folder: Path, **options: int) -> LabelIssuesSection:
    return label_issues_section(load_label_issues(folder), **options)


def ids(found: LabelIssuesSection) -> dict[str, list[int]]:
    return {one.name: [box.annotation_id for box in one.boxes] for one in found.classes}


def pixels_of(picture: Any) -> np.ndarray:
    data = base64.b64decode(picture.image.partition(",")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


# Which boxes


def test_classes_come_rarest_first_with_their_worst_boxes_first(tmp_path: Path) -> None:
    judged = [
        *(suspect(number, "often", 3.0 - number) for number in range(1, 6)),
        *(suspect(number, "seldom", number - 11.5) for number in range(11, 14)),
        suspect(21, "once", 0.1),
        *(suspect(number, "right", -1.0) for number in range(31, 33)),
    ]
    found = section(written(tmp_path, judged))
    assert ids(found) == {"once": [21], "seldom": [13, 12], "often": [1, 2]}
    counts = {one.name: (one.suspicious, one.judged) for one in found.classes}
    assert counts == {"once": (1, 1), "seldom": (2, 3), "often": (2, 5)}
    assert list(ids(found)) == ["once", "seldom", "often"]
    assert found.about[2].startswith("Another class is likelier than the label of 5 of them")


def test_only_boxes_whose_label_is_not_the_likeliest_class_are_shown(tmp_path: Path) -> None:
    judged = [suspect(1, "gold", 0.0), suspect(2, "gold", -0.5), suspect(3, "gold", 0.01)]
    assert ids(section(written(tmp_path, judged))) == {"gold": [3]}


def test_many_boxes_are_cut_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    judged = [
        suspect(100 * label + number, f"class {label}", 1.0)
        for label in range(1, 5)
        for number in range(10 * label)
    ]
    found = section(written(tmp_path, judged), max_of_class=12, max_boxes=20)
    assert {name: len(shown) for name, shown in ids(found).items()} == {
        "class 1": 10,
        "class 2": 10,
    }
    assert found.classes[1].suspicious == 20
    assert found.rest.startswith("Not shown here: 70 boxes of less rare classes (class 3, class 4)")
    few = [f"metal {number}" for number in range(1000)]
    found = section(written(tmp_path, judged[:1], classes_with_too_few_boxes=few))
    assert found.about[1].endswith("metal 19 and 980 more.")


def test_it_is_said_how_many_were_judged_by_what_and_which_classes_were_not(tmp_path: Path) -> None:
    found = section(written(tmp_path, [suspect(1, "gold", -1.0), suspect(2, "gold", 1.0)]))
    assert found.about[0] == (
        "2 boxes of data/train.json were judged by a classifier that has not seen their image and"
        ' by the detector (judge "combined"), 3 were not.'
    )
    assert found.about[1] == "Too few boxes to be judged: tin."
    assert found.notes[0].startswith("At least half of the boxes look wrong of: gold.")
    known = [suspect(number, "gold", -1.0) for number in range(2, 5)]
    options = {"classes_with_too_few_boxes": [], "boxes_not_judged": 0, "judge": "new"}
    found = section(written(tmp_path, [suspect(1, "gold", 1.0), *known], **options))
    assert found.about[:2] == (
        '4 boxes of data/train.json were judged by judge "new".',
        "Every class had enough boxes to be judged.",
    )
    assert not [note for note in found.notes if "half" in note]


# Their pictures


def test_pictures_show_the_box_where_it_is(tmp_path: Path) -> None:
    painted(tmp_path)
    novel = [
        {"file_name": "a.png", "ood_score": 9.0, "box": [320, 50, 350, 70], "annotation_id": None}
    ]
    judged = [suspect(number, f"class {number}", 1.0) for number in (3, 1, 2)]
    found = section(written(tmp_path, judged, novel_images=novel))
    assert len(found.pictures) == 4
    for shown, picture in found.pictures.items():
        number = getattr(shown, "annotation_id", None) or 4
        (box,) = picture.boxes
        assert (box.width, box.height) == (30, 20)  # 60 pixels are not shrunk
        assert box.role == ("subject-found" if number == 4 else "subject-truth")
        pixels = pixels_of(picture).astype(int)
        left, top, right, bottom = (
            round(value) for value in (box.x, box.y, box.x + box.width, box.y + box.height)
        )
        inner = pixels[top + 4 : bottom - 4, left + 4 : right - 4].mean(axis=(0, 1))
        assert np.abs(inner - COLORS[number]).max() < 12, number
        pixels[top - 4 : bottom + 4, left - 4 : right + 4] = 128
        assert np.abs(pixels - 128).max() < 25  # nothing but grey around it


def test_images_that_cannot_be_used_are_told_and_cost_only_their_pictures(tmp_path: Path) -> None:
    painted(tmp_path)
    gone = suspect(2, "gold", 2.0, file_name="gone.png")
    away = suspect(3, "gold", 1.5, file_name="small.png", bbox=[500, 20, 30, 20])
    painted(tmp_path, "small.png")
    found = section(written(tmp_path, [suspect(1, "gold", 1.0), gone, away]))
    assert ids(found) == {"gold": [2, 3, 1]}
    assert [shown.annotation_id for shown in found.pictures] == [1]
    note = found.notes[-1]
    assert note.startswith("2 images cannot be shown; the first: ")
    assert "gone.png" in note
    found = section(written(tmp_path, [away]))
    assert (
        "is 420x200 pixels, and a box begins at 500, 20. The image that was judged"
        in (found.notes[-1])
    )
    nowhere = section(written(tmp_path, [gone], images=str(tmp_path / "nowhere")))
    assert (ids(nowhere), nowhere.pictures) == ({"gold": [2]}, {})
    assert f'{tmp_path / "nowhere"}, is not there. Correct "images" in' in nowhere.notes[-1]


def test_without_opencv_there_are_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    found = section(written(tmp_path, [suspect(1, "gold", 1.0)]))
    assert not found.pictures
    assert re.search(r"pip install .*\[page\]", found.notes[-1])


# The page and the Markdown


def page_of(found: LabelIssuesSection | None, **options: Any) -> str:
    page = pytest.importorskip("detbalance.reporting.page")
    pytest.importorskip("jinja2")
    return str(page.page_text(made_report(["gold", "iron", "tin"]), label_issues=found, **options))


def part_of(text: str) -> str:
    return text[text.index('<section id="label_issues">') :].partition("</section>")[0]


def words_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def test_the_page_shows_what_was_found(tmp_path: Path) -> None:
    painted(tmp_path)
    novel = [
        {"file_name": "b.png", "ood_score": 9.25, "box": [1, 2, 3, 4], "annotation_id": 77},
        {
            "file_name": "a.png",
            "ood_score": 4.0,
            "box": [320, 50, 350, 70],
            "annotation_id": None,
        },
    ]
    many = [suspect(number, "gold", 1.0) for number in range(11, 31)]
    judged = [suspect(1, "iron", 2.345, "gold"), *many]
    text = page_of(section(written(tmp_path, judged, novel_images=novel)))
    part = part_of(text)
    words = words_of(part)
    assert "iron 1 of 1 box looks wrong" in words
    assert "gold 20 of 20 boxes look wrong; the 12 most suspicious are shown" in words
    assert words.index("iron 1 of 1") < words.index("gold 20 of 20")
    assert "iron looks like gold suspicion 2.35 annotation 1 a.png" in words
    assert "ood_score 9.25 annotation 77 b.png" in words
    assert "ood_score 4.00 no annotation there a.png" in words
    assert part.count("<image href=") == 1 + 12 + 1
    assert part.count("no picture") == 1
    assert '<span class="mark rare"' in part
    assert '<a href="#label_issues">' in text


def test_a_page_without_label_issues_has_nothing_of_them(tmp_path: Path) -> None:
    text = page_of(None)
    page = pytest.importorskip("detbalance.reporting.page")
    report = made_report(["gold", "iron", "tin"])
    assert text == page.page_text(report)
    assert "suspect" not in text.partition("<script")[0]
    assert markdown_report(report) == markdown_report(report, None)
    # All that comes in addition is the section, its styles and the link.
    found = section(written(tmp_path, [suspect(1, "gold", -1.0)]))
    more = page_of(found)
    assert "No label looks wrong." in part_of(more)
    assert "1 box of data/train.json was judged by" in part_of(more)
    assert not found.notes  # nothing to show, so nothing that cannot be shown
    link, styles = ' <a href="#label_issues">Labels</a>', page._squeezed("label_issues.css")
    whole = f"{part_of(more)}</section>"
    for piece in (link, styles, whole):
        assert more.count(piece) == 1
        more = more.replace(piece, "")
    assert more == text


def test_names_in_the_page_and_the_markdown_are_text(tmp_path: Path) -> None:
    judged = [
        suspect(number, name, 1.0, HOSTILE[0], file_name=HOSTILE[1])
        for number, name in enumerate(HOSTILE)
    ]
    few = {"classes_with_too_few_boxes": list(HOSTILE), "judge": HOSTILE[2]}
    found = section(written(tmp_path, judged, **few))
    part = part_of(page_of(found))
    assert not re.search(r"<(script|img|svg|b)\b", part)
    assert HOSTILE[0] in __import__("html").unescape(part)
    text = markdown_report(made_report(["gold"]), found)
    assert "<" not in text.partition("## Labels that look wrong")[2]


def test_markdown_has_the_first_boxes_of_each_class(tmp_path: Path) -> None:
    judged = [suspect(number, "gold", 5.0 - number) for number in range(1, 8)]
    novel = [{"file_name": "b.png", "ood_score": 9, "box": [1, 2, 3, 4], "annotation_id": 7}]
    found = section(written(tmp_path, judged, novel_images=novel))
    text = markdown_report(made_report(["gold"]), found)
    assert "| gold | 1 like iron (4.00); 2 like iron (3.00); 3 like iron (2.00) | 4 | 7 |" in text
    assert "Images with objects of no known class: b.png (9.00)." in text
    assert "> Note: There are no pictures" in text
    found = section(written(tmp_path, [suspect(1, "gold", 1.0, None)]))
    text = markdown_report(made_report(["gold"]), found)
    assert "| class | most suspicious annotations | look wrong | judged |" in text
    assert "| gold | 1 (1.00) | 1 | 1 |" in text


# The command


@pytest.fixture
def files(tmp_path: Path) -> Path:
    load(tmp_path, *make_scene(1))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], folder: Path, *options: object) -> tuple[int, str]:
    """Status and what is said of a report on the folder's files."""
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, (folder / "val.json", folder / "results.json", *options))])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.err or captured.out


def test_a_report_shows_the_label_issues_of_a_folder_or_a_file(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(files / "found", [suspect(1, "gold", 1.0)])
    painted(folder)
    for given in (folder, folder / "label_issues.json"):
        options = ("--label-issues", given, "--output", files / "out", "--overwrite")
        status, said = run(capsys, files, *options)
        assert status == 0, said
        assert "1 like iron (1.00)" in (files / "out/report.md").read_text()
        assert "looks like <bdi>iron" in part_of((files / "out/report.html").read_text())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            {"format": "detbalance.label_issues/2"},
            '"format" is "detbalance.label_issues/2". "detbalance',
        ),
        ({"without": "format"}, '"format" is missing. "detbalance.label_issues/1" is expected.'),
        ({"without": "images"}, '"images" is missing.'),
        ({"images": None}, '"images" is None.'),
        ({"label_issues": 7}, '"label_issues" is 7.'),
        ({"boxes_not_judged": "some"}, '"boxes_not_judged" is "some".'),
        ({"label_issues": [suspect(1, "a", 1.0), "x"]}, 'first: label_issues[1] is "x"'),
        (
            {"label_issues": [suspect(1, "a", float("nan"))]},
            '1 of 1 entries of "label_issues" are damaged',
        ),
        (
            {"label_issues": [suspect(1, "a", 10**400)]},
            '1 of 1 entries of "label_issues" are damaged',
        ),
        ({"label_issues": [suspect(1, "a", 1.0, bbox=[1, 2])]}, "entries of"),
        ({"novel_images": [{}]}, "first: novel_images[0] is {}"),
    ],
)
def test_damaged_files_end_in_one_line(
    files: Path, capsys: pytest.CaptureFixture[str], damage: dict[str, Any], message: str
) -> None:
    folder = written(files / "found", **{"label_issues": [], **damage})
    status, said = run(capsys, files, "--label-issues", folder, "--output", files / "out")
    assert status == 2
    assert message in said
    assert f"{folder / 'label_issues.json'}: " in said
    assert said.strip().endswith("Write it anew: detbalance label-issues --output FOLDER")
    assert said.count("\n") == 1
    assert not (files / "out").exists()


def test_what_is_no_folder_of_label_issues_ends_in_one_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", files / "out")
    (files / "list.json").write_text("[1]")
    (files / "broken.json").write_text('{"format": "detba')
    for given, message in (
        (files / "nowhere", "nowhere: there is no such folder."),
        (files, f"{files}: holds no label_issues.json."),
        (files / "list.json", "list.json: holds [1]."),
        (files / "broken.json", "broken.json: not JSON"),
    ):
        status, said = run(capsys, files, "--label-issues", given, *output)
        assert (status, said.count("\n")) == (2, 1), said
        assert message in said
    folder = written(files / "found", [])
    status, said = run(capsys, files, "--label-issues", folder)
    assert status == 2
    assert "--label-issues: " in said
    assert "Add --output FOLDER." in said
