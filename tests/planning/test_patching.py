"""The recommended lines in an existing configuration."""

from __future__ import annotations

import json

import pytest
from commands import failing_command, run_command
from hypothesis import given
from hypothesis import strategies as st
from plans import coco, long_tail, write

from detbalance.planning.patching import patched

yaml = pytest.importorskip("yaml")

CONFIG = """\
# mine
output: runs/a  # where
sampling:
  # as in LVIS
  method: repeat_factor
  threshold: 0.001

# what is shown
augmentation:
  paste:
    probability: 0.1
  standard: {horizontal_flip: 0.0}
loss: {name: focal}
"""
BALANCED = {"method": "balanced_exposure", "strength": 0.5}


def test_the_rest_stays_byte_by_byte():
    new = patched(CONFIG, {"sampling": BALANCED, "augmentation": {"paste": {"probability": 0.1}}})
    assert new == CONFIG.replace(
        "  # as in LVIS\n  method: repeat_factor\n  threshold: 0.001\n",
        "  method: balanced_exposure\n  strength: 0.5\n",
    )


def test_paste_comes_and_goes_beside_what_else_is_set():
    without = patched(CONFIG, {"sampling": BALANCED})
    assert yaml.safe_load(without)["augmentation"] == {"standard": {"horizontal_flip": 0.0}}
    again = patched(
        without, {"sampling": BALANCED, "augmentation": {"paste": {"probability": 0.5}}}
    )
    assert yaml.safe_load(again)["augmentation"] == {
        "paste": {"probability": 0.5},
        "standard": {"horizontal_flip": 0.0},
    }
    for text in (without, again):
        assert text.startswith("# mine\noutput: runs/a  # where\n")
        assert "# what is shown\naugmentation:" in text
        assert text.endswith("loss: {name: focal}\n")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab: #-", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=2)
    ),
    max_leaves=4,
)
_SECTIONS = st.dictionaries(
    st.sampled_from(["output", "sampling", "loss", "train"]), _VALUES, min_size=1
)


@given(_SECTIONS, st.booleans(), st.booleans())
def test_the_new_text_says_what_was_asked_for_and_nothing_else(sections, flow, end):
    text = yaml.safe_dump(sections, sort_keys=False, default_flow_style=None if flow else False)
    if text.startswith("{"):
        with pytest.raises(ValueError, match="is not written section by section"):
            patched(text, {"sampling": BALANCED})
        return
    new = patched(text if end else text.rstrip("\n"), {"sampling": BALANCED})
    assert yaml.safe_load(new) == {**sections, "sampling": BALANCED}
    assert patched(new, {"sampling": BALANCED}) == new


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{sampling: {method: none}}", "is not written section by section"),
        ("- a", "holds no sections"),
        ("a: [", "is not YAML"),
        ("", "holds no sections"),
    ],
)
def test_what_is_no_configuration_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        patched(text, {"sampling": BALANCED})


def test_plan_writes_into_a_configuration_and_shows_what_changes(tmp_path, capsys):
    train = write(tmp_path / "train.json", coco(long_tail()))
    config = tmp_path / "my.yaml"
    config.write_text(CONFIG)
    status, out, _ = run_command(capsys, "plan", train, "--write", config)
    assert status == 0
    assert "-  threshold: 0.001" in out
    written = yaml.safe_load(config.read_text())
    status, text, _ = run_command(capsys, "plan", train, "--json")
    advice = json.loads(text)["recommendation"]["config"]
    assert written["sampling"] == advice["sampling"]
    assert written["augmentation"].get("paste") == advice.get("augmentation", {}).get("paste")
    _, out, _ = run_command(capsys, "plan", train, "--write", config)
    assert "says so already" in out
    assert "nowhere.yaml cannot be read" in failing_command(
        capsys, "plan", train, "--write", tmp_path / "nowhere.yaml"
    )
    config.write_text("- a")
    assert "holds no sections" in failing_command(capsys, "plan", train, "--write", config)
    assert config.read_text() == "- a"


def test_every_setting_has_a_line_for_the_configuration(tmp_path, capsys):
    train = write(tmp_path / "train.json", coco(long_tail()))
    _, text, _ = run_command(capsys, "plan", train, "--json")
    plan = json.loads(text)
    _, out, _ = run_command(capsys, "plan", train)
    lines = [line.strip() for line in out.splitlines() if line.startswith("  sampling: {")]
    settings = {s["name"]: s["config"] for s in plan["settings"]}
    del settings[plan["recommendation"]["setting"]]
    assert {
        line.rpartition("  # ")[2]: yaml.safe_load(line)["sampling"] for line in lines
    } == settings
