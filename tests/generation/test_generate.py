"""`detbalance generate`: the folder that it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from generated_sets import write_set

from detbalance.augmentation import DonorBank
from detbalance.cli import main
from detbalance.data.images import read_image

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

from detbalance.generation import (  # noqa: E402
    ClassResult,
    Settings,
    Stopped,
    drawing,
    generate,
    output_folder,
)
from detbalance.generation.quality import Kid  # noqa: E402

steps = sys.modules["detbalance.generation.generate"]

QUICK = {"iterations": 2, "judge_steps": 1, "per_class": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and wait long where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def own_features():
    """KID by the judges' features, as where no pretrained network is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "pretrained_features", lambda: None)
        yield


def be_lenient(patch):
    """Let pass what a network draws that has hardly learned anything."""
    patch.setattr(drawing.CropFilter, "_is_nonsense", no_crop)
    patch.setattr(drawing.CropFilter, "is_repeat", lambda self, image: False)
    patch.setattr(steps, "LEAST_TOLD", -1.0)


def no_crop(self, probabilities):
    return torch.zeros(len(probabilities), dtype=torch.bool)


def every_crop(self, probabilities):
    return torch.ones(len(probabilities), dtype=torch.bool)


@pytest.fixture
def lenient(monkeypatch):
    be_lenient(monkeypatch)


@pytest.fixture(scope="module")
def whole(annotations, folder, tmp_path_factory):
    """A run with the seed 0, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        be_lenient(patch)
        return run(annotations, folder, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("set")


@pytest.fixture(scope="module")
def annotations(folder):
    return write_set(folder, (24, 24, 8), names=("disc", "cross/plus", "stripes"))


CLASSES = ("disc", "cross/plus", "stripes")


def files_of(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def run(annotations, folder, output, **change):
    options = {name: change.pop(name) for name in list(change) if name not in QUICK_NAMES}
    return generate(
        annotations, folder, output, Settings(classes=CLASSES, **{**QUICK, **change}), **options
    )


QUICK_NAMES = set(Settings.__dataclass_fields__)


def test_the_folder_is_a_source_of_donors(annotations, folder, whole):
    output = whole.output
    assert output.name == "out"
    assert sorted(p.name for p in output.parent.iterdir()) == ["out"]  # nothing temporary is left
    index = json.loads((output / "donors.json").read_text())
    assert index["format"] == "detbalance.donors/1"
    assert {p.name for p in output.iterdir()} == {
        "donors.json", "contact_sheet.png", "disc", "cross_plus",
    }  # fmt: skip

    provenance = index["provenance"]
    assert provenance["annotations"] == annotations.source
    assert len(provenance["annotations_sha256"]) == 64
    assert provenance["settings"]["iterations"] == 2
    by_name = {row["name"]: row for row in provenance["classes"]}
    assert by_name["stripes"]["left_out"] == "8 donors, fewer than 20"
    assert by_name["disc"]["donors"] == 24
    for row in by_name.values():
        outcomes = ("kept", "copies", "repeats", "nonsense")
        assert row["made"] == sum(row[outcome] for outcome in outcomes)

    of_class = {"disc": 1, "cross/plus": 2}
    for crop in index["crops"]:
        pixels = read_image(output / crop["file"])
        left, top, right, bottom = crop["box"]
        assert 0 < left < right < pixels.shape[1]
        assert 0 < top < bottom < pixels.shape[0]
        assert 15 <= right - left <= 25  # as wide as a real one, in whole pixels
        row = np.flatnonzero(annotations.annotation_ids == crop["nearest_annotation_id"])[0]
        assert annotations.labels[row] == of_class[crop["class"]]
        assert crop["distance"] >= 1
        assert 0 <= crop["confidence"] <= 1

    bank = DonorBank(annotations, folder, folders=(str(output),), classes=list(CLASSES))
    plain = DonorBank(annotations, folder, classes=list(CLASSES))
    assert len(bank) == len(plain) + len(index["crops"])


def test_a_stopped_run_gives_the_files_of_one_that_was_not(
    annotations, folder, tmp_path, whole, lenient
):
    with pytest.raises(Stopped, match=r"iteration 1 of 2; --resume"):
        run(annotations, folder, tmp_path / "out", should_stop=lambda: True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"had other settings.*leave --resume out"):
        run(annotations, folder, tmp_path / "out", resume=True, seed=4)
    run(annotations, folder, tmp_path / "out", resume=True)
    expected, found = files_of(whole.output), files_of(tmp_path / "out")
    pictures = {name for name in expected if name.endswith(".png")}
    assert len(pictures) > 10
    assert set(expected) == set(found)
    assert {name for name in pictures if expected[name] != found[name]} == set()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_nothing_to_resume_is_said(annotations, folder, tmp_path):
    with pytest.raises(ValueError, match="there is nothing to resume"):
        run(annotations, folder, tmp_path / "out", resume=True)


def test_if_nothing_passes_nothing_is_written(annotations, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing.CropFilter, "_is_nonsense", every_crop)
    monkeypatch.setattr(steps, "LEAST_TOLD", -1.0)
    result = run(annotations, folder, tmp_path / "out")
    assert result.output is None
    by_name = {row.name: row for row in result.classes}
    assert by_name["disc"].left_out == "0 of 160 crops passed the checks"
    assert (by_name["disc"].made, by_name["disc"].nonsense) == (160, 160)
    assert list(tmp_path.iterdir()) == []


def test_judges_that_tell_nothing_are_not_asked(annotations, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing.CropFilter, "_is_nonsense", no_crop)
    result = run(annotations, folder, tmp_path / "out")
    assert result.output is None
    disc = next(row for row in result.classes if row.name == "disc")
    assert disc.left_out.startswith("100% of unseen donors and 100% of places without objects pass")
    assert disc.made == 0


def full_disk(*arguments):
    raise OSError("disk full")


def test_a_folder_is_replaced_only_when_asked_and_only_at_the_end(
    annotations, folder, tmp_path, whole, lenient, monkeypatch
):
    output = tmp_path / "out"
    shutil.copytree(whole.output, output)
    before = files_of(output)
    with pytest.raises(ValueError, match=r"already holds generated donors.*--overwrite"):
        run(annotations, folder, output, seed=5)
    with monkeypatch.context() as broken:
        broken.setattr(output_folder, "write_index", full_disk)
        with pytest.raises(OSError, match="disk full"):
            run(annotations, folder, output, seed=5, overwrite=True)
    assert files_of(output) == before
    run(annotations, folder, output, seed=5, overwrite=True)
    assert files_of(output)["disc/000001.png"] != before["disc/000001.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_never_touched(annotations, folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no folder of generated donors"):
        run(annotations, folder, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_bi_level_images_give_bi_level_crops(tmp_path, lenient):
    annotations = write_set(tmp_path, (21,), bi_level=True, names=("disc",))
    settings = Settings(classes=("disc",), **QUICK)
    generate(annotations, tmp_path, tmp_path / "out", settings)
    crops = [read_image(path) for path in (tmp_path / "out/disc").iterdir()]
    assert len(crops) > 5
    assert {int(v) for crop in crops for v in np.unique(crop)} == {0, 255}


def test_command_says_what_came_of_it(annotations, folder, tmp_path, lenient, capsys):
    arguments = ["generate", "--annotations", annotations.source, "--images", str(folder)]
    arguments += ["--output", str(tmp_path / "out"), "--iterations", "2", "--per-class", "4"]
    arguments += ["--classes", "disc", "--classes", "stripes", "--device", "cpu"]
    original = Settings.__dataclass_fields__["judge_steps"].default
    Settings.__init__.__kwdefaults__["judge_steps"] = 2
    try:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    finally:
        Settings.__init__.__kwdefaults__["judge_steps"] = original
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "stripes: left out, 8 donors, fewer than 20." in shown
    assert "Shown in training as well: cross/plus." in shown
    assert "the figure flatters it" in shown
    assert f"Written: {tmp_path / 'out'}" in shown


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((0.5, 0.1, 4.1, 0.3), "halves of so few donors may be from each other (KID 0.100 +- 0.6"),
        ((1.1, 0.1, 4.1, 0.3), "are 25% of the way from real ones to places without objects."),
        ((4.2, 0.1, 4.1, 0.3), "no nearer to real ones than places without objects."),
        ((4.2, 0.1, 0.0, 0.3), "KID cannot be told from that of the background."),
    ],
)
def test_what_kid_says_in_words(figures, words):
    from detbalance.cli.generate import _verdict

    assert words in _verdict(ClassResult(name="disc", donors=30, kid=Kid(*figures)))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--classes", "stripes"], "none of the 1 class to generate has 20 donors"),
        (["--classes", "discs"], 'no class is called "discs"'),
        (["--device", "abacus"], '--device: "abacus" cannot be used'),
        (["--images", "/nowhere"], "--images: /nowhere is no folder"),
        (["--size", "33"], "33"),
    ],
)
def test_command_ends_in_one_line(annotations, folder, tmp_path, capsys, extra, message):
    arguments = ["generate", "--annotations", annotations.source, "--images", str(folder)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--output", str(tmp_path / "out"), *extra])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
