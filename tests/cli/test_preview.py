"""`detbalance preview`: the training's own images, their boxes, and counts that add up."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner
from squares import make_data, write_config

from detbalance.cli import cli
from detbalance.data.images import read_image
from detbalance.reporting.pictures import OWN, PASTED, Tile, save_sheet


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    return write_config(make_data(folder / "data"), folder)


def preview(config, output, *options):
    command = ["preview", "--config", str(config), "--output", str(output), *options]
    return CliRunner().invoke(cli, command)


def row_of(output, name):
    line = next(line for line in output.splitlines() if line.startswith(name))
    return [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", line)]


def test_counts_add_up_and_the_sheet_is_written(config, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    paste = "augmentation.paste={probability: 1, max_pastes: 1, scale: [0.9, 1], classes: [green]}"
    options = ("--set", paste, "--set", "augmentation.standard=null", "--set")
    result = preview(
        config, sheet, *options, "sampling={method: none}", "--draws", "20", "--images", "3"
    )
    assert result.exit_code == 0, result.output
    boxes, shown, asked, pasted, *refused = row_of(result.output, "green")
    assert boxes == 2
    assert asked == 20  # one for each draw
    assert shown == 2 * boxes + pasted  # two epochs
    assert pasted + sum(refused) == asked
    assert pasted
    assert row_of(result.output, "red")[:4] == [8, 16, 0, 0]
    assert read_image(sheet).shape[1] > 3 * 320


def test_nothing_is_replaced_unasked(config, tmp_path):
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"mine")
    result = preview(config, sheet, "--draws", "1", "--images", "1")
    assert "is there already" in str(result.exception)
    assert sheet.read_bytes() == b"mine"
    assert preview(config, sheet, "--draws", "1", "--images", "1", "--overwrite").exit_code == 0
    assert read_image(sheet).ndim == 3


@pytest.mark.parametrize("option", ["--images", "--draws"])
def test_more_images_than_anybody_looks_at_are_refused_at_once(config, tmp_path, option):
    result = preview(config, tmp_path / "sheet.png", option, str(10**30))
    assert result.exit_code == 2
    assert re.search(rf"{option}.*10+ is (too large|not in the range)", result.output)


def test_it_shows_the_first_draws_of_the_training(config, tmp_path):
    """The same draws, augmented alike, that the training's own loader gives."""
    from detbalance.sampling import RepeatFactorSampler
    from detbalance.training.config import load_config
    from detbalance.training.run import BatchStream
    from detbalance.training.setup import load_data

    settings = load_config(config)
    data = load_data(settings)
    sampler = RepeatFactorSampler(data.factors, seed=settings.seed, infinite=True)
    images, _ = next(iter(BatchStream(sampler, 4).loader(data.train_dataset, 0)))
    sheet = tmp_path / "sheet.png"
    preview(config, sheet, "--draws", "4", "--images", "4")
    found = read_image(sheet)
    for number, image in enumerate(images):
        left = 6 + number * 326
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        tile = found[-326:-6, left : left + 320]
        corners = tile[2::317, 2::317]  # where no box reaches
        assert np.array_equal(corners, pixels[[0, -1]][:, [0, -1]])


def test_boxes_are_drawn_in_their_colours(tmp_path):
    image = np.full((40, 80, 3), 200, np.uint8)
    boxes = np.array([[10, 10, 30, 30], [50, 5, 70, 35]], np.float32)
    cell = Tile(image, "a" * 300, boxes, ["", ""], [OWN, PASTED])
    path = save_sheet([cell] * 3, tmp_path / "sheet.png", columns=2, width=80)
    sheet = read_image(path)
    assert sheet.shape[1] == 6 + 2 * 86
    assert sheet.shape[0] == 6 + 2 * (40 + 16 + 6)
    top, left = 6 + 16, 6
    assert tuple(sheet[top + 10, left + 20]) == OWN
    assert tuple(sheet[top + 20, left + 69]) == PASTED
    assert tuple(sheet[top + 20, left + 20]) == (200, 200, 200)
    assert (sheet[6 + 62 + 16 :, 6 + 86 :] == 255).all()  # the fourth place is empty


def test_a_sheet_cuts_what_follows_an_id_and_of_a_file_name_its_start(tmp_path):
    def caption(text: str, note: str = "") -> np.ndarray:
        cell = Tile(np.zeros((40, 100, 3), np.uint8), text, note=note)
        return read_image(save_sheet([cell], tmp_path / "sheet.png", width=100))[6:22, 6:]

    number = caption("1530")
    ink = np.flatnonzero((number < 255).any(axis=(0, 2)))
    assert ink[0] < 3
    of_number = slice(0, ink[-1] + 1)
    for note in ("like owl", "like the spotted owl of the far north"):
        both = caption("1530", note)
        np.testing.assert_array_equal(both[:, of_number], number[:, of_number])
        assert (both[:, of_number.stop :] < 255).any()
        assert (both[:, 100:] == 255).all()
    name = "images/of/a/deep/folder/17.jpg"
    ends = [caption(name[start:]) for start in range(1, len(name))]
    assert any((caption(name) == end).all() for end in ends)
