"""What a run is told about itself, by what it logged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbalance.training.diagnosis import Circumstances, diagnose

ABOUT = Circumstances(loads_weights=True, workers=2, score_threshold=0.3, config_file="my.yaml")


def run(losses=(), curve=(), *, highest=0.9, waiting=0.05, epoch=20.0):
    """The records of a run: a loss each ten iterations, AP50 at even distances."""
    records = [
        {"iteration": 10 * (i + 1), "loss": loss, "waiting": waiting}
        for i, loss in enumerate(losses)
    ]
    for i, ap50 in enumerate(curve):
        val = {"AP50": ap50, "highest_score": highest}
        records.append({"iteration": 100 * (i + 1), "val": val, "epoch": epoch})
    return records


FALLING = [1.0 * 0.9**i for i in range(30)]


def kinds(records, about=ABOUT):
    return [finding.kind for finding in diagnose(records, about)]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        (run(FALLING, [0.2, 0.5, 0.6, 0.62, 0.62]), []),
        (run(FALLING, [0.0, 0.01, 0.02, 0.04]), ["not learnt", "still improving"]),
        (run([0.7] * 30, [0.2, 0.5, 0.6, 0.6]), ["flat loss"]),
        (run([1.0] + [0.7] * 29, [0.5] * 4), ["flat loss"]),
        (run(FALLING, [0.1, 0.2, 0.3, 0.4, 0.5]), ["still improving"]),
        (run(FALLING, [0.1, 0.2, 0.3, 0.4, 0.35]), []),
        (run(FALLING, [0.6] * 5, waiting=0.6), ["starved"]),
        (run(FALLING, [0.6] * 5, highest=0.2), ["no score"]),
        (run(FALLING, [None] * 5), []),
        (run(FALLING, [0.03], highest=0.01), ["not learnt", "no score"]),
    ],
)
def test_findings(records, expected):
    assert kinds(records) == expected


def test_what_to_look_at_is_in_order_and_of_this_run():
    (finding,) = diagnose(run(curve=[0.014], epoch=2.0), ABOUT)
    causes = ["boxes that do not fit", "only 2.0 epochs", "a few pixels", "learning rate"]
    places = [finding.text.index(cause) for cause in causes]
    assert places == sorted(places)
    assert "pretrained" not in finding.text
    from_none = Circumstances(loads_weights=False, workers=0, score_threshold=0.3)
    (finding,) = diagnose(run(curve=[0.014]), from_none)
    assert "no pretrained weights" in finding.text
    assert "epochs" not in finding.text
    (finding,) = diagnose(run(FALLING, [0.1, 0.2, 0.3, 0.4, 0.5]), ABOUT)
    assert "--config my.yaml --resume --set train.iterations=1000" in finding.text
    (finding,) = diagnose(run(FALLING, [0.6] * 5, waiting=0.6), ABOUT)
    assert "60% of the time. Raise train.workers (now 2)" in finding.text


@given(
    st.lists(st.floats(0, 100), max_size=40),
    st.lists(st.none() | st.floats(0, 1), max_size=10),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_any_log_is_judged_and_each_finding_comes_once(losses, curve, highest, waiting):
    found = kinds(run(losses, curve, highest=highest, waiting=waiting))
    assert len(found) == len(set(found))
    last = curve[-1] if curve else None
    assert ("not learnt" in found) == (last is not None and last < 0.05)
    assert ("starved" in found) == (bool(losses) and waiting > 0.3)
