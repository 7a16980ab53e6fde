"""The recipe for Lightning, against its Trainer."""

from __future__ import annotations

import pytest
import torch
from recipes import FACTORS, Indices, batches, on_two_processes, recipe

lightning = pytest.importorskip("pytorch_lightning", reason="pip install pytorch-lightning")
from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402

# Of Lightning 2.6 with this torch; and that a resumed run writes where the first one wrote.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:Checkpoint directory .* exists"
)
WHOLE = [batch for epoch in range(3) for batch in batches(epoch)]


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_index):
        self.seen.append((self.current_epoch, batch_index, batch.tolist()))
        return self.layer(batch[:, None].float()).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder, devices=1, checkpoint=None, workers=0):
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"accelerator": "cpu", "devices": devices, "max_epochs": 3, "logger": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    names = {"factors": FACTORS, "dataset": Indices(), "batch_size": 2}
    names |= {"options": {**options, "callbacks": [every_step], "default_root_dir": folder}}
    names |= {"LightningDataModule": lightning.LightningDataModule, "Trainer": lightning.Trainer}
    exec(recipe("Lightning"), names)
    model, data = Model(), names["Data"]()
    if workers:
        made = data.train_dataloader
        data.train_dataloader = lambda: with_workers(made(), workers)
    path = checkpoint and f"{folder}/step={checkpoint}.ckpt"
    names["trainer"].fit(model, datamodule=data, ckpt_path=path)
    return model.seen


def with_workers(loader, workers):
    return type(loader)(loader.dataset, loader.batch_sampler, num_workers=workers)


def runs(folder):
    return run(folder, 2), run(folder, 2, 4)


@pytest.mark.parametrize("workers", [0, 1])
def test_recipe_draws_the_stream_and_goes_on_where_it_stopped(tmp_path, workers):
    whole = run(tmp_path, workers=workers)
    assert whole == [(*divmod(number, 6), batch) for number, batch in enumerate(WHOLE)]
    assert batches(0) != batches(1)
    for step in (1, 6, 8):
        assert run(tmp_path, checkpoint=step, workers=workers) == whole[step:]


def test_recipe_shares_the_stream_between_two_processes(tmp_path):
    for rank, (whole, left) in enumerate(on_two_processes(runs, tmp_path)):
        assert [batch for _, _, batch in whole] == WHOLE[rank::2]
        assert left == whole[4:]
