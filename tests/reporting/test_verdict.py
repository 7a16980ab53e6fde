"""A comparison in words, and conditions that end a build."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import made_report
from scenes import frequency_of, scene_runs

from detbalance.evaluation import (
    ClassRow,
    Comparison,
    Difference,
    GroupDifferences,
    Report,
    compare,
    parse_gate,
)
from detbalance.evaluation.comparison import decimals, digits_for, signed, verdict
from detbalance.evaluation.figures import FIGURES
from detbalance.evaluation.report import ERROR_KINDS, Cell, Details, ErrorKind
from detbalance.reporting.sentences import least_found

NAN = math.nan


def difference(change: float, low: float, high: float, *, p: float | None = None) -> Difference:
    """A difference that is real where its interval leaves 0 out, unless another p is given."""
    real = low > 0 or high < 0
    p = (0.01 if real else 0.4) if p is None else p
    return Difference(0.5, 0.5 + change, change, low, high, p, p)


def groups(**differences: Difference) -> dict[str, GroupDifferences]:
    return {
        name: GroupDifferences(
            num_categories=3, num_evaluated=3, train_boxes=9, val_boxes=9, figures={"AP": one}
        )
        for name, one in differences.items()
    }


UNDEFINED = Difference(NAN, NAN, NAN, NAN, NAN, NAN, NAN)
UP, DOWN = difference(0.18, 0.11, 0.25), difference(-0.06, -0.1, -0.02)
SAME, WIDE = difference(-0.004, -0.01, 0.003), difference(-0.01, -0.08, 0.06)

LITTLE, RISE = difference(0.006, 0.002, 0.01), difference(0.08, -0.01, 0.17)
SLIGHT, OPEN = difference(0.007, -0.004, 0.018), difference(0.1, -0.05, 0.25)
DENT = difference(-0.004, -0.008, -0.0004, p=0.07)


@pytest.mark.parametrize(
    ("tail", "head", "words"),
    [
        (UP, SAME, "the tail gained at no measurable cost to the head"),
        (UP, WIDE, "the tail gained; a cost to the head of up to .08 is not ruled out"),
        (UP, DOWN, "the tail gained, the head paid for it"),
        (UP, UP, "all groups gained"),
        (DOWN, DOWN, "all groups lost"),
        (DOWN, UP, "the head gained, the tail paid for it"),
        (DOWN, WIDE, "the tail lost, and no gain of the head can be told"),
        (WIDE, DOWN, "the head lost, and no gain of the tail can be told"),
        (SAME, UP, "the head gained at no measurable cost to the tail"),
        (WIDE, UP, "the head gained; a cost to the tail of up to .08 is not ruled out"),
        (SAME, SAME, "no difference of .02 or more"),
        (WIDE, SAME, "no difference can be told on these images"),
        # One that may have gained as much has not "no cost": what it did cannot be told.
        (RISE, LITTLE, "the head gained; whether the tail gained too cannot be told"),
        (LITTLE, RISE, "the tail gained; whether the head gained too cannot be told"),
        (SLIGHT, LITTLE, "the head gained; whether the tail gained too cannot be told"),
        (OPEN, UP, "the head gained; whether the tail gained too or lost up to .05 cannot be told"),
        (DENT, UP, "the head gained; a cost to the tail of up to .008 is not ruled out"),
        # An interval that leaves 0 out is not enough where several groups are looked at.
        (difference(0.1, 0.01, 0.19, p=0.08), SAME, "no difference can be told on these images"),
    ],
)
def test_the_verdict_says_who_gained_and_who_paid(tail, head, words) -> None:
    text = verdict(groups(rare=tail, common=UNDEFINED, frequent=head, all=tail), "AP")
    assert text.endswith(f": {words}.")
    assert text.startswith("AP: rare ")
    assert "common" not in text


MIDDLES = (-0.1, -0.03, -0.01, -0.0004, 0.0, 0.0004, 0.01, 0.03, 0.1)
HALVES = (0.0003, 0.005, 0.015, 0.06, 0.2)


@pytest.mark.parametrize("tail_moves", [False, True])
@pytest.mark.parametrize("head_moves", [False, True])
def test_what_the_verdict_says_is_true_whatever_the_signs(tail_moves, head_moves) -> None:
    """Every pair of differences, of narrow and wide intervals, real and not."""
    spreads = [(middle, half) for middle in MIDDLES for half in HALVES]
    for (tail_at, tail_half), (head_at, head_half) in itertools.product(spreads, repeat=2):
        sides = {}
        for name, middle, half, moves in (
            ("tail", tail_at, tail_half, tail_moves),
            ("head", head_at, head_half, head_moves),
        ):
            moves = moves and abs(middle) > half
            sides[name] = difference(middle, middle - half, middle + half, p=0.01 if moves else 0.3)
        rows = groups(rare=sides["tail"], common=UNDEFINED, frequent=sides["head"], all=UP)
        text = verdict(rows, "AP").rsplit(": ", 1)[1]
        real = {name: one.p_adjusted < 0.05 for name, one in sides.items()}
        for name, other in (("tail", "head"), ("head", "tail")):
            one, mover = sides[name], sides[other]
            gained = real[name] and one.difference > 0
            lost = real[name] and one.difference < 0
            claims = (f"the {name} gained", "tail and head gained", "all groups gained")
            plain = text.replace(f"whether the {name} gained", "")
            assert any(claim in plain for claim in claims) == gained, text
            claims = (f"the {name} lost", f"the {name} paid", "tail and head lost", "groups lost")
            assert any(claim in text for claim in claims) == lost, text
            as_much = one.difference >= min(0.02, mover.difference)
            if f"no measurable cost to the {name}" in text:
                assert not real[name]
                assert one.low > -0.02
                assert one.high >= 0
                assert not as_much
            if f"a cost to the {name} of up to" in text:
                assert not real[name]
                assert not as_much
                named = float(text.split("of up to ")[1].split(" ")[0])
                assert named == pytest.approx(-one.low, rel=0.2, abs=0.005)
            if f"whether the {name} gained too" in text:
                assert not real[name]
                assert as_much
                assert ("or lost up to" in text) == (one.low <= -0.02)
            if f"no gain of the {name} can be told" in text:
                assert not gained
        if "no difference of .02 or more" in text:
            assert all(one.low > -0.02 and one.high < 0.02 for one in sides.values())
        if "no difference" in text:
            assert not any(real.values())


def test_no_difference_is_said_of_all_groups_that_are_listed() -> None:
    assert verdict(groups(rare=SAME, common=SAME, frequent=SAME, all=SAME), "AP").endswith(
        ": no difference of .02 or more."
    )
    unknown = verdict(groups(rare=SAME, common=WIDE, frequent=SAME, all=SAME), "AP")
    assert unknown.endswith(": no difference can be told on these images.")


@given(st.floats(-1, 1).filter(lambda x: abs(x) > 1e-8), st.floats(-1, 1), st.integers(2, 3))
def test_an_end_that_is_not_0_never_looks_like_it(low, high, least) -> None:
    digits = digits_for(low, high, 0.0, least=least)
    assert digits >= least
    assert float(decimals(low, digits)) != 0
    assert decimals(low, digits).startswith("-") == (low < 0)
    # And no more digits than that takes.
    others = [abs(one) for one in (low, high) if abs(one) > 1e-9]
    assert digits == least or round(min(others), digits - 1) == 0
    assert decimals(-0.0, digits) == f".{'0' * digits}"


def test_the_verdict_shows_differences_and_intervals() -> None:
    text = verdict(groups(rare=UP, common=SAME, frequent=SAME, all=UP), "AP")
    assert text == (
        "AP: rare +.18 [.11, .25]; common -.004 [-.01, .003]; frequent -.004 [-.01, .003]: the tail"
        " gained at no measurable cost to the head."
    )
    moved = verdict(groups(rare=UP, common=DOWN, frequent=SAME, all=UP), "AP")
    assert moved.endswith("the tail gained at no measurable cost to the head; common classes lost.")
    middle = verdict(groups(rare=WIDE, common=UP, frequent=WIDE, all=UP), "AP")
    assert middle.endswith(
        "no difference can be told on these images for rare and frequent classes; common classes"
        " gained."
    )


def test_without_two_groups_the_verdict_is_of_all_classes() -> None:
    empty = {"rare": UNDEFINED, "common": UNDEFINED, "frequent": UNDEFINED}
    for one, words in ((UP, "ours is better"), (DOWN, "the baseline is better")):
        text = verdict(groups(**empty, all=one), "AP")
        assert text.startswith(f"AP: all classes {signed(one.difference)} [")
        assert text.endswith(f": {words}.")
    nothing = verdict(groups(**empty, all=UNDEFINED), "AP")
    assert nothing == "AP: nothing can be compared, there are no boxes to find."


def test_a_level_other_than_5_percent_is_kept() -> None:
    tail = difference(0.1, 0.01, 0.2, p=0.03)
    rows = groups(rare=tail, common=UNDEFINED, frequent=SAME, all=tail)
    assert "the tail gained" in verdict(rows, "AP", level=0.05)
    assert "no difference can be told" in verdict(rows, "AP", level=0.01)


# Conditions


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    runs = scene_runs(tmp_path)
    frequency = frequency_of(runs[0].matches.annotations, tmp_path)
    return compare(runs[:1], runs[1:], train_frequency=frequency, num_bootstrap=100)


def with_figures(comparison: Comparison, who: str, **figures: Difference) -> Comparison:
    """The comparison with other figures of a group or a class."""
    if who in comparison.groups:
        row = comparison.groups[who]
        row = dataclasses.replace(row, figures={**row.figures, **figures})
        return dataclasses.replace(comparison, groups={**comparison.groups, who: row})
    rows = tuple(
        dataclasses.replace(row, figures={**row.figures, **figures}) if row.name == who else row
        for row in comparison.classes
    )
    return dataclasses.replace(comparison, classes=rows)


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("rare.recall < -0.01", True),
        ("rare.recall < -0.06", False),
        ("rare.recall <= -.06", True),
        ("rare.recall.high<-0.01", True),
        ("rare.recall.low < -1e-1", False),
        ("rare.recall.low<=-1e-1", True),
        (" rare.recall.ours  >  0.43 ", True),
        ("rare.recall.baseline >= 0.5", True),
        ("rare.recall.difference > -0.06", False),
    ],
)
def test_conditions_are_on_the_difference_or_any_other_part(comparison, text, fails) -> None:
    changed = with_figures(comparison, "rare", recall=DOWN)
    assert parse_gate(text).fails(changed) is fails


def test_conditions_on_classes_take_any_name(comparison) -> None:
    name = next(row.name for row in comparison.classes if row.val_boxes)
    for new in ("no. 7 < sign.AP", "é \u202e.recall", " all "):
        rows = tuple(
            dataclasses.replace(row, name=new) if row.name == name else row
            for row in comparison.classes
        )
        renamed = with_figures(dataclasses.replace(comparison, classes=rows), new, AP50=UP)
        gate = parse_gate(f"{new}.AP50 > 0.1")
        assert gate.who == new
        assert gate.fails(renamed)


def renamed(comparison: Comparison, *names: str) -> Comparison:
    """With other names of the first classes, whose difference of AP is 0, .1, .2 and so on."""
    figures = [Difference(0.1, 0.1 + i / 10, i / 10, -1.0, 1.0, 0.5, 0.5) for i in range(6)]
    new = dict(enumerate(names))
    rows = tuple(
        dataclasses.replace(
            row, name=new.get(i, row.name), figures={**row.figures, "AP": figures[i]}
        )
        for i, row in enumerate(comparison.classes)
    )
    return dataclasses.replace(comparison, classes=rows)


def test_conditions_are_on_what_has_exactly_the_name(comparison) -> None:
    changed = renamed(comparison, "owl", " owl", "owl ", " elk ", "a.AP")
    for text, place in (
        ("owl.AP < 0", 0),
        (" owl.AP < 0", 1),
        ("owl .AP < 0", 2),
        ("elk.AP < 0", 3),
        ("  elk.AP < 0 ", 3),
        ("a.AP.AP < 0", 4),
    ):
        found = parse_gate(text).find(changed)
        assert found.difference == pytest.approx(place / 10), text
    unclear = (
        r'"  owl " may be the class "owl" and the class " owl" and the class "owl " of .*One is'
    )
    with pytest.raises(ValueError, match=unclear):
        parse_gate("  owl .AP < 0").check([row.name for row in changed.classes], "val.json")


def test_a_class_that_is_called_like_a_group_has_to_be_told_from_it(comparison) -> None:
    changed = with_figures(renamed(comparison, "owl", "rare"), "rare", AP=UP)
    unclear = (
        r'"rare" may be the group "rare" and the class "rare" of .*"group:NAME" or "class:NAME"'
    )
    with pytest.raises(ValueError, match=unclear):
        parse_gate("rare.AP > 0.1").find(changed)
    assert parse_gate("group:rare.AP > 0.1").find(changed) is UP
    assert parse_gate("class:rare.AP > 0.1").find(changed).difference == pytest.approx(0.1)
    # Two spaces more are nothing that one could see.
    with pytest.raises(ValueError, match="may be"):
        parse_gate(" rare.AP > 0.1").find(with_figures(renamed(comparison, "rare "), "rare", AP=UP))
    assert (
        parse_gate("rare.AP > 0").find(with_figures(renamed(comparison, "rare "), "rare", AP=UP))
        is UP
    )


@given(
    st.sampled_from(["rare", "all", "a b"]),
    st.sampled_from(["AP", "AP50", "AR", "recall", "precision"]),
    st.sampled_from(["baseline", "ours", "difference", "low", "high"]),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.integers(-1000, 1000).map(lambda n: n / 1000),
)
def test_conditions_are_written_as_they_are_read(who, figure, part, sign, limit) -> None:
    gate = parse_gate(f"{who}.{figure}.{part} {sign} {limit}")
    assert (gate.who, gate.figure, gate.part, gate.sign) == (who, figure, part, sign)
    assert gate.limit == limit
    assert parse_gate(str(gate)) == gate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rare.recall",
        "recall < 0.1",
        "rare.mAP < 0",
        "rare.recall = 0",
        "rare.recall < nan",
        "rare.recall < 1e999",
    ],
)
def test_what_is_no_condition_is_said_with_an_example(text) -> None:
    with pytest.raises(ValueError, match=r'Write for example "rare\.recall < -0\.01"'):
        parse_gate(text)


def test_conditions_on_nothing_do_not_pass(comparison) -> None:
    with pytest.raises(ValueError, match=r'"rara" is neither a group nor a class of .*val\.json'):
        parse_gate("rara.recall < 0").fails(comparison)
    absent = next(row.name for row in comparison.classes if not row.val_boxes)
    for text in (f"{absent}.recall < 0", f"{absent}.AP.low > -1"):
        with pytest.raises(ValueError, match=r"is undefined here.*Name another, or pass --train"):
            parse_gate(text).fails(comparison)


def test_the_interval_of_a_real_difference_does_not_touch_0_anywhere(comparison) -> None:
    pytest.importorskip("rich")
    from rich.console import Console
    from shown_documents import comparison_markdown, print_comparison

    from detbalance.reporting.page_data import page_data
    from detbalance.reporting.page_header import page_summary

    name = next(row.name for row in comparison.classes if row.val_boxes)
    close = Difference(0.5, 0.48, -0.0164, -0.0326, -0.0004, 0.0496, 0.0496)
    wide = Difference(0.5, 0.48, -0.02, -0.043, 0.0031, 0.0504, 0.0504)
    changed = with_figures(with_figures(comparison, "all", recall=close), name, recall=wide)
    console = Console(width=200, record=True, file=io.StringIO())
    print_comparison(changed, console=console)
    shown = console.export_text()
    assert "[-.0326 -.0004]" in shown
    assert "[-.043 .003]" in shown
    text = comparison_markdown(changed)
    assert "**-0.016** [-0.0326, -0.0004]" in text.replace("\\", "")
    assert "-0.020 [-0.043, 0.003]" in text.replace("\\", "")
    report = made_report([row.name for row in comparison.classes])
    lines = page_summary(report, None, changed).lines
    minus = "\N{MINUS SIGN}"
    intervals = [span.interval for line in lines for spans in line.figures for span in spans]
    assert f"[{minus}.0326, {minus}.0004]" in intervals
    swapped = with_figures(comparison, name, recall=close)
    columns = page_data(report, None, swapped)["differences"]["recall"]
    place = [row.name for row in report.classes].index(name)
    assert (columns["high"][place], columns["real"][place]) == (-0.0004, 1)
    # Rounded to .050 it would be below 1 - .95 in floating point.
    unreal = page_data(report, None, changed)["differences"]["recall"]
    assert unreal["real"][place] == 0


def found_class(
    name: str, boxes: int, right: int, wrong: int = 0, *, never: int = 0, **shown: int
) -> ClassRow:
    """A class of which so many boxes are found and so many detections are wrong."""
    kinds = {kind: ErrorKind(shown.get(kind, 0), shown.get(kind, 0)) for kind in ERROR_KINDS}
    kinds["missed"] = ErrorKind(never, boxes - right)
    return ClassRow(
        name=name,
        category_id=1,
        group=None,
        train_images=None,
        train_boxes=None,
        val_boxes=boxes,
        true_positives=right,
        false_positives=wrong,
        figures={**dict.fromkeys(FIGURES, NAN), "recall": right / boxes},
        errors=kinds,
    )


def report_of(*rows: ClassRow, confused: Sequence[Cell] = ()) -> Report:
    report = made_report(["one", "two"])
    details = Details({}, {}, list(confused))
    return dataclasses.replace(report, classes=rows, details=details)


@pytest.mark.parametrize(
    ("row", "confused", "words"),
    [
        (found_class("fuse", 20, 4, never=12), [], "fuse (.20: 12 of 20 boxes not found at any"),
        (
            found_class("fuse", 20, 4, never=2),
            [Cell("fuse", "cap", 9), Cell("fuse", "nut", 3), Cell("fuse", None, 16)],
            "fuse (.20: 12 of 20 boxes taken for another class, most for cap)",
        ),
        (
            found_class("fuse", 20, 4, never=2),
            [Cell("cap", "fuse", 90), Cell(None, "fuse", 90)],
            "fuse (.20: 14 of 20 boxes found inexactly, or not with score >= 0.3)",
        ),
    ],
    ids=["not found", "confused", "weak"],
)
def test_classes_that_are_missed_are_named_with_what_became_of_their_boxes(row, confused, words):
    text = least_found(report_of(row, found_class("cap", 40, 30), confused=confused))
    assert text is not None
    assert text.startswith("Recall is lowest for ")
    assert words in text
    assert "cap (" not in text


def test_false_alarms_and_classes_of_few_boxes_are_named():
    noisy = found_class("nut", 50, 40, 60, background=45, duplicate=15)
    few = [found_class(f"few {i}", 3, 0) for i in range(7)]
    assert least_found(report_of(noisy, *few)) == (
        "More wrong than right detections: nut (60 of 100 wrong, 45 on background). Too few boxes"
        " to tell (under 10): few 0, few 1, few 2, few 3, few 4 and 2 more."
    )
    assert least_found(report_of(found_class("cap", 40, 30))) is None


def test_of_many_missed_classes_three_are_named_the_worst_first():
    rows = [found_class(f"class {i}", 100, 10 + i, never=50) for i in range(9, -1, -1)]
    text = least_found(report_of(*rows))
    assert text is not None
    assert re.findall(r"class (\d) \(", text) == ["0", "1", "2"]
    assert text.endswith(" and 7 more.")
