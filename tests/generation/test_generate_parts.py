"""What generating is made of: augmentation, batches, checks, KID, folders."""

from __future__ import annotations

import numpy as np
import pytest
from generated_sets import write_set
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

from detbalance.generation import Settings  # noqa: E402
from detbalance.generation.classifier import noise_like, shuffled, train_judges  # noqa: E402
from detbalance.generation.crops import (  # noqa: E402
    MARGIN,
    as_pixels,
    as_tensor,
    box_in_crop,
    cut_background,
    cut_donors,
)
from detbalance.generation.drawing import CropFilter  # noqa: E402
from detbalance.generation.gan import GanSettings, GanTraining, class_shares, differences, draw_rows  # noqa: E402
from detbalance.generation.generate import choose_classes  # noqa: E402
from detbalance.generation.networks import (  # noqa: E402
    GROUP,
    SYMMETRIES,
    diff_augment,
    symmetric_copy,
    turn,
)
from detbalance.generation.output_folder import safe_names  # noqa: E402
from detbalance.generation.quality import class_kid, kid  # noqa: E402


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and wait long where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("set")


@pytest.fixture(scope="module")
def annotations(folder):
    return write_set(folder, (30, 30, 8))


@pytest.fixture(scope="module")
def donors(annotations, folder):
    return cut_donors(annotations, folder, np.array([1, 2]))


@pytest.fixture(scope="module")
def images(donors):
    return as_tensor(donors.pixels, 32)


@pytest.fixture(scope="module")
def own(donors):
    return torch.from_numpy(donors.labels) - 1


@pytest.fixture(scope="module")
def judges(images, own, annotations, donors, folder):
    background = as_tensor(cut_background(annotations, folder, donors, 30), 32)
    return train_judges(images, own, background, steps=30)


# Crops


def test_crops_hold_the_box_in_the_middle(annotations, donors, folder):
    rows = {int(n): row for row, n in enumerate(annotations.annotation_ids)}
    assert len(donors) == 60
    assert np.all(np.diff(donors.labels) >= 0)
    for pixels, label, number in zip(
        donors.pixels, donors.labels, donors.annotation_ids, strict=True
    ):
        row = rows[int(number)]
        assert annotations.labels[row] == label
        side = annotations.boxes[row, 2:] - annotations.boxes[row, :2]
        np.testing.assert_allclose(pixels.shape[1::-1], side * (1 + 2 * MARGIN), atol=1)
        box = box_in_crop(*pixels.shape[1::-1])
        np.testing.assert_allclose(np.subtract(box[2:], box[:2]), side, atol=1)
        if label == 1:  # a disc is in its middle as colourful as anywhere, and its corners are not
            middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)
            assert middle[0] > middle[1] + 100
            assert np.ptp(pixels[0, 0].astype(int)) < 60


def test_a_box_at_the_edge_gets_the_edge_as_margin(tmp_path):
    cv2 = pytest.importorskip("cv2")
    annotations = write_set(tmp_path, (8,), names=("disc",))
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:, 0] = 200
    for row in range(annotations.num_images):
        cv2.imwrite(str(tmp_path / annotations.file_name(row)), pixels)
    text = (tmp_path / "train.json").read_text().replace('"bbox": [12', '"bbox": [0')
    (tmp_path / "train.json").write_text(text)
    from detbalance.data import load_annotations

    moved = load_annotations(tmp_path / "train.json")
    crops = cut_donors(moved, tmp_path, np.array([1]))
    at_edge = [
        crop
        for crop, number in zip(crops.pixels, crops.annotation_ids, strict=True)
        if moved.boxes[moved.annotation_ids == number][0, 0] == 0
    ]
    assert at_edge
    for crop in at_edge:
        margin = box_in_crop(*crop.shape[1::-1])[0]
        assert (crop[:, : round(margin) + 1] == 200).all()
        assert (crop[:, round(margin) + 1 :] == 0).all()


def test_background_overlaps_no_box(annotations, donors, folder):
    found = cut_background(annotations, folder, donors, 20)
    assert len(found) == 20
    for crop in found:
        assert crop.min() >= 95  # grey noise is 100 to 139; every object has a channel far below
        assert crop.max() <= 145


def test_pixels_survive_the_way_there_and_back(donors):
    crop = donors.pixels[0]
    square = crop[:20, :20]
    assert np.array_equal(as_pixels(as_tensor([square], 20)[0]), square)


# Differentiable augmentation


def test_diff_augment_lets_gradients_through():
    images = torch.rand(16, 3, 32, 32, generator=generator()) * 2 - 1
    images.requires_grad_(True)
    diff_augment(images, generator(1), symmetry="square").square().sum().backward()
    gradient = images.grad
    assert gradient.isfinite().all()
    reached = (gradient != 0).flatten(1).float().mean(dim=1)
    assert (reached > 0.4).all()  # all but what was shifted or cut out


def test_diff_augment_changes_images_but_not_on_average():
    images = torch.full((2000, 3, 32, 32), 0.4)
    changed = diff_augment(images, generator(2))
    assert changed.shape == images.shape
    middle = changed[:, :, 12:20, 12:20].mean(dim=(1, 2, 3))
    kept = middle[middle != 0]
    assert kept.std() > 0.1
    # What is not cut out is as bright as before; a cutout covers 1/6 of an image or less.
    inner = changed[:, :, 8:24, 8:24]
    shown = inner != 0
    assert float(inner[shown].mean()) == pytest.approx(0.4, abs=0.02)
    assert 0.7 < float(shown.float().mean()) < 0.95


def test_diff_augment_is_of_its_generator_alone():
    images = torch.rand(8, 3, 32, 32)
    before = torch.get_rng_state()
    first = diff_augment(images, generator(3), symmetry="square")
    assert torch.equal(first, diff_augment(images, generator(3), symmetry="square"))
    assert not torch.equal(first, diff_augment(images, generator(4), symmetry="square"))
    assert torch.equal(before, torch.get_rng_state())


def test_the_eight_symmetries_are_eight():
    image = torch.rand(1, 3, 16, 16)
    copies = [symmetric_copy(image, i) for i in range(8)]
    for i, first in enumerate(copies):
        for second in copies[i + 1 :]:
            assert not torch.equal(first, second)
    assert torch.equal(copies[0], image)
    assert torch.equal(copies[1], image.flip(3))


@pytest.mark.parametrize(("symmetry", "number"), list(SYMMETRIES.items()))
def test_turns_are_those_of_the_symmetry(symmetry, number):
    image = torch.rand(1, 3, 8, 8)
    turned = turn(image.expand(200, -1, -1, -1), generator(), symmetry)
    allowed = [symmetric_copy(image, i)[0] for i in range(number)]
    seen = {next(i for i, a in enumerate(allowed) if torch.equal(a, t)) for t in turned}
    assert seen == set(range(number))


# Batches


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    power=st.floats(0, 2),
    others=st.floats(0, 0.9),
    data=st.data(),
)
def test_shares_follow_rarity(counts, power, others, data):
    wanted = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts)))
    )
    wanted[data.draw(st.integers(0, len(counts) - 1))] = True
    counts = np.array(counts)
    shares = class_shares(counts, wanted, power=power, others=others)
    assert shares.sum() == pytest.approx(1)
    assert shares[~wanted].sum() == pytest.approx(others if (~wanted).any() else 0)
    for group in (wanted, ~wanted):
        scaled = shares[group] * counts[group] ** power
        if group.any():
            np.testing.assert_allclose(scaled, scaled.mean(), rtol=1e-9)


def test_batches_have_the_classes_by_their_shares_and_each_crop_alike():
    labels = torch.tensor([0] * 2 + [1] * 5 + [2] * 43)
    shares = np.array([0.5, 0.3, 0.2])
    rows = draw_rows(labels, shares, 20_000, generator())
    drawn = np.bincount(rows, minlength=50) / 20_000
    expected = shares[labels] / np.bincount(labels)[labels]
    np.testing.assert_allclose(drawn, expected, rtol=0.2, atol=0.0015)


def test_groups_are_of_one_class():
    labels = torch.tensor([0] * 2 + [1] * 5)
    rows = draw_rows(labels, np.array([0.5, 0.5]), 40 * GROUP, generator(), group=GROUP)
    of_groups = labels[rows].reshape(-1, GROUP)
    assert (of_groups == of_groups[:, :1]).all()
    assert 10 < int(of_groups[:, 0].sum()) < 30


# Which classes


def test_classes_with_few_donors_are_left_out_with_the_reason(annotations):
    choice = choose_classes(annotations, Settings(classes=("disc", "stripes")))
    assert choice.wanted.tolist() == [1]
    assert [r.name for r in choice.results] == ["stripes", "disc"]
    assert choice.results[0].left_out == "8 donors, fewer than 20"
    assert choice.results[1].left_out == ""


@pytest.mark.parametrize(("with_others", "others"), [(None, [2]), (True, [2]), (False, [])])
def test_other_classes_are_shown_where_donors_are_few(annotations, with_others, others):
    choice = choose_classes(annotations, Settings(classes=("disc",), with_others=with_others))
    assert choice.others.tolist() == others


def test_too_few_donors_are_refused(annotations):
    with pytest.raises(ValueError, match=r"stripes, 8\).*augmentation\.paste.*--min-donors"):
        choose_classes(annotations, Settings(classes=("stripes",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 40}, "size is 40. Known: 32, 48, 64"),
        ({"symmetry": "both"}, "Known: none, mirror, square"),
        ({"iterations": 0}, "iterations is 0. Expected at least 1"),
        ({"min_donors": 2}, "Expected at least 3"),
        ({"power": float("nan")}, "power is nan"),
        ({"power": 1e9}, r"power is 1000000000.0. Expected at most 10"),
        ({"seed": -1}, "seed is -1. Expected at least 0"),
        *(
            ({name: 10**30}, rf"{name} is 10+\. Expected at most \d+\. Lower {name}")
            for name in ("iterations", "per_class", "min_donors", "judge_steps", "seed")
        ),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


# Checks


def check_of(judges, images, own, label, **options):
    rows = own == label
    return CropFilter(judges, images[rows], judges.held_out[rows], label, **options)


@pytest.mark.parametrize("label", [0, 1])
def test_unseen_donors_mostly_pass_and_other_classes_do_not(judges, images, own, label):
    check = check_of(judges, images, own, label)
    assert 0.8 <= check.recall <= 0.95  # the threshold is set where 90% pass
    mine, others = judges.held_out[own == label], judges.held_out[own != label]
    assert float(check.accepts(mine).float().mean()) == pytest.approx(check.recall)
    assert float(check.accepts(others).float().mean()) < 0.1
    assert float(check.accepts(judges.held_out_background).float().mean()) < 0.1


@pytest.mark.parametrize("label", [0, 1])
def test_donors_and_near_copies_are_copies(judges, images, own, label):
    mine = images[own == label]
    check = check_of(judges, images, own, label)
    verdict = check(mine)
    assert verdict.is_copy.all()
    assert verdict.nearest.tolist() == list(range(len(mine)))
    noise = torch.randn(mine.shape, generator=generator()) * 0.02
    assert float(check(mine + noise).is_copy.float().mean()) > 0.9


def test_turned_donors_are_copies_where_the_class_has_the_symmetry(judges, images, own):
    mine = symmetric_copy(images[own == 0], 2)
    assert check_of(judges, images, own, 0, symmetry="square")(mine).is_copy.all()


def test_few_real_donors_count_as_copies_of_each_other(judges, images, own):
    mine, rest = images[own == 0][::2], images[own == 0][1::2]
    held_out = judges.held_out[own == 0][::2]
    copies = CropFilter(judges, mine, held_out, 0)(rest).is_copy
    assert float(copies.float().mean()) <= 0.35  # 5% by each of two distances, from 15 donors


def test_noise_and_shuffled_donors_are_nonsense(judges, images, own):
    for label in (0, 1):
        check = check_of(judges, images, own, label)
        for made in (
            noise_like(images[own == label], generator()),
            torch.rand(30, 3, 32, 32, generator=generator()) * 2 - 1,
            shuffled(images[own == label], generator(1)),
        ):
            assert float(check(made).is_nonsense.float().mean()) > 0.8


def test_shuffled_images_have_the_same_pixels():
    images = torch.rand(4, 3, 16, 16)
    mixed = shuffled(images, generator())
    assert not torch.equal(mixed, images)
    assert torch.equal(mixed.flatten(2).sort(dim=2)[0], images.flatten(2).sort(dim=2)[0])


def test_what_was_kept_is_a_repeat(judges, images, own):
    check = check_of(judges, images, own, 0)
    assert not check.is_repeat(images[0])
    check.remember(images[0])
    check.remember(images[1])
    assert check.is_repeat(images[0])
    assert check.is_repeat(images[1] + 0.005)


# Training


def test_a_generator_of_one_image_is_penalised_for_it(images):
    same = images[:1].expand(8, -1, -1, -1)
    assert differences(same).tolist() == [0, 0]
    varied = images[: 2 * GROUP].numpy()
    by_hand = [
        np.mean([np.abs(varied[g + i] - varied[g + (i - 1) % GROUP]).mean() for i in range(GROUP)])
        for g in (0, GROUP)
    ]
    np.testing.assert_allclose(differences(images[: 2 * GROUP]), by_hand, rtol=1e-5)


def make_training(images, own, **change):
    options = GanSettings(**{"iterations": 4, "batch_size": 8, **change})
    return GanTraining(images, own, np.array([0.5, 0.5]), options, torch.device("cpu"))


def test_training_is_of_its_seed_and_goes_on_where_it_stopped(images, own):
    before = torch.get_rng_state()
    whole = make_training(images, own)
    for _ in range(3):
        losses = whole.step()
    assert np.isfinite(losses).all()
    first, second = make_training(images, own), make_training(images, own)
    for _ in range(2):
        first.step()
    second.load_state_dict(first.state_dict())
    second.step()
    labels = torch.tensor([0, 1, 1])
    expected = whole.sample(labels, generator())
    assert torch.equal(second.sample(labels, generator()), expected)
    assert not torch.equal(first.sample(labels, generator()), expected)
    assert torch.equal(before, torch.get_rng_state())
    assert float(expected.abs().max()) <= 1


@pytest.mark.parametrize("size", [48, 64])
def test_other_sizes(size):
    images = torch.rand(8, 3, size, size) * 2 - 1
    training = make_training(images, torch.tensor([0] * 4 + [1] * 4), size=size)
    training.step()
    assert training.sample(torch.tensor([0]), generator()).shape == (1, 3, size, size)


# Quality and names


def test_kid_of_one_distribution_is_about_zero_and_of_noise_is_not():
    random = generator()
    first, second = (torch.randn(60, 40, generator=random) for _ in range(2))
    noise = torch.randn(60, 40, generator=random) + 1
    before = torch.get_rng_state()
    near, far = (kid(first, other, size=50)[0] for other in (second, noise))
    assert abs(near) < 0.2
    assert far > 5 * abs(near) + 1
    assert torch.equal(before, torch.get_rng_state())
    assert kid(first, second, size=50)[0] == near


def test_kid_agrees_with_its_definition():
    first, second = torch.randn(12, 5), torch.randn(12, 5) + 0.3
    kernel = [(a @ b.T / 5 + 1) ** 3 for a, b in ((first, first), (second, second))]
    cross = (first @ second.T / 5 + 1) ** 3
    within = sum((k.sum() - k.trace()) / (12 * 11) for k in kernel)
    expected = float(within - 2 * cross.mean())
    assert kid(first, second, size=12, subsets=1)[0] == pytest.approx(expected, rel=1e-4)


def test_kid_of_a_class_stands_beside_real_ones_and_background():
    random = generator()
    real = torch.randn(40, 30, generator=random)
    figures = class_kid(torch.randn(30, 30, generator=random), real, real + 2)
    assert abs(figures.generated) < 0.3
    assert abs(figures.real) < 0.3
    assert figures.background > 3
    assert figures.spread > 0


def test_kid_of_few_crops_is_undefined():
    figures = class_kid(torch.randn(4, 30), torch.randn(40, 30), torch.randn(40, 30))
    assert figures.to_dict()["generated"] is None
    few = class_kid(torch.randn(40, 30), torch.randn(12, 30), torch.randn(40, 30))
    assert set(few.to_dict().values()) == {None}


@settings(max_examples=60)
@given(names=st.lists(st.text(max_size=12), unique=True, max_size=8))
def test_folder_names_are_safe_and_tell_classes_apart(names):
    safe = safe_names(names)
    assert list(safe) == names
    assert len({value.casefold() for value in safe.values()}) == len(names)
    for value in safe.values():
        assert value not in {"", ".", ".."}
        assert not set(value) & set('/\\:*?"<>|\0 ')
