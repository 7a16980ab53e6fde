"""The recipe for Ultralytics, which is AGPL-3.0: nothing here needs it, and it runs only if asked.

`DETBALANCE_TEST_ULTRALYTICS=1 python -m pytest tests/test_integrations_ultralytics.py`, where
`ultralytics` is installed by yourself.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipes import LABELS, THRESHOLD, recipe

from detbalance.sampling import RepeatFactorSampler, repeat_factors

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("DETBALANCE_TEST_ULTRALYTICS"),
        reason="ultralytics is AGPL-3.0: runs where it is installed and "
        "DETBALANCE_TEST_ULTRALYTICS is set",
    ),
    # What it and its dependencies warn of is its own affair.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    for name, value in {"OFFLINE": "true", "AUTOINSTALL": "false", "CONFIG_DIR": tmp_path}.items():
        monkeypatch.setenv(f"YOLO_{name}", str(value))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for index, labels in enumerate(LABELS):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{index}.png")
        rows = [f"{label - 1} .5 .5 .{i + 3} .4\n" for i, label in enumerate(labels)]
        (tmp_path / f"labels/{index}.txt").write_text("".join(rows))
    path = tmp_path / "data.yaml"
    path.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [one, two]\n")
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_recipe_draws_the_stream_over_all_epochs(data, workers):
    ultralytics = pytest.importorskip("ultralytics", reason="install it yourself: AGPL-3.0")
    from ultralytics.models.yolo.detect import DetectionTrainer

    names = {"DetectionTrainer": DetectionTrainer}
    exec(recipe("Ultralytics", threshold=str(THRESHOLD)), names)
    seen = []

    class Recording(names["BalancedTrainer"]):
        def get_dataloader(self, *args, **kwargs):
            self.args.workers = workers  # Ultralytics takes none on a CPU
            return super().get_dataloader(*args, **kwargs)

        def preprocess_batch(self, batch):
            seen.extend(int(Path(file).stem) for file in batch["im_file"])
            return super().preprocess_batch(batch)

    options = {"epochs": 4, "imgsz": 64, "batch": 2, "device": "cpu", "seed": 3, "close_mosaic": 1}
    quick = {"plots": False, "val": False, "save": False, "pretrained": False, "amp": False}
    model = ultralytics.YOLO("yolo11n.yaml")
    model.train(trainer=Recording, data=data, project=str(data.parent), **options, **quick)

    factors = repeat_factors(LABELS, threshold=THRESHOLD)
    sampler = RepeatFactorSampler(factors, seed=3, infinite=True)
    draws = 2 * -(-len(sampler) // 2)
    assert seen[: 3 * draws] == list(islice(sampler, 3 * draws))
    # Ultralytics makes a new loader for the last epoch, without mosaic.
    sampler.set_epoch(3)
    assert seen[3 * draws :] == list(islice(sampler, draws))
