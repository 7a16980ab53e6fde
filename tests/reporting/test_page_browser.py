"""The HTML page in a real Chromium: it loads from disk, sorts, answers the pointer, fits a phone.

The page forbids eval, which playwright's wait_for_function needs; locators do not.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from label_issue_files import painted, suspect, written
from pages import HOSTILE, made_comparison, made_report, with_names

from detbalance.evaluation.report import FROC_RATES
from detbalance.reporting.label_issues import label_issues_section, load_label_issues
from detbalance.reporting.page_data import pack
from detbalance.reporting.page_header import decimals, signed

pytest.importorskip("jinja2")
playwright = pytest.importorskip("playwright.sync_api")
from detbalance.reporting.page import write_page  # noqa: E402

Open = Callable[..., AbstractContextManager[Any]]
NAMES = [f"class {letter}" for letter in "abcdefghijklmn"]
REPORT, BEFORE = made_report(NAMES), made_report(NAMES, seed=1)
COMPARISON = made_comparison(REPORT, BEFORE, runs=3)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = (1400, 900), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The Chromium of the variable CHROMIUM, of the system, or of playwright; skips without one."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as drivers:
        try:
            browser = drivers.chromium.launch(executable_path=found, args=list(SWITCHES))
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        playwright.expect.set_options(timeout=15_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    many = [f"class number {i}" for i in range(1203)]
    big, big_before = made_report(many), made_report(many, seed=1)
    empty = dataclasses.replace(
        REPORT,
        details=None,
        classes=tuple(dataclasses.replace(row, errors={}, intervals={}) for row in REPORT.classes),
    )
    assert BEFORE.details is not None
    fewer = dataclasses.replace(BEFORE.details, confusion=BEFORE.details.confusion[1:])
    doubtful = made_comparison(REPORT, BEFORE, p_adjusted=0.2)
    rows = (*COMPARISON.classes[:3], *doubtful.classes[3:])
    hostile = with_names(REPORT, HOSTILE)
    pytest.importorskip("cv2")
    painted(folder)
    long = "w" * 200
    judged = [suspect(number, NAMES[2], 9.0 - number, long) for number in range(1, 15)]
    novel = [
        {"file_name": name, "ood_score": 9.25, "box": [1, 2, 30, 40], "annotation_id": None}
        for name in ("a.png", f"{long}.png")
    ]
    written(folder, [suspect(77, long, 1.0), *judged], novel_images=novel)
    sides: dict[str, dict[str, Any]] = {
        "single": {"report": REPORT},
        "compared": {
            "report": REPORT,
            "baseline": BEFORE,
            "comparison": dataclasses.replace(COMPARISON, classes=rows),
        },
        "baseline": {
            "report": REPORT,
            "baseline": dataclasses.replace(BEFORE, details=fewer),
        },
        "comparison": {"report": REPORT, "comparison": COMPARISON},
        "one": {"report": made_report(["only"])},
        "figures": {"report": empty},
        "label_issues": {
            "report": REPORT,
            "label_issues": label_issues_section(load_label_issues(folder)),
        },
        "hostile": {"report": hostile, "comparison": made_comparison(hostile, hostile)},
        "big": {
            "report": big,
            "baseline": big_before,
            "comparison": made_comparison(big, big_before),
        },
    }
    return {
        name: write_page(of.pop("report"), folder / f"{name}.html", **of)
        for name, of in sides.items()
    }


@pytest.fixture(scope="module")
def opened(browser: Any, files: dict[str, Path]) -> Open:
    """Open a page without a network.

    Fails where it complains, asks for anything but itself, or scrolls sideways; on a phone too,
    which is tried once for each page.
    """
    narrowed: set[str] = set()

    @contextmanager
    def open_page(
        name: str, size: tuple[int, int] = WIDE, *, checked: bool = True, **options: Any
    ) -> Iterator[Any]:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height},
            offline=True,
            reduced_motion="reduce",
            **options,
        )
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(f"request: {request.url}"))
        page.goto(files[name].as_uri())
        page.set_default_timeout(15_000)
        page.locator("html[data-ready=yes]").wait_for(state="attached", timeout=30_000)
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if name not in narrowed:
            narrowed.add(name)
            page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        context.close()
        if checked:
            assert said == [f"request: {files[name].as_uri()}"]

    return open_page


def texts(page: Any, selector: str) -> list[str]:
    return page.locator(selector).all_inner_texts()


def column(page: Any, place: int, kind: str = "td") -> list[str]:
    """What a column of the class table shows, without what stands in small letters."""
    return [
        text.split("\n")[0].split(" n ")[0]
        for text in texts(page, f"#table tbody tr > {kind}:nth-child({place})")
    ]


def heading(page: Any, title: str, table: str = "table") -> Any:
    return page.locator(f"#{table} thead button").get_by_text(title, exact=True)


# It loads


@pytest.mark.parametrize(("name", "charts"), [("comparison", 8), ("one", 7), ("figures", 2)])
def test_page_has_the_sections_that_there_is_something_for(
    opened: Open, name: str, charts: int
) -> None:
    with opened(name) as page:
        assert page.locator(".chart:visible svg").count() == charts
        links = page.locator("nav a:visible")
        for link in links.all():
            assert page.locator(link.get_attribute("href")).is_visible()
        assert links.count() == (3 if name == "figures" else 5)


def test_a_thousand_classes_with_a_baseline_are_ready_soon(opened: Open) -> None:
    start = time.perf_counter()
    with opened("big") as page:
        assert time.perf_counter() - start < 20
        assert page.locator("#table tbody tr").count() == 100
        assert page.locator("#shown").inner_text() == "100 of 1,203"
        page.locator("#more").click()
        assert page.locator("#table tbody tr").count() == 1203
        assert page.locator("#more").is_hidden()
        page.locator("#search").fill("number 120")
        assert column(page, 1, "th") == [f"class number {i}" for i in (120, 1200, 1201, 1202)]


def test_numbers_are_written_as_in_the_rest_of_the_package(opened: Open) -> None:
    numbers = [0.0452, -0.1, -0.0004, 0.0, 1.0, 0.9996, -1.0]
    with opened("single") as page:
        assert page.evaluate("(all) => all.map((one) => signed(one))", numbers) == [
            signed(one) for one in numbers
        ]
        assert page.evaluate("(all) => all.map((one) => decimals(one))", numbers[3:6]) == [
            decimals(one) for one in numbers[3:6]
        ]
        assert page.evaluate("[decimals(null), signed(null), whole(null)]") == ["-"] * 3
        packed = page.evaluate("(text) => [...unpack(text)]", pack([0, 0.3, 0.77, 1]))
        assert packed == pytest.approx([0, 0.3, 0.77, 1], abs=1 / 8000)


# The table


def test_sorting_goes_down_then_up_with_undefined_last(opened: Open) -> None:
    def press(button: Any) -> None:
        button.focus()
        page.keyboard.press("Enter")

    with opened("single") as page:
        known = [decimals(row.AP) for row in REPORT.classes[:-1]]
        assert column(page, 5) == [*known, "-"]
        heading(page, "AP").click()
        assert column(page, 5) == [*sorted(known, reverse=True, key=float), "-"]
        cell = page.locator("#table thead th:nth-child(5)")
        assert cell.get_attribute("aria-sort") == "descending"
        press(heading(page, "AP"))
        assert column(page, 5) == [*sorted(known, key=float), "-"]
        assert cell.get_attribute("aria-sort") == "ascending"
        heading(page, "class").click()
        assert cell.get_attribute("aria-sort") is None
        assert column(page, 1, "th") == NAMES
        press(heading(page, "class"))
        assert column(page, 1, "th") == NAMES[::-1]
        press(heading(page, "group"))
        assert column(page, 2) == ["rare"] * 5 + ["common"] * 5 + ["frequent"] * 4


def test_search_and_groups_narrow_the_table(opened: Open) -> None:
    with opened("single") as page:
        rare = [row.name for row in REPORT.classes if row.group == "rare"]
        page.locator("#groups button", has_text="rare").click()
        assert column(page, 1, "th") == rare
        assert page.locator("#shown").inner_text() == f"{len(rare)} classes found"
        assert page.locator("#groups [aria-pressed=true]").inner_text() == "rare"
        page.locator("#search").fill("CLASS B")
        assert column(page, 1, "th") == ["class b"]
        page.locator("#search").fill("nothing of the kind")
        assert texts(page, "#table tbody tr") == ["No class matches."]
        page.locator("#search").fill("")
        page.locator("#groups button", has_text="all").click()
        assert column(page, 1, "th") == NAMES


def test_columns_can_be_chosen_and_the_order_stays(opened: Open) -> None:
    with opened("single") as page:
        heading(page, "recall").click()
        before = column(page, 1, "th")
        page.locator("#columns summary").click()
        page.locator("#columns label", has_text="AP75").click()
        titles = [text.strip() for text in texts(page, "#table thead button")]
        assert titles[4:8] == ["AP", "AP50", "AP75", "AR"]
        assert column(page, 7) == [
            decimals(row.AP75) for row in sorted(REPORT.classes, key=lambda r: before.index(r.name))
        ]
        page.locator("#columns label", has_text="recall").first.click()
        assert column(page, 1, "th") == NAMES  # it was sorted by what is gone


def test_only_differences_that_are_real_after_correction_are_bold(opened: Open) -> None:
    with opened("compared") as page:
        for place in (7, 10, 13):
            cells = page.locator(f"#table tbody td:nth-child({place})")
            weights = [
                cell.evaluate("(one) => Number(getComputedStyle(one).fontWeight)")
                for cell in cells.all()
            ]
            assert [weight > 600 for weight in weights] == [True] * 3 + [False] * 11
            shown = cells.nth(5)
            assert shown.get_attribute("title").startswith("[")  # its interval leaves out 0
            assert "--l:" in shown.locator(".bar.middle").get_attribute("style")
        heading(page, "difference").nth(0).click()
        changes = column(page, 7)
        assert changes[-1] == "-"
        values = [float(text.replace("\N{MINUS SIGN}", "-")) for text in changes[:-1]]
        assert values == sorted(values, reverse=True)


def test_intervals_are_drawn_around_their_figure(opened: Open) -> None:
    with opened("single") as page:
        row = REPORT.classes[0]
        style = page.locator("#table tbody tr").first.locator(".bar").first.get_attribute("style")
        places = dict(part.strip().split(": ") for part in style.rstrip("; ").split(";"))
        low, high = row.intervals["AP"]
        assert float(places["--p"]) == pytest.approx(100 * row.AP, abs=0.1)
        assert float(places["--l"]) == pytest.approx(100 * low, abs=0.1)
        assert float(places["--h"]) == pytest.approx(100 * high, abs=0.1)
        box = page.locator("#table tbody tr").first.locator("td:nth-child(5)")
        assert box.get_attribute("title") == f"[{decimals(low)}, {decimals(high)}]"


# The charts


def curve_spot(page: Any, place: int) -> tuple[float, float]:
    """Where on the screen a curve has its precision at a recall of .02."""
    x, y = page.evaluate(
        """(place) => {
            const view = VIEWS.curves;
            const box = document.querySelector("#curves svg").getBoundingClientRect();
            const [left, top] = view.origin();
            const x = box.left + left + 0.02 * view.width();
            return [x, box.top + top + (1 - CURVES[0][place][2]) * view.height()];
        }""",
        place,
    )
    return x, y


def test_pointing_at_a_curve_names_its_class_and_draws_it(opened: Open) -> None:
    with opened("compared") as page:
        page.locator("#curves").scroll_into_view_if_needed()
        tip = page.locator("#tip")
        assert tip.is_hidden()
        for place in (1, 6):
            page.mouse.move(*curve_spot(page, place))
            assert f"class\n{NAMES[place]}" in tip.inner_text()
            assert "scores from" in tip.inner_text()
            rows = page.evaluate("VIEWS.curves.data('hovered')")
            assert {(row["i"], row["run"]) for row in rows} == {
                (place, "this run"),
                (place, "baseline"),
            }
            playwright.expect(page.locator("#curves path[stroke-width='1.5']")).to_have_count(2)
        page.mouse.click(*curve_spot(page, 6))
        assert page.locator("#class").evaluate("(menu) => menu.selectedIndex") == 6
        page.mouse.move(5, 5)
        assert tip.is_hidden()
        assert page.evaluate("VIEWS.curves.data('hovered').length") == 0


def test_pointing_at_a_mark_names_its_class_and_a_click_chooses_it(opened: Open) -> None:
    with opened("single") as page:
        marks = page.locator(
            "#imbalance-left path[aria-roledescription], #imbalance-left .mark-symbol path"
        )
        marks.nth(3).hover()
        text = page.locator("#tip").inner_text()
        row = REPORT.classes[3]
        low, high = row.intervals["AP"]
        assert f"class\n{row.name}" in text
        assert f"boxes in training\n{row.train_boxes:,}" in text
        assert f"{decimals(row.AP)} [{decimals(low)}, {decimals(high)}]" in text
        marks.nth(3).click()
        assert page.locator("#class").input_value() == "3"
        page.mouse.move(5, 5)
        assert page.locator("#tip").is_hidden()


def test_the_figure_of_a_chart_can_be_changed(opened: Open) -> None:
    with opened("compared") as page:
        assert texts(page, "#imbalance select option:checked") == ["AP", "recall"]
        page.locator("#imbalance-left-figure").select_option("AP75")
        page.locator("#imbalance-left .mark-symbol path").last.hover()
        text = page.locator("#tip").inner_text()
        known = [row for row in REPORT.classes if f"class\n{row.name}\n" in text]
        assert f"this run\n{decimals(known[0].AP75)}" in text
        before = next(row for row in BEFORE.classes if row.name == known[0].name)
        assert f"baseline\n{decimals(before.AP75)}" in text


def test_choosing_a_class_shows_it_everywhere(opened: Open) -> None:
    with opened("single") as page:
        assert REPORT.details is not None
        row = REPORT.classes[5]
        page.locator("#table .pick", has_text=row.name).click()
        assert page.locator("#class").input_value() == "5"
        assert f"boxes in training {row.train_boxes:,}" in page.locator("#class-facts").inner_text()
        assert {one["i"] for one in page.evaluate("VIEWS.curves.data('chosen')")} == {5}
        bins = page.evaluate("VIEWS.scores.data('bins').map((row) => row.count)")
        known = REPORT.details.histograms[row.name]
        measures = {
            (one["measure"], round(20 * one["start"])): one["value"]
            for one in page.evaluate("VIEWS.confidence.data('measures')")
            if one["side"] == "class"
        }
        for place in range(20):
            right, wrong = sum(known.right[place:]), sum(known.wrong[place:])
            expected = {"recall": right / row.val_boxes}
            expected["F1"] = 2 * right / (right + wrong + row.val_boxes)
            if right + wrong:
                expected["precision"] = right / (right + wrong)
            for name, value in expected.items():
                assert measures[name, place] == pytest.approx(value)
        assert bins == [*known.right, *(-count for count in known.wrong)]
        labels = page.locator("#scores .role-axis-label text").all_text_contents()
        assert {"0.0", "1.0", "0", "30"} <= set(labels)
        assert page.evaluate("VIEWS['imbalance-right'].signal('selected')") == 5
        assert (
            texts(page, "#table tr.chosen .pick, #errors-table tr.chosen .pick") == [row.name] * 2
        )
        page.locator("#next").click()
        assert page.locator("#class").input_value() == "6"
        page.locator("#previous").click()
        page.locator("#class").select_option("13")
        assert "no boxes to find" in page.locator("#curves-legend").inner_text()
        assert (
            page.locator("#scores-legend").inner_text() == "There are no detections of this class."
        )
        page.locator("#next").click()
        assert page.locator("#class").input_value() == "0"


def test_confusion_chart_and_table_have_the_same_counts(opened: Open) -> None:
    with opened("baseline") as page:
        assert REPORT.details is not None
        cells = page.evaluate("VIEWS.heatmap.data('cells')")
        counts = [(c["true_name"], c["found_name"], c["count"]) for c in cells]
        assert sorted(c for c in counts if c[0] != c[1] and c[2]) == sorted(
            (c.true or "background", c.found or "missed", c.count) for c in REPORT.details.confusion
        )
        assert [c for c in counts if c[0] == c[1]] == [
            (row.name, row.name, row.true_positives) for row in REPORT.classes
        ]
        lines = texts(page, "#confusion-table tbody tr")
        assert [" ".join(line.split()) for line in lines[:2]] == [
            f"{cell.true} {cell.found} {before} {cell.count}"
            for cell, before in zip(REPORT.details.confusion, (0, 399), strict=False)
        ]
        page.locator("#heatmap .mark-rect path").first.hover()
        assert "found as" in page.locator("#tip").inner_text()
        page.locator("#heatmap-run").select_option("1")
        assert page.evaluate("VIEWS.heatmap.data('cells').length") == len(counts)
        page.locator("#heatmap-unit").select_option("shares")
        page.locator("#heatmap-run").select_option("0")
        parts = page.evaluate("VIEWS.heatmap.data('cells')")
        for row in REPORT.classes:
            shown = next(c["part"] for c in parts if c["true_name"] == c["found_name"] == row.name)
            share = row.true_positives / row.val_boxes if row.val_boxes else 0.0
            assert shown == decimals(share)


def test_charts_follow_the_width_of_the_window(opened: Open) -> None:
    with opened("single") as page:
        chart = page.locator("#scores svg")
        assert chart.get_attribute("width") == "584"
        page.set_viewport_size({"width": 500, "height": 800})
        playwright.expect(chart).to_have_attribute("width", "472")


# Phones, paper, themes


def test_on_a_phone_tables_scroll_in_their_box_and_buttons_fit_a_finger(opened: Open) -> None:
    with opened("compared", PHONE, has_touch=True, is_mobile=True) as page:
        box = page.locator("#classes .scroller")
        assert box.evaluate("(one) => one.scrollWidth > one.clientWidth")
        box.evaluate("(one) => { one.scrollLeft = 400; }")
        name = page.locator("#table tbody th").first.bounding_box()
        assert name["x"] == pytest.approx(box.bounding_box()["x"], abs=2)  # names stay in sight
        for control in page.locator(
            ".tools button, .tools select, .tools input, .chips button"
        ).all():
            if control.is_visible() and control.get_attribute("type") != "checkbox":
                assert control.bounding_box()["height"] >= 44
                assert control.bounding_box()["width"] >= 44
        page.locator("#columns summary").tap()
        menu = page.locator("#columns > div").bounding_box()
        assert menu["x"] >= 0
        assert menu["x"] + menu["width"] <= PHONE[0]
        page.locator("#columns summary").tap()
        page.locator("#table .pick", has_text="class d").tap()
        assert page.locator("#class").input_value() == "3"
        page.touchscreen.tap(*curve_spot(page, 7))
        assert page.locator("#class").input_value() == "7"


def test_paper_has_all_rows_and_no_buttons(opened: Open) -> None:
    with opened("single") as page:
        assert REPORT.details is not None
        rows, facts = page.locator("#confusion-table tbody tr"), page.locator(".facts dl")
        assert (rows.count(), facts.is_visible()) == (15, False)
        page.emulate_media(media="print")
        playwright.expect(rows).to_have_count(len(REPORT.details.confusion))
        assert facts.is_visible()
        assert page.locator("button:visible:not(.pick)").count() == 0
        assert page.locator("#table thead .on-paper").first.is_visible()
        page.emulate_media(media="screen")
        playwright.expect(rows).to_have_count(15)
        assert facts.is_hidden()


def test_froc_and_reliability_are_those_of_the_chosen_class(opened: Open) -> None:
    marks = "#froc .mark-symbol path"
    with opened("compared") as page:
        page.locator("#class").select_option("2")
        name = NAMES[2]
        assert REPORT.details is not None
        shown = page.locator(marks).evaluate_all(
            "(all) => all.map((one) => one.__data__.datum)"
            ".map(({of, rate, value, score}) => [of, rate, value, score])"
        )
        own = [row for row in shown if row[0] == name]
        curve = REPORT.details.froc[name]
        assert [row[1] for row in own] == list(FROC_RATES)
        assert [row[2] for row in own] == pytest.approx(curve.recall, abs=1e-3)
        assert own[0][3] == "none"
        assert own[-1][3] == ".100"
        assert {row[0] for row in shown} == {name, "baseline", "mean of rare classes"}
        bins = REPORT.details.histograms[name]
        points = page.locator("#reliability .mark-symbol path").evaluate_all(
            "(all) => all.map((one) => one.__data__.datum)"
        )
        own_bins = [one for one in points if one["of"] == name]
        shares = [r / (r + w) for r, w in zip(bins.right, bins.wrong, strict=True) if r + w]
        assert [one["value"] for one in own_bins] == pytest.approx(shares)
        number = sum(bins.right) + sum(bins.wrong)
        apart = sum(
            abs(r - (r + w) * (k + 0.5) / 20)
            for k, (r, w) in enumerate(zip(bins.right, bins.wrong, strict=True))
        )
        words = page.locator("#reliability-legend").inner_text()
        assert f"{decimals(apart / number)} off on average" in words


def test_very_many_classes_take_few_sheets_of_paper(opened: Open) -> None:
    with opened("big") as page:
        page.emulate_media(media="print")
        rows = page.locator("#table tbody tr")
        playwright.expect(rows).to_have_count(71)
        assert rows.last.inner_text() == "1,133 more rows are not printed: report.csv has all."
        sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
        assert sheets <= 12
        page.emulate_media(media="screen")
        playwright.expect(rows).to_have_count(100)


def test_theme_is_that_of_the_system_until_it_is_switched(opened: Open) -> None:
    def paper() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    with opened("single", color_scheme="dark") as page:
        button = page.locator("#theme")
        assert (paper(), button.inner_text()) == ("rgb(20, 23, 27)", "Light")
        label = page.locator("#scores .role-axis-label text").first
        assert label.evaluate("(one) => getComputedStyle(one).fill") == "rgb(160, 169, 180)"
        button.click()
        assert (paper(), button.inner_text()) == ("rgb(255, 255, 255)", "Dark")
        assert label.evaluate("(one) => getComputedStyle(one).fill") == "rgb(92, 101, 112)"
        button.click()
        page.emulate_media(media="print")
        assert paper() == "rgb(255, 255, 255)"  # paper is white
        page.emulate_media(media="screen")


# NovelImages


def test_labels_that_look_wrong_are_shown_as_pictures(opened: Open) -> None:
    with opened("label_issues") as page:
        link = page.locator("nav a", has_text="Labels")
        assert link.get_attribute("href") == "#label_issues"
        link.click()
        headings = texts(page, "#label_issues h3")
        assert headings[0].startswith("w" * 200)  # one box was judged, of the other class 14
        assert headings[1].startswith(NAMES[2])
        assert "8 of 14 boxes look wrong" in headings[1]
        captions = texts(page, "#label_issues figcaption")
        lines = ("class c", f"looks like {'w' * 200}", "suspicion 8.00", "annotation 1", "a.png")
        assert captions[1].split("\n") == list(lines)
        sizes = page.locator("#label_issues svg").evaluate_all(
            "(all) => all.map((one) => [one.clientWidth, one.clientHeight])"
        )
        assert len(sizes) == len(captions) - 1  # one image is gone
        assert all(wide == high and wide >= 130 for wide, high in sizes)
        assert page.locator("#label_issues .no-picture").count() == 1


def test_names_are_shown_as_they_are_and_do_nothing(opened: Open) -> None:
    with opened("hostile") as page:
        assert texts(page, "#table tbody .pick")[: len(HOSTILE)] == list(HOSTILE)
        assert set(HOSTILE[:6]) < set(page.locator("#class option").all_text_contents())
        for place in range(len(HOSTILE)):
            page.locator("#class").select_option(str(place))
        page.locator("#imbalance-left .layer_2_marks path").first.hover()
        assert HOSTILE[0] in page.locator("#tip").inner_text()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0


def test_the_policy_stops_foreign_scripts_and_requests(opened: Open) -> None:
    with opened("single", checked=False) as page:
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.hacked = 1";
                document.body.append(script);
                document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='hacked = 1'>");
            }"""
        )
        assert page.evaluate("window.hacked") is None
        blocked = page.evaluate(
            """() => new Promise((resolve) => {
                addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
                fetch("https://example.org/x").catch(() => null);
                setTimeout(resolve, 3000, "nothing was blocked");
            })"""
        )
        assert blocked.startswith("https://example.org")
