"""Balanced bags, and the members of an ensemble as ordinary runs."""

from __future__ import annotations

import json
import subprocess
import time

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from squares import make_data, write_config

from detbalance.calibration.fusion_members import bag_shares, balanced_bags
from detbalance.cli import bag as bag_module
from detbalance.cli import main
from detbalance.data import load_annotations
from detbalance.training.checkpoint import load_checkpoint
from detbalance.training.config import load_config


def notes_of(tmp_path, images):
    """Annotations with the given labels in each image; a negative label is a crowd box."""
    box = {"bbox": [0, 0, 5, 5], "area": 25}
    document = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in range(len(images))
        ],
        "categories": [{"id": c, "name": f"class {c}"} for c in (1, 2, 3)],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "category_id": abs(c), "iscrowd": int(c < 0)} | box
            for i, labels in enumerate(images)
            for j, c in enumerate(labels)
        ],
    }
    (tmp_path / "notes.json").write_text(json.dumps(document))
    return load_annotations(tmp_path / "notes.json")


@given(
    images=st.lists(st.lists(st.sampled_from([1, 1, 1, 2, 3, -1]), max_size=3), min_size=1),
    target=st.integers(1, 6),
    seed=st.integers(0, 5),
)
@settings(max_examples=60)
def test_bags_hold_all_rare_images_and_the_rest_by_its_share(
    tmp_path_factory, images, target, seed
):
    notes = notes_of(tmp_path_factory.mktemp("bags"), images)
    counts = {c: sum(labels.count(c) for labels in images) for c in (1, 2, 3)}
    if not any(counts.values()):
        with pytest.raises(ValueError, match="has no boxes to balance"):
            bag_shares(notes, target)
        return
    shares = bag_shares(notes, target)
    for share, labels in zip(shares, images, strict=True):
        own = [min(1.0, target / counts[c]) for c in labels if c > 0]
        if own:
            assert share == pytest.approx(max(own))
    bags = balanced_bags(notes, 4, target=target, seed=seed)
    for rows in bags:
        assert (np.diff(rows) > 0).all()
        assert set(np.flatnonzero(shares == 1)) <= set(rows)
        assert abs(len(rows) - shares.sum()) < 1 + 1e-6
    again = balanced_bags(notes, 2, target=target, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(bags, again, strict=False))


def test_images_are_drawn_with_their_share_and_bags_differ(tmp_path):
    notes = notes_of(tmp_path, [[1]] * 60 + [[1, 2]] * 15 + [[3]] * 3 + [[]] * 22)
    shares = bag_shares(notes, 6)
    assert shares[0] == 6 / 75
    assert shares[60] == 6 / 15
    assert shares[75] == 1
    # Images without boxes come along like the average of the others.
    assert shares[80] == pytest.approx(shares[:78].mean())
    bags = balanced_bags(notes, 3000, target=6)
    found = np.zeros(100)
    for rows in bags:
        found[rows] += 1
    error = np.sqrt(shares * (1 - shares) / len(bags))
    assert (abs(found / len(bags) - shares) <= 4.5 * error + 1e-9).all()
    assert len({rows.tobytes() for rows in bags}) > 2900


def test_by_default_bags_meet_in_the_middle_of_rare_and_frequent(tmp_path):
    notes = notes_of(tmp_path, [[1]] * 100 + [[2]] * 4)
    assert bag_shares(notes)[[0, 100]].tolist() == [0.2, 1.0]
    with pytest.raises(ValueError, match=r"target is 0\. Expected a number >= 1\. It is the boxes"):
        bag_shares(notes, 0)


def in_this_process(*words):
    """What the process of a member does, without the seconds that a new one takes to start."""
    with pytest.raises(SystemExit) as status:
        main(words)
    return status.value.code


@pytest.fixture
def bag(tmp_path, capfd, monkeypatch):
    """Run the command on the squares; gives its status, what it printed, and the folder."""
    monkeypatch.setattr(bag_module, "_run", in_this_process)
    data = make_data(tmp_path / "data", images=20)
    config = write_config(data, tmp_path)

    def call(*extra):
        words = ["bag", "--config", str(config), "--output", str(tmp_path / "bag")]
        with pytest.raises(SystemExit) as status:
            main([*words, "--set", "train.iterations=2", *extra])
        said = capfd.readouterr()
        return status.value.code, said.out + said.err, tmp_path / "bag"

    return call


def test_members_are_ordinary_runs_and_fuse_takes_them(bag, capfd, monkeypatch):
    monkeypatch.undo()  # in processes of their own
    status, said, folder = bag("--members", "2")
    assert status == 0, said
    for member in range(2):
        config = load_config(folder / f"member-{member}.yaml")
        assert config.seed == member
        assert config.output == folder / f"member-{member}"
        notes = load_annotations(config.data.path("train"))
        assert np.bincount(notes.labels, minlength=3)[2] == 4  # all of the rare class
        assert 4 + 7 <= notes.num_images <= 4 + 9  # 8 of 16 frequent ones
        assert (config.output / "report.json").exists()
    command = said[said.index("detbalance fuse") :].splitlines()[0].split()[1:]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    assert (folder / "fused.json").exists()
    # What is finished is not trained again, and a member that was lost comes back alone.
    kept = (folder / "member-0" / "last.pt").stat().st_mtime_ns
    (folder / "member-1" / "metrics.jsonl").unlink()
    (folder / "member-1" / "last.pt").unlink()
    assert bag("--members", "2")[0] == 0
    assert (folder / "member-0" / "last.pt").stat().st_mtime_ns == kept
    assert (folder / "member-1" / "last.pt").exists()


def test_a_member_that_dies_is_taken_up_where_it_was(bag, monkeypatch):
    calls = []

    def dying(*words):
        calls.append(words)
        if len(calls) == 1:
            in_this_process(*words, "--set", "train.iterations=2")
            place = words[words.index("--config") + 1]
            folder = load_config(place).output
            (folder / "metrics.jsonl").write_text("")  # as if killed before the end
            return -9
        return in_this_process(*words)

    monkeypatch.setattr(bag_module, "_run", dying)
    status, _, _ = bag("--members", "1", "--by", "seeds")
    assert status == 0
    assert "--overwrite" in calls[0]
    assert "--resume" in calls[1]


def test_members_by_seeds_folds_and_losses(bag):
    status, said, folder = bag("--by", "folds", "--members", "3", "--prepare-only")
    assert status == 0
    assert said.count("detbalance train --config") == 3
    images = [
        {int(i) for i in load_annotations(folder / f"member-{m}.json").image_ids} for m in range(3)
    ]
    assert set.union(*images) == set(range(1, 21))
    # Each image is left out by one member.
    assert sum(len(part) for part in images) == 40
    status, said, _ = bag("--by", "losses", "--losses", "focal", "--prepare-only")
    assert status == 2
    assert "is of another ensemble than the one asked for now" in said
    losses = ("--by", "losses", "--losses", "focal", "--losses", "equalization_v2")
    assert bag(*losses, "--prepare-only", "--overwrite")[0] == 0
    named = [yaml.safe_load((folder / f"member-{m}.yaml").read_text()) for m in range(2)]
    assert [raw["loss"]["name"] for raw in named] == ["focal", "equalization_v2"]
    assert named[0]["data"]["train"] == named[1]["data"]["train"] == "train.json"


def test_one_member_alone_for_another_machine(bag):
    status, _, folder = bag("--members", "3", "--by", "seeds", "--member", "2")
    assert status == 0
    assert (folder / "member-2" / "last.pt").exists()
    assert not (folder / "member-0").exists()
    assert (folder / "member-0.yaml").exists()
    status, said, _ = bag("--members", "3", "--by", "seeds", "--member", "3")
    assert status == 2
    assert "--member: 3 does not exist. Members are 0 to 2" in said


def test_members_can_share_a_backbone_that_stays(bag, tmp_path):
    bag("--members", "1", "--by", "seeds")
    teacher = tmp_path / "bag" / "member-0" / "last.pt"
    other = ("--output", str(tmp_path / "more"), "--backbone", str(teacher))
    assert bag("--members", "2", *other)[0] == 0
    first = load_checkpoint(teacher)["model"]
    for member in range(2):
        own = load_checkpoint(tmp_path / "more" / f"member-{member}" / "last.pt")["model"]
        body = [k for k in own if k.startswith("backbone.body.") and "num_batches" not in k]
        assert body
        assert [k for k in body if not torch.equal(own[k], first[k])] == []
        head = [k for k in own if k.startswith("head.") and isinstance(own[k], torch.Tensor)]
        assert any(not torch.equal(own[k], first[k]) for k in head)
    status, said, _ = bag("--backbone", str(tmp_path / "none.pt"))
    assert status == 2
    assert "no such file. A checkpoint" in said


def test_options_that_contradict_each_other_are_refused(bag):
    for extra, words in (
        (("--losses", "focal"), "belong together"),
        (("--by", "losses"), "belong together"),
        (("--by", "losses", "--losses", "vocal"), '"vocal" is unknown. Known:'),
        (("--by", "folds", "--members", "2"), "Expected 3 or more"),
        (("--by", "seeds", "--target", "3"), "--target: 3 boxes are enough for a bag"),
    ):
        status, said, _ = bag(*extra)
        assert status == 2
        assert words in said.replace("\n", " ")


def written(folder):
    """When each of the files that members are made of was written."""
    files = [folder / "run" / "last.pt", *sorted(folder.glob("member-*/*.json"))]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def test_members_of_versions_without_a_field_are_the_same_members(bag):
    seeds = ("--members", "1", "--by", "seeds", "--prepare-only")
    _, _, folder = bag(*seeds)
    file = folder / "member-0.yaml"
    raw = yaml.safe_load(file.read_text())
    del raw["train"]["accumulation"]
    file.write_text(yaml.safe_dump(raw))
    assert bag(*seeds)[0] == 0


def test_modules_of_the_current_folder_are_not_those_of_a_member(tmp_path, monkeypatch, capfd):
    for name in ("yaml", "numpy", "detbalance", "click"):
        (tmp_path / f"{name}.py").write_text(
            "print('from the current folder'); raise SystemExit(7)"
        )
    monkeypatch.chdir(tmp_path)
    assert bag_module._run("train", "--config", "nowhere.yaml") == 2
    said = capfd.readouterr()
    assert "nowhere.yaml" in said.err
    assert "from the current folder" not in said.out


def test_a_member_ends_in_its_own_time_when_the_ensemble_is_to_stop(tmp_path, monkeypatch):
    script = tmp_path / "member.py"
    script.write_text(
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    open('saved', 'w').close()\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open('ready', 'w').close()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.chdir(tmp_path)
    started = subprocess.Popen

    class Interrupted(started):
        """Ctrl-C, or SIGTERM to the ensemble alone, when the member is at work."""

        asked = False

        def wait(self, timeout=None):
            if self.asked:
                return super().wait(timeout)
            self.asked = True
            while not (tmp_path / "ready").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(
        bag_module.subprocess, "Popen", lambda words: Interrupted([words[0], str(script)])
    )
    with pytest.raises(KeyboardInterrupt):
        bag_module._run("train")
    assert (tmp_path / "saved").exists()
