"""`detbalance refit`: from a checkpoint and annotations to another checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import sys

import numpy as np
import pytest
import torch
from squares import make_data, write_config
from torchvision.models.detection import RetinaNet

from detbalance.cli import main
from detbalance.cli.runs import train_run
from detbalance.data.files import lock_folder
from detbalance.repair import collecting
from detbalance.training import load_detector
from detbalance.training.checkpoint import load_checkpoint, save_checkpoint
from detbalance.training.config import load_config

pytest.importorskip("imblearn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A data set and a run on it."""
    folder = tmp_path_factory.mktemp("refit")
    data = make_data(folder / "data", images=20)
    config = load_config(write_config(data, folder), ["train.iterations=30"])
    train_run(config)
    return data, config.output


@pytest.fixture
def refit(run, tmp_path, capsys):
    """Run the command; gives its status, what it printed, and the folder."""
    data, output = run
    count = iter(range(100))

    def call(*extra, out=None, checkpoint=output / "last.pt"):
        folder = out or tmp_path / f"refit{next(count)}"
        words = ["refit", "--checkpoint", str(checkpoint)]
        words += ["--annotations", str(data / "train.json"), "--images", str(data / "images")]
        words += ["--output", str(folder), "--iterations", "15", *extra]
        with pytest.raises(SystemExit) as status:
            main(words)
        said = capsys.readouterr()
        return status.value.code, said.out + said.err, folder

    return call


def weights(path):
    return {k: v for k, v in load_checkpoint(path)["model"].items() if isinstance(v, torch.Tensor)}


def test_only_the_last_layer_is_another(run, refit):
    status, said, folder = refit()
    assert status == 0
    before, after = weights(run[1] / "last.pt"), weights(folder / "refit.pt")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        "head.classification_head.cls_logits.weight",
        "head.classification_head.cls_logits.bias",
    }
    about = json.loads((folder / "refit.json").read_text())
    assert about["method"] == "crt"
    assert about["chosen"] is not None
    assert about["regions"][1] > about["regions"][2] > 0
    assert f"{about['chosen']} " in said
    assert "<- taken" in said
    assert str(folder / "refit.pt") in said.replace("\n", "")


def test_the_checkpoint_is_one_like_any_other(run, refit, tmp_path, capsys):
    data, _ = run
    _, _, folder = refit("--method", "RandomOverSampler")
    model = load_detector(folder / "refit.pt")
    assert model.class_names == ["background", "red", "green"]
    plain = RetinaNet(
        model.backbone, 3, anchor_generator=model.anchor_generator, head=model.head
    ).eval()  # torchvision's own class takes all of it
    assert plain(torch.rand(1, 3, 64, 64)) is not None
    with pytest.raises(SystemExit) as status:
        main(["evaluate", "--checkpoint", str(folder / "refit.pt"), "--annotations",
              str(data / "train.json"), "--images", str(data / "images"),
              "--output", str(tmp_path / "e")])  # fmt: skip
    assert status.value.code == 0
    assert (tmp_path / "e" / "report.json").exists()


def test_methods_share_features_that_are_there(refit, tmp_path, monkeypatch):
    shared = ("--features", str(tmp_path / "features"))
    assert refit("--method", "SMOTE", "--param", "k_neighbors=2", *shared)[0] == 0
    looked = []
    monkeypatch.setattr(
        collecting, "_kept", lambda *a: looked.append(a) or pytest.fail("looked again")
    )
    status, _, folder = refit("--method", "lws", *shared)
    assert status == 0
    assert not looked
    assert json.loads((folder / "refit.json").read_text())["method"] == "lws"


def test_before_and_after_are_compared_on_val(run, refit):
    data, _ = run
    val = ("--val", str(data / "train.json"), "--val-images", str(data / "images"))
    status, said, folder = refit(*val)
    assert status == 0
    for name in ("predictions.json", "predictions_before.json", "comparison/comparison.json"):
        assert (folder / name).exists()
    assert re.search(r"No group lost more than 0\.02|This refit harms:", said)
    # What the detector found before need not be found again.
    known = folder / "predictions_before.json"
    _, again, other = refit(*val, "--before", str(known))
    assert not (other / "predictions_before.json").exists()
    compared = [json.loads((f / "comparison/comparison.json").read_text()) for f in (folder, other)]
    assert compared[0]["groups"] == compared[1]["groups"]
    assert again.splitlines()[-1] == said.splitlines()[-1]
    status, said, _ = refit("--before", str(known))
    assert status == 2
    assert "--val and --val-images are expected with it" in said.replace("\n", " ")
    # With the classifier turned off nothing is found any more, which must be said.
    state = load_checkpoint(folder / "refit.pt")
    state["model"]["head.classification_head.cls_logits.bias"].fill_(-30.0)
    save_checkpoint(folder / "dead.pt", state)
    _, said, _ = refit(*val, "--method", "tau", checkpoint=folder / "dead.pt")
    assert "No group lost more" in said


def test_a_refit_that_harms_says_so(run, refit, monkeypatch):
    data, _ = run
    module = sys.modules["detbalance.repair.refit"]

    real = module.refit

    def harmful(task, method):
        found = real(task, method)
        return type(found)(
            found.weight, found.bias - 30, found.chosen, found.held_out, found.regions
        )

    strong = refit("--iterations", "80")[2] / "refit.pt"
    monkeypatch.setattr(module, "refit", harmful)
    val = ("--val", str(data / "train.json"), "--val-images", str(data / "images"))
    status, said, _ = refit(*val, checkpoint=strong)
    assert status == 0
    assert re.search(r"This refit harms: .*(AP50|recall) [01]\.\d+ -> 0\.00.*limit 0\.02", said)


def test_a_loss_that_rebalances_by_itself_is_pointed_out(run, tmp_path, refit):
    config = load_config(
        write_config(run[0], tmp_path),
        ["train.iterations=3", "loss={name: balanced_sigmoid}", f"output={tmp_path / 'run'}"],
    )
    train_run(config)
    _, said, _ = refit(checkpoint=config.output / "last.pt")
    assert "trained with balanced_sigmoid" in said
    _, said, _ = refit("--param", "balance=0", checkpoint=config.output / "last.pt")
    assert "balanced_sigmoid" not in said
    _, said, _ = refit()
    assert "gain a second time" not in said


def test_interrupted_features_are_taken_up_again(refit, tmp_path, monkeypatch):
    whole = refit(out=tmp_path / "whole")[2]
    real = collecting._kept
    count = iter(range(1000))

    def interrupting(*args):
        if next(count) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(collecting, "_kept", interrupting)
    status, said, folder = refit(out=tmp_path / "f")
    assert status == 130
    assert "Run the same command to go on" in said
    assert not (folder / "refit.pt").exists()
    assert 0 < json.loads((folder / "features" / "state.json").read_text())["images"] < 20
    monkeypatch.setattr(collecting, "_kept", real)
    assert refit(out=tmp_path / "f")[0] == 0
    a, b = (weights(f / "refit.pt") for f in (whole, folder))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_classes_in_another_order_are_matched_by_name(run, refit, tmp_path):
    data, _ = run
    notes = json.loads((data / "train.json").read_text())
    swapped = {1: 2, 2: 1}
    for annotation in notes["annotations"]:
        annotation["category_id"] = swapped[annotation["category_id"]]
    notes["categories"] = [{"id": 1, "name": "green"}, {"id": 2, "name": "red"}]
    other = tmp_path / "swapped.json"
    other.write_text(json.dumps(notes))
    usual = refit()[2]
    mixed = refit("--annotations", str(other))[2]
    a, b = (weights(f / "refit.pt") for f in (usual, mixed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_classes_with_one_box_or_none_are_named(run, refit, tmp_path):
    data, _ = run
    notes = json.loads((data / "train.json").read_text())
    greens = [a for a in notes["annotations"] if a["category_id"] == 2]
    notes["annotations"] = [a for a in notes["annotations"] if a not in greens]
    none = tmp_path / "none.json"
    none.write_text(json.dumps(notes))
    status, said, folder = refit("--annotations", str(none), "--method", "SMOTE")
    assert status == 0
    assert "Classes with fewer than 10 regions: green 0" in said
    assert all(np.isfinite(v.numpy()).all() for v in weights(folder / "refit.pt").values())


def test_what_cannot_work_ends_in_one_line_before_any_work(run, refit, tmp_path):
    data, _ = run
    for extra, words in (
        (("--method", "smote"), r'the method is "smote"\. Known: .*Did you mean "SMOTE"\?'),
        (("--param", "k"), r'--param: "k" is not NAME=VALUE'),
        (("--val", "x.json"), r"--val, --val-images: one is missing"),
        (("--checkpoint", str(data / "train.json")), r"is no readable checkpoint"),
        (("--device", "cuda:77"), r'--device: "cuda:77" cannot be used here'),
        (("--images", str(tmp_path)), r"\.png"),
    ):
        status, said, folder = refit(*extra)
        assert status == 2, extra
        assert re.search(words, said), said
        assert "Traceback" not in said
        assert not (folder / "features").exists()
    notes = json.loads((data / "train.json").read_text())
    notes["categories"][0]["name"] = "blue"
    other = tmp_path / "blue.json"
    other.write_text(json.dumps(notes))
    for wrong in (
        ("--annotations", str(other)),
        ("--val", str(other), "--val-images", str(data / "images")),
    ):
        status, said, folder = refit(*wrong)
        assert status == 2
        assert re.search(r"unknown there \(first: \"blue\"\)", said), said
        assert not (folder / "features").exists()


def test_a_refit_that_is_there_is_not_replaced_by_accident(refit, tmp_path):
    refit(out=tmp_path / "f")
    status, said, _ = refit(out=tmp_path / "f")
    assert status == 2
    assert "already holds a refit" in said
    assert refit("--overwrite", "--method", "tau", out=tmp_path / "f")[0] == 0


def test_options_that_a_sampler_does_not_know_end_in_one_line(refit):
    status, said, _ = refit("--method", "SMOTE", "--param", "neighbours=3")
    assert status == 2
    assert "SMOTE does not take these options" in said


def test_two_refits_do_not_write_to_one_folder_nor_take_out_the_same_features(refit, tmp_path):
    for held, options in (
        (tmp_path / "one", {"out": tmp_path / "one"}),
        (tmp_path / "f", {"out": tmp_path / "two"}),
    ):
        with lock_folder(held):
            status, said, folder = refit("--features", str(tmp_path / "f"), **options)
        assert status == 2
        assert f"{held}: another run (process" in said
        assert not (folder / "refit.pt").exists()
    assert refit("--features", str(tmp_path / "f"))[0] == 0
    with lock_folder(tmp_path / "f"):  # what is all there is read by as many as like
        assert refit("--features", str(tmp_path / "f"))[0] == 0
