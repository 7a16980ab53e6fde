"""Policies: albumentations pipelines per frequency group, as presets or from a configuration."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from detbalance.augmentation.pipeline import BoxPipeline, import_albumentations
from detbalance.augmentation.transform import FILL, Image, Target, check_range, prepared
from detbalance.data import Annotations
from detbalance.data.frequency import class_frequency, frequency_groups

STRENGTH = (1.0, 0.6, 0.3)
"""How strong presets are for images whose rarest class is rare, common, frequent."""

_logger = logging.getLogger(__name__)


class GroupPolicy:
    """Changes images the more, the rarer the rarest class that they show.

    The rarest group among an image's boxes, pasted ones included and crowd regions left out, says
    which pipeline it gets; images without boxes get that of the frequent. Boxes, areas, crowd flags
    and masks follow; what remains of an object whose box is dropped is painted over. Turns by 90
    degrees swap the sides of an image. Bi-level images keep their two values: presets do not
    recolour them, and geometry takes the nearest pixel; only transforms given in `pipelines` may
    change that. Objects can be pickled and sent to spawned workers.

    Args:
        annotations: the training annotations, for the frequency groups of classes.
        preset: what the images show. `natural`: mirrored left and right, scaled and shifted,
            coloured, now and then blurred or noisy. `microscopy`: all flips and turns by 90
            degrees, stain and brightness, defocus, noise. `aerial`: all flips and turns, scaled,
            brightness and haze, slightly blurred. `industrial_binary`: all flips and turns, shifted
            by whole pixels; no new values. None: nothing for groups not in `pipelines`.
        strength: of the preset by group (rare, common, frequent), each in 0..1, 0 for images as
            they are; by default, and for groups not named, 1, 0.6 and 0.3. Flips and turns cost
            nothing that a weak policy should save: at any strength above 0 they are fully on.
        pipelines: by group, in place of the preset, albumentations transforms in order, each a
            name and its arguments. `OneOf`, `SomeOf` and `Sequential` take `transforms`, such a
            list. An empty list leaves images as they are.
        horizontal_flip: probability in 0..1 of mirroring left and right by `natural`; 0 for text,
            digits and signs.
        min_visibility: fraction in 0..1 of a box's area that must be left in the image.

    Raises:
        ValueError: if a value is out of its range, a group, transform or argument is unknown, or a
            transform is one that boxes and masks cannot follow.
        ImportError: if albumentations is missing.

    Attributes:
        groups: int64 [C], the group of each class: 0 rare, 1 common, 2 frequent.

    Example:
        GroupPolicy(
            annotations,
            preset="natural",
            pipelines={
                "rare": [{"RandomBrightnessContrast": {"p": 0.8}}, {"Rotate": {"limit": 10}}],
                "frequent": [],
            },
        )
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        preset: Literal["natural", "microscopy", "aerial", "industrial_binary"] | None = "natural",
        strength: dict[str, float] | None = None,
        pipelines: dict[str, list[dict[str, dict[str, Any]]]] | None = None,
        horizontal_flip: float = 0.5,
        min_visibility: float = 0.3,
    ) -> None:
        check_range("GroupPolicy", "horizontal_flip", horizontal_flip, 0, 1)
        check_range("GroupPolicy", "min_visibility", min_visibility, 0, 1)
        if preset is not None and preset not in PRESETS:
            raise ValueError(f'GroupPolicy: preset is "{preset}". Known: {_known(preset, PRESETS)}')
        groups = frequency_groups(class_frequency(annotations))
        # What has no training box (it may be pasted) is treated like what is rarest.
        self.groups = np.maximum(groups.of_class, 0)
        self.names = groups.names
        self.preset = preset
        self.strength = dict(zip(groups.names, STRENGTH, strict=True))
        self.pipelines = dict(pipelines or {})
        for argument, given in (("strength", strength or {}), ("pipelines", self.pipelines)):
            for name in given:
                if name not in groups.names:
                    raise ValueError(
                        f'GroupPolicy: {argument} has the group "{name}". Known:'
                        f" {_known(name, groups.names)}"
                    )
        for name, value in (strength or {}).items():
            check_range("GroupPolicy", f"strength.{name}", value, 0, 1)
            self.strength[name] = value
        self.horizontal_flip = horizontal_flip
        self.min_visibility = min_visibility
        self._built: list[BoxPipeline | None] | None = self._build()
        if not any(self._built):
            _logger.warning("GroupPolicy: everything is turned off, it changes no image.")

    def __getstate__(self) -> dict[str, Any]:
        # Rebuilt where it is used: pickles stay small and free of another library's insides.
        return {**self.__dict__, "_built": None}

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        image, target = prepared("GroupPolicy", image, target)
        if self._built is None:
            self._built = self._build()
        shown = self.groups[target["labels"][~target["is_crowd"]]]
        group = int(shown.min()) if len(shown) else len(self.names) - 1
        pipeline = self._built[group]
        return (image, target) if pipeline is None else pipeline(image, target, generator)

    def _build(self) -> list[BoxPipeline | None]:
        """The pipeline of each group, None for one that changes nothing."""
        built: list[BoxPipeline | None] = []
        for name in self.names:
            given = self.pipelines.get(name)
            where = f"GroupPolicy: {'preset' if given is None else 'pipelines'}.{name}"
            if given is not None:
                steps = transforms_of(given, where)
            elif self.preset is not None and self.strength[name] > 0:
                steps = PRESETS[self.preset](self.strength[name], self.horizontal_flip)
            else:
                steps = []
            built.append(
                BoxPipeline(
                    where,
                    steps,
                    min_visibility=self.min_visibility,
                    recolor_bilevel=given is not None,
                )
                if steps
                else None
            )
        return built


def transforms_of(given: Sequence[Any], where: str) -> list[Any]:
    """Build albumentations transforms from a configuration."""
    albumentations, _ = import_albumentations()
    known = {
        name: kind
        for name, kind in vars(albumentations).items()
        if inspect.isclass(kind)
        and issubclass(kind, (albumentations.BasicTransform, albumentations.BaseCompose))
    }
    steps = []
    for number, entry in enumerate(given):
        here = f"{where}[{number}]"
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ValueError(
                f"{here}: is {entry!r}. Expected one name of a transform with its arguments, as in"
                " {Rotate: {limit: 10}}. Correct it."
            )
        ((name, arguments),) = entry.items()
        if name not in known:
            raise ValueError(
                f'{here}: "{name}" is no transform of albumentations. {_nearest(name, known)}'
            )
        arguments = dict(arguments or {})
        accepted = [*inspect.signature(known[name].__init__).parameters][1:]
        for argument in arguments:
            if argument not in accepted:
                raise ValueError(
                    f'{here}: {name} has no argument "{argument}". Known:'
                    f" {_known(argument, accepted)}"
                )
        if issubclass(known[name], albumentations.BaseCompose):
            arguments["transforms"] = transforms_of(
                arguments.get("transforms", []), f"{here}.{name}"
            )
        try:
            steps.append(known[name](**arguments))
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{here}: {name} does not take {arguments} ({reason}). Expected arguments as"
                f" albumentations documents them. Correct them."
            ) from error
    return steps


def _known(name: str, names: Any) -> str:
    return f"{', '.join(sorted(names))}. {_nearest(name, names)}"


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f'Did you mean "{close[0]}"?' if close else "Correct the name."


def _natural(strength: float, horizontal_flip: float) -> list[Any]:
    A, _ = import_albumentations()
    steps = [A.HorizontalFlip(p=horizontal_flip)] if horizontal_flip else []
    return [
        *steps,
        _scale_and_shift(0.25 * strength, 0.1 * strength),
        _colors(0.4 * strength, 0.03 * strength),
        A.OneOf([_blur(1.5 * strength), _noise(0.05 * strength)], p=0.3 * strength),
    ]


def _microscopy(strength: float, _: float) -> list[Any]:
    A, _cv2 = import_albumentations()
    return [
        A.D4(p=1),
        _scale_and_shift(0.15 * strength, 0.05 * strength),
        _colors(0.25 * strength, 0.06 * strength),
        A.OneOf([_blur(2 * strength), _noise(0.05 * strength)], p=0.4 * strength),
    ]


def _aerial(strength: float, _: float) -> list[Any]:
    A, _cv2 = import_albumentations()
    return [
        A.D4(p=1),
        _scale_and_shift(0.3 * strength, 0.1 * strength),
        _colors(0.25 * strength, 0.02 * strength),
        # Haze: brighter, with less contrast.
        A.RandomBrightnessContrast(
            brightness_limit=(0, 0.2 * strength),
            contrast_limit=(-0.4 * strength, 0),
            p=0.3 * strength,
        ),
        _blur(strength, 0.2 * strength),
    ]


def _industrial_binary(strength: float, _: float) -> list[Any]:
    A, cv2 = import_albumentations()
    pixels = max(1, round(12 * strength))
    return [
        A.D4(p=1),
        A.Affine(translate_px=(-pixels, pixels), interpolation=cv2.INTER_NEAREST, fill=FILL, p=1),
    ]


def _scale_and_shift(scale: float, shift: float) -> Any:
    A, _ = import_albumentations()
    return A.Affine(
        scale=(1 / (1 + scale), 1 + scale),
        translate_percent=(-shift, shift),
        keep_ratio=True,
        fill=FILL,
        p=1,
    )


def _colors(change: float, hue: float) -> Any:
    A, _ = import_albumentations()
    span = (1 - change, 1 + change)
    return A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(-hue, hue), p=1)


def _blur(sigma: float, probability: float = 1) -> Any:
    A, _ = import_albumentations()
    return A.GaussianBlur(blur_limit=0, sigma_limit=(0.2 * sigma, sigma), p=probability)


def _noise(deviation: float) -> Any:
    A, _ = import_albumentations()
    return A.GaussNoise(std_range=(0.2 * deviation, deviation), p=1)


# Strength above 0, and the probability of a horizontal flip, to transforms.
PRESETS: dict[str, Callable[[float, float], list[Any]]] = {
    "natural": _natural,
    "microscopy": _microscopy,
    "aerial": _aerial,
    "industrial_binary": _industrial_binary,
}
