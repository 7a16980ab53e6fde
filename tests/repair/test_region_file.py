"""Region features on disk: only what was written, and all of it, is read or gone on with."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from detectors import BUILDERS

from detbalance.detection.heads import set_classification_loss
from detbalance.repair.classifier import classifier_of
from detbalance.repair.region_features import REGION, FeatureWriter, RegionFeatures, read_samples


def stopped_pass(folder, count=10, width=4):
    """A folder with the features of some images, and what they were made from."""
    regions = np.zeros(count, REGION)
    FeatureWriter(folder, width, {"weights": "x"}).append(
        np.ones((count, width), np.float16), regions, images=5
    )
    return folder, {"weights": "x"}


@pytest.mark.parametrize("name", ["features.f16", "regions.bin"])
@pytest.mark.parametrize("left", [None, 0, 0.5])
def test_features_that_lost_their_end_are_not_gone_on_with(tmp_path, name, left):
    folder, source = stopped_pass(tmp_path / "f")
    file = folder / name
    if left is None:
        file.unlink()
    else:
        os.truncate(file, int(left * file.stat().st_size))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for again in (lambda: FeatureWriter(folder, 4, source), lambda: RegionFeatures(folder)):
        with pytest.raises(ValueError, match=rf"{name}: has \d+ bytes, .*Delete the folder"):
            again()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_a_killed_pass_wrote_beyond_its_state_is_dropped(tmp_path):
    folder, source = stopped_pass(tmp_path / "f")
    for name in ("features.f16", "regions.bin"):
        with (folder / name).open("ab") as file:
            file.write(b"half an image")
    assert len(RegionFeatures(folder)) == 10
    writer = FeatureWriter(folder, 4, source)
    writer.append(np.full((1, 4), 2, np.float16), np.zeros(1, REGION), images=1)
    found = RegionFeatures(folder)
    assert found.features[:, 0].tolist() == [1.0] * 10 + [2.0]


STATE_FAULTS = [
    *[(key, value) for key in ("width", "images", "regions")
      for value in (None, "4", 4.5, -1, True, [], {}, 10**30)],
    ("width", 0), ("regions", 11), ("notes", []), ("notes", None), ("notes", {"not_finite": "1"}),
    ("source", None), ("source", "x"), ("source", []), ("format", "detbalance.regions/9"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), STATE_FAULTS)
def test_a_state_with_wrong_content_is_told_in_our_words(tmp_path, key, value):
    folder, source = stopped_pass(tmp_path / "f")
    state = json.loads((folder / "state.json").read_text())
    for changed in ({**state, key: value}, {k: v for k, v in state.items() if k != key}):
        (folder / "state.json").write_text(json.dumps(changed))
        if changed.get("images") == 10**30:  # more images than there are say nothing false yet
            continue
        for again in (lambda: FeatureWriter(folder, 4, source), lambda: RegionFeatures(folder)):
            with pytest.raises(ValueError, match="Delete the folder") as error:
                again()
            assert str(folder) in str(error.value)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "1", '"x"', "[" * 10**5, "{}", "\udcff"])
def test_a_state_that_is_none_is_told_in_our_words(tmp_path, text):
    folder, _ = stopped_pass(tmp_path / "f")
    (folder / "state.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"Region features written by this .*Delete the folder"):
        RegionFeatures(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("image", -1), ("row", -2), ("label", -1), ("slot", -1), ("weight", np.nan),
     ("weight", -1), ("box", np.inf)],
)  # fmt: skip
def test_records_that_no_writer_wrote_are_refused(tmp_path, field, value):
    folder, _ = stopped_pass(tmp_path / "f")
    regions = np.fromfile(folder / "regions.bin", REGION)
    regions[3][field] = value
    regions.tofile(folder / "regions.bin")
    with pytest.raises(ValueError, match=r"1 of 10 records are damaged \(first: record 3\)"):
        RegionFeatures(folder)


@pytest.mark.parametrize(("field", "value"), [("label", 7), ("slot", 9)])
def test_regions_of_another_classifier_are_refused(tmp_path, field, value):
    classifier = classifier_of(set_classification_loss(BUILDERS["fasterrcnn"](), None))
    width = classifier.weights()[0].shape[2]
    folder, _ = stopped_pass(tmp_path / "f", width=width)
    read_samples(RegionFeatures(folder), classifier)
    regions = np.fromfile(folder / "regions.bin", REGION)
    regions[0][field] = value
    regions.tofile(folder / "regions.bin")
    with pytest.raises(ValueError, match=f"{value + 1} {field.replace('label', 'classe')}s"):
        read_samples(RegionFeatures(folder), classifier)
    narrow, _ = stopped_pass(tmp_path / "g", width=width - 1)
    with pytest.raises(ValueError, match=f"{width - 1} features, the detector has {width}"):
        read_samples(RegionFeatures(narrow), classifier)
