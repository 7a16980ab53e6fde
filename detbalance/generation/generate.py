"""From annotations to a folder of generated donors: learn, draw, check, write.

Letters: n donors, N drawn crops, S side in pixels, K' classes that are learned.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detbalance.augmentation.donor_choice import choose_donors, wanted_labels
from detbalance.data import Annotations
from detbalance.data.files import replace_file
from detbalance.data.frequency import class_frequency
from detbalance.data.loading import source_text
from detbalance.data.messages import counted
from detbalance.generation.classifier import JudgeFeatures, Judges, train_judges
from detbalance.generation.crops import (
    MAX_OVERLAP,
    MIN_SIZE,
    Crop,
    Crops,
    as_tensor,
    cut_background,
    cut_donors,
)
from detbalance.generation.drawing import CropFilter, Kept, draw_class
from detbalance.generation.gan import GanSettings, GanTraining, class_shares
from detbalance.generation.output_folder import check_output, work_folder, write_folder
from detbalance.generation.quality import class_kid, describe, import_kid, pretrained_features
from detbalance.generation.result import ClassResult, Result, Settings

_ENOUGH = 200  # donors of a class that needs no other class to learn from


@dataclass(frozen=True, eq=False)
class Choice:
    """The classes of a run."""

    wanted: NDArray[np.int64]
    others: NDArray[np.int64]
    results: tuple[ClassResult, ...]


def choose_classes(annotations: Annotations, settings: Settings) -> Choice:
    """Choose the classes to generate and those to learn from."""
    asked = wanted_labels(
        annotations,
        settings.classes,
        class_frequency(annotations),
        owner="generate",
        purpose="to generate",
    )
    every = np.arange(1, annotations.categories.num_classes)
    rows = choose_donors(annotations, every, min_size=MIN_SIZE, max_overlap=MAX_OVERLAP).rows
    counts = np.bincount(annotations.labels[rows], minlength=len(every) + 1)
    enough = counts >= settings.min_donors
    results = [
        ClassResult(
            name=annotations.categories.name(int(label)),
            donors=int(counts[label]),
            left_out=""
            if enough[label]
            else f"{counts[label]} donors, fewer than {settings.min_donors}",
        )
        for label in sorted(asked.tolist(), key=lambda label: (counts[label], label))
    ]
    wanted = asked[enough[asked]]
    if not len(wanted):
        most = results[-1]
        raise ValueError(
            f"{annotations.source}: none of the {counted(len(asked), 'class')} to generate has"
            f" {settings.min_donors} donors (the most: {most.name}, {most.donors}). With so few, a"
            " generator learns them by heart. Paste the real ones instead (augmentation.paste), or"
            " lower --min-donors."
        )
    others = np.setdiff1d(every[enough[1:]], asked)
    with_others = settings.with_others
    if with_others is None:
        with_others = bool((counts[wanted] < _ENOUGH).any())
    return Choice(wanted, others if with_others else others[:0], tuple(results))


Progress = Callable[[str, int, int], None]

_CHECKPOINT = "checkpoint.pt"
_SAVE_SECONDS = 30
LEAST_TOLD = 0.5
"""What must lie between the shares of donors and of background that pass, or nothing is drawn."""
_BACKGROUND = 400
_JUDGES = "the judges' own features"


class Stopped(Exception):
    """The user stopped the run; what was learned is saved."""


def generate(
    annotations: Annotations,
    image_dir: str | Path,
    output: str | Path,
    settings: Settings,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Learn to draw the donors of rare classes, and write drawn crops that pass the checks.

    Files appear in `output` all at once, at the end. On the CPU, the same seed gives the same
    files.

    Args:
        annotations: the training annotations.
        image_dir: folder that their file names are relative to.
        output: folder to write; see `donors_folder` for what is in it.
        settings: what to generate.
        device: where the generator is trained.
        overwrite: replace generated donors that the folder holds.
        resume: go on with a run of the same settings that was stopped.
        progress: is told the name of the stage, what is done, and of how much.
        should_stop: is asked during training whether to stop.

    Raises:
        ValueError: if no class has enough donors, an image cannot be read, the folder holds
            something else, or there is nothing to resume.
        ImportError: if a library is missing.
        Stopped: if `should_stop` said so; what was learned is saved for `resume`.
    """
    started = time.monotonic()
    output = Path(output)
    check_output(output, overwrite=overwrite)
    import_kid()
    tell: Progress = progress or (lambda stage, done, total: None)
    choice = choose_classes(annotations, settings)
    if resume:
        _check_resume(output)
    key = _key(annotations, settings)

    labels = np.union1d(choice.wanted, choice.others)
    donors = cut_donors(
        annotations,
        image_dir,
        labels,
        seed=settings.seed,
        progress=lambda done, total: tell("cutting donors", done, total),
    )
    background = cut_background(annotations, image_dir, donors, _BACKGROUND, seed=settings.seed)
    own = torch.from_numpy(np.searchsorted(labels, donors.labels))  # 0..K' - 1
    images = as_tensor(donors.pixels, settings.size)
    training = _gan(images, own, np.isin(labels, choice.wanted), settings, device)
    work = work_folder(output)
    if resume:
        training.load_state_dict(_load_checkpoint(work / _CHECKPOINT, key))
    else:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    _train(training, work, key, tell, should_stop)

    judges = train_judges(
        images,
        own,
        as_tensor(background, settings.size),
        symmetry=settings.symmetry,
        seed=settings.seed,
        steps=settings.judge_steps,
        progress=lambda done, total: tell("training judges", done, total),
    )
    kept = _draw_all(annotations, choice, labels, donors, images, training, judges, settings, tell)
    features = _rate(annotations, choice, donors, kept, background, judges, settings, tell)

    written = {name: some for name, some in kept.items() if some}
    result = Result(
        output=output if written else None,
        classes=choice.results,
        taught_by=tuple(annotations.categories.name(int(label)) for label in choice.others),
        features=features,
        seconds=time.monotonic() - started,
    )
    if written:
        (work / _CHECKPOINT).unlink(missing_ok=True)
        write_folder(work, output, annotations, donors, written, result, key)
    else:
        shutil.rmtree(work)
    return result


def _check_resume(output: Path) -> None:
    if not (work_folder(output) / _CHECKPOINT).is_file():
        raise ValueError(
            f"{output}: there is nothing to resume. A run that was stopped is expected. Leave"
            " --resume out."
        )


def _key(annotations: Annotations, settings: Settings) -> dict[str, Any]:
    """What a run that is resumed must have in common with the one that was stopped."""
    content = hashlib.sha256(source_text(annotations.source)).hexdigest()
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return {"annotations_sha256": content, "settings": plain}


def _gan(
    images: Tensor, own: Tensor, is_wanted: Any, settings: Settings, device: str
) -> GanTraining:
    shares = class_shares(torch.bincount(own).numpy(), is_wanted, power=settings.power)
    gan = GanSettings(
        size=settings.size,
        iterations=settings.iterations,
        symmetry=settings.symmetry,
        seed=settings.seed,
    )
    return GanTraining(images, own, shares, gan, torch.device(device))


def _train(
    training: GanTraining,
    work: Path,
    key: dict[str, Any],
    tell: Progress,
    should_stop: Callable[[], bool] | None,
) -> None:
    total = training.settings.iterations
    saved = time.monotonic()
    while training.iteration < total:
        training.step()
        tell("training", training.iteration, total)
        stop = should_stop is not None and should_stop()
        if stop or time.monotonic() - saved > _SAVE_SECONDS or training.iteration == total:
            with replace_file(work / _CHECKPOINT) as file:
                torch.save({**key, "training": training.state_dict()}, file)
            saved = time.monotonic()
        if stop:
            raise Stopped(
                f"stopped at iteration {training.iteration} of {total}; --resume goes on from there"
            )


def _load_checkpoint(path: Path, key: dict[str, Any]) -> dict[str, Any]:
    remedy = "Leave --resume out."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # What a damaged file raises depends on where it is damaged.
    except Exception as error:
        raise ValueError(
            f"{path}: is no readable checkpoint ({type(error).__name__}). One that was written when"
            f" a run was stopped is expected. {remedy}"
        ) from error
    held = state if isinstance(state, dict) else {}
    for name, value in key.items():
        if held.get(name) != value:
            raise ValueError(
                f"{path}: the run that was stopped had other {name.split('_')[0]}. The same ones"
                f" are expected. Repeat them, or leave --resume out."
            )
    return dict(state["training"])


def _draw_all(
    annotations: Annotations,
    choice: Choice,
    labels: Any,
    donors: Crops,
    images: Tensor,
    training: GanTraining,
    judges: Judges,
    settings: Settings,
    tell: Progress,
) -> dict[str, list[Kept]]:
    """Draw the crops of every class, and fill in what was drawn, kept and refused."""
    results = {result.name: result for result in choice.results}
    kept: dict[str, list[Kept]] = {}
    for done, label in enumerate(choice.wanted.tolist()):
        tell("drawing and checking", done, len(choice.wanted))
        result = results[annotations.categories.name(label)]
        own_label = int(np.searchsorted(labels, label))
        rows = np.flatnonzero(donors.labels == label)
        check = CropFilter(
            judges,
            images[rows],
            judges.held_out[rows],
            own_label,
            symmetry=settings.symmetry,
        )
        result.threshold, result.held_out_kept = check.threshold, check.recall
        if len(judges.held_out_background):
            passed = check.accepts(judges.held_out_background)
            result.background_kept = float(passed.float().mean())
        kept[result.name] = []
        if check.recall - np.nan_to_num(result.background_kept) < LEAST_TOLD:
            result.left_out = (
                f"{check.recall:.0%} of unseen donors and {result.background_kept:.0%} of places"
                " without objects pass the check against nonsense, so it is worth nothing"
            )
            continue
        kept[result.name] = draw_class(
            training,
            check,
            own_label,
            donors.of_class(label),
            donors.annotation_ids[rows],
            result,
            wanted=settings.per_class,
            bi_level=donors.bi_level,
            seed=settings.seed,
        )
    return kept


def _rate(
    annotations: Annotations,
    choice: Choice,
    donors: Crops,
    kept: dict[str, list[Kept]],
    background: list[Crop],
    judges: Judges,
    settings: Settings,
    tell: Progress,
) -> str:
    """Fill in the KID of every class; returns the name of the features that it is of."""
    network: nn.Module | None = pretrained_features()
    name = _JUDGES if network is None else str(network.name)
    if network is None:
        network = JudgeFeatures(judges, settings.size)
    nothing = describe(background, network)
    results = {result.name: result for result in choice.results}
    for done, label in enumerate(choice.wanted.tolist()):
        tell("comparing with real donors", done, len(choice.wanted))
        class_name = annotations.categories.name(label)
        results[class_name].kid = class_kid(
            describe([crop.pixels for crop in kept[class_name]], network),
            describe(donors.of_class(label), network),
            nothing,
            seed=settings.seed,
        )
    return name
