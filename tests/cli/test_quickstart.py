"""`detbalance quickstart`: what is in its folder stays, unless asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from detbalance.cli import quickstart as module

pytest.importorskip("sklearn")
runs = pytest.importorskip("detbalance.cli.runs")


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """The command without data, training and pictures; gives how each run was asked to train."""
    calls = []

    def train(config, *, resume, overwrite):
        calls.append((config.output.name, resume, overwrite))
        config.output.mkdir(parents=True, exist_ok=True)
        (config.output / "config.yaml").write_text(config.to_yaml())
        (config.output / "metrics.jsonl").write_text(
            f'{{"iteration": {config.train.iterations}, "val": {{}}}}\n'
        )
        return "report"

    def data(root, *, seed, overwrite):
        for part in ("train", "val"):
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / f"{part}.json").write_text("{}")
        return SimpleNamespace(
            train=root / "train.json", val=root / "val.json", val_images_dir=root / "val"
        )

    monkeypatch.setattr(runs, "train_run", train)
    monkeypatch.setattr(module, "make_digits", data)
    # Far enough: what comes then reads what the two runs have left.
    monkeypatch.setattr(module, "load_annotations", lambda file: (_ for _ in ()).throw(Done))

    def call(output=tmp_path / "q", *overrides, overwrite=False):
        calls.clear()
        config = Path(__file__).parents[2] / "configs/digits.yaml"
        with pytest.raises(Done):
            module.quickstart_command.callback(
                output=output, config=config, seed=0, overrides=overrides, overwrite=overwrite
            )
        return list(calls)

    return call


class Done(Exception):
    """Both runs are there."""


def test_finished_runs_stay_and_are_trained_again_only_when_asked(quickstart):
    fresh = [("plain", False, False), ("balanced", False, False)]
    assert quickstart() == fresh
    assert quickstart() == []
    assert quickstart(overwrite=True) == [(name, False, True) for name, _, _ in fresh]


def test_a_run_that_was_stopped_goes_on_and_another_run_is_not_replaced(quickstart, tmp_path):
    quickstart()
    (tmp_path / "q" / "balanced" / "metrics.jsonl").write_text("")
    assert quickstart() == [("balanced", True, False)]
    # Training itself refuses these, as neither resume nor overwrite is asked for.
    again = quickstart(tmp_path / "q", "train.iterations=7")
    assert again == [("plain", False, False), ("balanced", False, False)]


def test_pictures_and_comparisons_of_others_stay(quickstart, tmp_path):
    for name in ("predictions.png", "comparison/comparison.csv"):
        mine = tmp_path / name.replace("/", "-") / name
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        with pytest.raises(
            ValueError, match=r"is there already, and its runs are not.*--overwrite"
        ):
            quickstart(tmp_path / name.replace("/", "-"))
        assert mine.read_text() == "mine"
