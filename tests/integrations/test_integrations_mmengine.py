"""The recipe for MMEngine, as a config file that its Runner trains by."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from recipes import LABELS, THRESHOLD, drawn, on_two_processes, recipe_text

mmengine = pytest.importorskip("mmengine", reason="pip install mmengine-lite")
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import BaseDataset, ConcatDataset  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.registry import DATA_SAMPLERS, DATASETS, MODELS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from detbalance.sampling import oversampling_factors, repeat_factors  # noqa: E402

# A second runner in the same second finds the logger of the first; and the variable set below.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*instance named of:UserWarning", "ignore:Environment variable TORCH_FORCE:UserWarning"
)
FACTORS = repeat_factors(LABELS, threshold=THRESHOLD)
EPOCH = len(drawn(0, FACTORS))
STREAM = [image for epoch in range(4) for image in drawn(epoch, FACTORS)]


@DATASETS.register_module()
class Boxes(BaseDataset):
    """Images of known labels, 0-based as MMDetection has them; one more box is ignored."""

    def load_data_list(self):
        ignored = [{"bbox_label": 1, "ignore_flag": 1}]
        boxes = [[{"bbox_label": label - 1} for label in labels] for labels in LABELS]
        boxes[0] += ignored
        return [{"img_id": i, "instances": some} for i, some in enumerate(boxes)]

    def prepare_data(self, index):
        return {"inputs": torch.ones(1), "index": index}


@MODELS.register_module()
class Counting(BaseModel):
    """Notes the images that it is trained with."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def forward(self, inputs, index, mode="loss"):
        self.seen.append(index)
        return {"loss": self.layer(torch.stack(inputs)).mean()}


BASE = """
model = {"type": "Counting"}
optim_wrapper = {"optimizer": {"type": "SGD", "lr": 0.1}}
randomness = {"seed": 0}
log_level = "ERROR"
default_scope = None
train_dataloader = {
    "batch_size": 2,
    "num_workers": 0,
    "dataset": {"type": "Boxes"},
    "sampler": {"type": "DefaultSampler", "shuffle": True},
}
"""


def run(folder, loop, checkpoint=None, **more):
    """The images of each step of a runner that is made from the recipe."""
    (folder / "base.py").write_text(BASE)
    text = recipe_text("MMEngine").replace("0.3", str(THRESHOLD))
    (folder / "config.py").write_text('_base_ = "base.py"\n' + text)
    config = Config.fromfile(folder / "config.py")
    by_epoch = "max_epochs" in loop
    config.train_dataloader.sampler.infinite = not by_epoch
    config.train_cfg = {"by_epoch": by_epoch, **loop}
    saving = {"type": "CheckpointHook", "interval": 1, "by_epoch": by_epoch}
    config.default_hooks = {"checkpoint": saving}
    config.merge_from_dict({"work_dir": str(folder), **more})
    if checkpoint:
        config.merge_from_dict({"resume": True, "load_from": str(folder / checkpoint)})
    runner = Runner.from_cfg(config)
    model = runner.train()
    return getattr(model, "module", model).seen


def run_as_one_of_two(folder):
    # By itself MMEngine would ask for a GPU.
    torch.distributed.init_process_group("gloo")
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None}
    folder = folder / str(torch.distributed.get_rank())
    folder.mkdir()
    more = {"launcher": "pytorch", "model_wrapper_cfg": wrapper}
    return run(folder, {"max_iters": 9}, **more)


@pytest.fixture(autouse=True)
def own_checkpoints(monkeypatch):
    # MMEngine 0.10.7 reads its checkpoints as torch did by default before 2.6.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def test_recipe_draws_a_stream_without_end_and_goes_on_in_it(tmp_path):
    seen = run(tmp_path, {"max_iters": 14})
    assert seen == [STREAM[i : i + 2] for i in range(0, 28, 2)]
    assert Counter(STREAM[:EPOCH])[4] == FACTORS[4].round() >= 2
    assert run(tmp_path, {"max_iters": 14}, "iter_9.pth") == seen[9:]


def test_recipe_draws_every_epoch_anew_and_goes_on_at_an_epoch(tmp_path):
    seen = run(tmp_path, {"max_epochs": 3})
    assert [image for batch in seen for image in batch] == STREAM[: 3 * EPOCH]
    assert drawn(0, FACTORS) != drawn(1, FACTORS)
    assert run(tmp_path, {"max_epochs": 3}, "epoch_1.pth") == seen[len(seen) // 3 :]


def test_sampler_reads_concatenated_data_and_takes_other_methods():
    options = {"type": "DetbalanceSampler", "method": "oversampling", "seed": None}
    data = ConcatDataset([Boxes(), Boxes()])  # has no get_cat_ids()
    sampler = DATA_SAMPLERS.build(options, default_args={"dataset": data})
    assert sampler.repeat_factors.tolist() == oversampling_factors(LABELS + LABELS).tolist()


def test_recipe_shares_the_stream_between_two_processes(tmp_path):
    ranks = on_two_processes(run_as_one_of_two, tmp_path)
    draws = [zip(*step, strict=True) for step in zip(*ranks, strict=True)]
    assert [image for step in draws for draw in step for image in draw] == STREAM[:36]
