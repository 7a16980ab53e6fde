"""A comparison in words, and conditions that end a build."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import frequency_of, scene_runs

from detbalance.comparison import Comparison, Difference, GroupDifferences, compare, parse_gate
from detbalance.comparison.verdict import signed, verdict

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
        # An interval that leaves 0 out is not enough where several groups are looked at.
        (difference(0.1, 0.01, 0.19, p=0.08), SAME, "no difference can be told on these images"),
    ],
)
def test_the_verdict_says_who_gained_and_who_paid(tail, head, words) -> None:
    text = verdict(groups(rare=tail, common=UNDEFINED, frequent=head, all=tail), "AP")
    assert text.endswith(f": {words}.")
    assert text.startswith("AP: rare ")
    assert "common" not in text


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
    return compare(runs[:1], runs[1:], train_frequency=frequency, replicates=100)


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
    for new in ("no. 7 < sign.AP", "é \u202e.recall"):
        rows = tuple(
            dataclasses.replace(row, name=new) if row.name == name else row
            for row in comparison.classes
        )
        renamed = with_figures(dataclasses.replace(comparison, classes=rows), new, AP50=UP)
        gate = parse_gate(f"{new}.AP50 > 0.1")
        assert gate.who == new
        assert gate.fails(renamed)
    # A class that is called like a group has to give way.
    rows = tuple(
        dataclasses.replace(row, name="rare") if row.name == name else row
        for row in comparison.classes
    )
    twice = with_figures(dataclasses.replace(comparison, classes=rows), "rare", AP=UP)
    assert parse_gate("rare.AP > 0.1").find(twice) is UP


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
    ["", "rare.recall", "recall < 0.1", "rare.mAP < 0", "rare.recall = 0", "rare.recall < nan"],
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
