"""The recipe for the Hugging Face Trainer, with a small YOLOS on random weights."""

from __future__ import annotations

import pytest
import torch
from recipes import FACTORS, drawn, on_two_processes, recipe
from torch.utils.data import Dataset

transformers = pytest.importorskip("transformers", reason="pip install transformers")

WHOLE = [drawn(epoch)[i : i + 2] for epoch in range(3) for i in range(0, 12, 2)]


class Images(Dataset):
    def __len__(self):
        return len(FACTORS)

    def __getitem__(self, index):
        box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
        target = {"class_labels": torch.tensor([index % 2]), "boxes": box, "image_id": index}
        return {"pixel_values": torch.full((3, 32, 32), index / 10), "labels": target}


def collate(items):
    pixels = torch.stack([item["pixel_values"] for item in items])
    return {"pixel_values": pixels, "labels": [item["labels"] for item in items]}


def tiny_detector():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "image_size": [32, 32], "patch_size": 16}
    torch.manual_seed(0)
    return transformers.YolosForObjectDetection(
        transformers.YolosConfig(**sizes, num_detection_tokens=5, num_labels=2)
    )


class Recording(transformers.Trainer):
    """Notes the images of each training step."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.append([target["image_id"] for target in inputs["labels"]])
        return super().training_step(model, inputs, *args, **kwargs)


def run(folder, checkpoint=None):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        num_train_epochs=3,
        save_steps=1,
        use_cpu=True,
        seed=0,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    options = {"model": tiny_detector(), "args": arguments, "train_dataset": Images()}
    names = {"factors": FACTORS, "options": {**options, "data_collator": collate}}
    names |= {"Trainer": Recording, "TrainerCallback": transformers.TrainerCallback}
    exec(recipe("Hugging Face"), names)
    trainer = names["trainer"]
    trainer.seen = []
    trainer.train(resume_from_checkpoint=checkpoint and f"{folder}/checkpoint-{checkpoint}")
    assert trainer.state.global_step == (18 if trainer.args.world_size == 1 else 9)
    return trainer.seen


def runs(folder):
    return run(folder), run(folder, 4)


def test_recipe_draws_the_stream_and_goes_on_where_it_stopped(tmp_path):
    assert run(tmp_path) == WHOLE
    assert drawn(0) != drawn(1)
    for step in (8, 12):
        assert run(tmp_path, step) == WHOLE[step:]


def test_recipe_shares_the_stream_between_two_processes(tmp_path):
    for rank, (whole, left) in enumerate(on_two_processes(runs, tmp_path)):
        assert whole == WHOLE[rank::2]
        assert left == whole[4:]
