"""Which setting to begin with: one rule, and the lines that go into a configuration.

The rule, in the order of its questions:

1. Is there anything to balance? Not without boxes, with one class, or with one image.
2. Is anything rare? Not where most and fewest boxes of a class, and images of a class, are less
   than `BALANCED` times apart. If every class also has `ENOUGH_BOXES` boxes, train plainly; if one
   has not, it is the number of boxes that is small, not their share: paste them, label more.
3. Does sampling help? Settings may be chosen (`CHOICES`) that draw no image more than
   `LARGEST_REPEAT` times an epoch and keep `KEPT_VARIETY` of the images' variety. One is worth it
   if equally many drawn images show `WORTH` times as many boxes of the least shown class as plain
   training, and max/min falls by as much: by max/min alone, images with few boxes would do, and
   every class be shown less; by the boxes alone, a class that comes with every image stays as far
   ahead. If none is, every image of a rare class holds others or there are too few: train without
   sampling.
4. Otherwise take the simplest one worth it that shows the least shown class as often as the best
   one does, less `WORTH`: repeat factors, then instance-aware ones, then ones solved for the square
   root of the imbalance. Compared but not chosen: class-aware sampling, which repeats the few
   images of a rare class without a limit, and factors solved for equal classes, which cost the
   frequent classes of our digits more than they brought the rare ones.
5. Where a rare or common class has fewer than `ENOUGH_BOXES` boxes, paste as well.

Known: on LVIS repeat factors take mask AP of rare classes from 0.0 to 11.5 (Mask R-CNN), and
instance-aware ones beat them in their authors' paper; class-aware sampling takes AP50 on OpenImages
from 51.6 to 60.0; on our digits class-aware sampling and the square root help rare classes
as much as repeat factors or more, equal classes less, and paste on top of sampling most of all. Not
known: how much more AP a rare class gets from being shown more. It is what can be computed before
training, and the limits here are judgement, not measurement. Repeat factors lowered box AP of a
Cascade R-CNN with Seesaw loss from 33.1 to 30.0: compare what is recommended with none.

Letters: M images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from detbalance.data.arrays import Float64
from detbalance.data.categories import shorten
from detbalance.data.frequency import Groups
from detbalance.data.messages import counted, needs
from detbalance.planning.plan import ClassPlan, FileSummary, Recommendation, Setting
from detbalance.sampling import (
    FACTORS,
    ImageLabels,
    class_exposure,
    exposure_ratio,
    repeat_factors,
    threshold_for_target_length,
)
from detbalance.sampling.repeat_factors import LVIS_THRESHOLD

# Shown more often an epoch, an image is learnt by heart rather than its class.
LARGEST_REPEAT = 10.0
# Epochs are at most this many times as long as the file has images.
LONGEST = 2.0
_DIGITS = 3  # of a threshold

LVIS_DEFAULT = "repeat_factor (LVIS)"
# Settings that are fitted to one epoch length, the simplest first.
HALF_BALANCED = "balanced_exposure (half)"
FITTED = ("repeat_factor", "instance_aware", "class_aware", HALF_BALANCED, "balanced_exposure")


def fitted_length(image_labels: ImageLabels) -> int:
    """Choose an epoch length from the data."""
    if not len(image_labels.labels):
        return image_labels.num_images
    share = image_labels.image_counts.max() / image_labels.num_images
    length = repeat_factors(image_labels, threshold=share, cap=LARGEST_REPEAT).sum()
    return int(min(length, LONGEST * image_labels.num_images))


def compare_settings(
    image_labels: ImageLabels,
    groups: Groups,
    order: Sequence[int],
    *,
    target_length: float,
    images_per_second: float | None = None,
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """Compute what every setting shows."""
    settings, impossible = [], []
    for name in ("none", LVIS_DEFAULT, *FITTED):
        try:
            config = _config(name, image_labels, target_length)
            factors = _factors(image_labels, config)
        except ValueError as error:
            impossible.append(f"{name} cannot be had at this epoch length. {error}")
            continue
        settings.append(
            _setting(name, config, image_labels, factors, groups, order, images_per_second)
        )
    return tuple(settings), tuple(impossible)


def _config(name: str, image_labels: ImageLabels, target_length: float) -> dict[str, Any]:
    """The `sampling` section of a setting."""
    if name == "none":
        return {"method": "none"}
    if name == LVIS_DEFAULT:
        return {"method": "repeat_factor", "threshold": LVIS_THRESHOLD}
    limits: dict[str, Any] = {} if name == "class_aware" else {"cap": LARGEST_REPEAT}
    if name == "repeat_factor":
        # A threshold also fits the file after some images more; a length does not.
        threshold = threshold_for_target_length(image_labels, target_length=target_length, **limits)
        return {"method": name, "threshold": float(f"{threshold:.{_DIGITS}g}"), **limits}
    limits = {"target_length": target_length, **limits}
    if name == HALF_BALANCED:  # to the square root of the imbalance, as far as repeat factors aim
        return {"method": "balanced_exposure", "strength": 0.5, **limits}
    return {"method": name, **limits}


def _factors(image_labels: ImageLabels, config: dict[str, Any]) -> Float64:
    """The factors that training would compute from the section."""
    options = dict(config)
    method = options.pop("method")
    # LVIS's threshold is compared even where it does nothing, which the plan says in its own words.
    shown = image_labels.image_share[image_labels.image_counts > 0]
    idle = method == "repeat_factor" and options["threshold"] <= shown.min(initial=1.0)
    if method == "none" or idle:
        return np.ones(len(image_labels))
    return FACTORS[method](image_labels, **options)


def _least(exposure: Float64) -> float:
    shown = exposure[1:][~np.isnan(exposure[1:])]
    return float(shown.min()) if len(shown) else math.nan


def _setting(
    name: str,
    config: dict[str, Any],
    image_labels: ImageLabels,
    factors: Float64,
    groups: Groups,
    order: Sequence[int],
    images_per_second: float | None,
) -> Setting:
    exposure = class_exposure(image_labels, factors)
    length = float(factors.sum())
    return Setting(
        name=name,
        config=config,
        epoch_length=length,
        relative_length=length / len(image_labels),
        exposure=tuple(exposure[list(order)].tolist()),
        max_min=exposure_ratio(exposure),
        least_boxes=_least(exposure) * len(image_labels) / length,
        group_exposure={
            group: float(np.nansum(exposure[groups.of_class == i]))
            for i, group in enumerate(groups.names)
        },
        largest_repeat=float(factors.max()),
        seldom_images=int((factors < 0.5).sum()),
        never_images=int((factors <= 0).sum()),
        effective_images=length * length / float((factors * factors).sum()),
        seconds=math.nan if images_per_second is None else length / images_per_second,
    )


BALANCED = 3.0
ENOUGH_BOXES = 50
WORTH = 1.25
KEPT_VARIETY = 1 / 3
# In the order of preference.
CHOICES = ("repeat_factor", "instance_aware", HALF_BALANCED)
# Paste leaves out boxes that are smaller, and this is its own default.
SMALLEST_DONOR = 8.0
CROWD_ADVICE = "Set iscrowd to 0 for annotations of single objects, masks too."
PASTE_PROBABILITY = 0.5


def recommend(
    train: FileSummary,
    classes: Sequence[ClassPlan],
    settings: Sequence[Setting],
    pasted_by_default: Collection[str],
) -> Recommendation:
    """Choose a setting by the rule on top of this module."""
    present = [row for row in classes if row.boxes]
    if len(present) < 2 or train.images == 1:
        return _plain("nothing to balance", _nothing_to_balance(train, classes))
    rarest, most = present[0], present[-1]
    if _is_balanced(present):
        if rarest.boxes >= ENOUGH_BOXES:
            return _plain(
                "nothing is rare",
                f"Nothing is rare here: every class has {rarest.boxes:,} boxes or more, and the"
                f" most frequent one only {most.boxes / rarest.boxes:.1f} times as many.",
            )
        paste = _paste(present, by_default=())
        return _plain(
            "too few boxes",
            f"No class is rare beside the others, but boxes are few: {rarest.boxes} of"
            f" {rarest.name}, {most.boxes} of {most.name}. Sampling can show no new ones; label"
            f" more{', and paste those that are there' if paste else ''}.",
            paste,
        )
    none, paste = settings[0], _paste(present, pasted_by_default)
    choices = [setting for name in CHOICES for setting in settings if _may_be(name, setting, train)]
    few = counted(rarest.boxes, "box")
    rarity = f"{rarest.name} has {few} beside {most.boxes:,} of {most.name}"
    worth = [setting for setting in choices if _is_worth_it(setting, none)]
    if not worth:
        return _plain(
            "sampling cannot help",
            f"{rarity}, but sampling changes little: {_at_best(choices, none, train)}"
            f" {_never_alone(present)}Images of {rarest.name} also hold"
            f" {rarest.reference_boxes:.1f} boxes of {most.name} on average."
            f" {_what_remains(rarest, paste)}",
            paste,
        )
    best = max(setting.least_boxes for setting in worth)
    chosen = next(setting for setting in worth if setting.least_boxes * WORTH >= best)
    reason = (
        f"{rarity}; with {chosen.name}, {train.images:,} drawn images show at least"
        f" {counted(chosen.least_boxes, 'box')} of every class instead of"
        f" {_boxes(none.least_boxes)}, and the most shown class comes {_times(chosen.max_min)}"
        f" times as often as the least shown one instead of {_times(none.max_min)} times"
    )
    if chosen is not choices[0] and choices[0].least_boxes * WORTH < best:
        simpler = choices[0]
        reason += f" (the simpler {simpler.name}: {counted(simpler.least_boxes, 'box')})"
    if paste:
        reason += f"; paste adds boxes of {_pasted_words(present, paste, pasted_by_default)}"
    config = {"sampling": chosen.config, **_augmentation(paste)}
    return Recommendation(chosen.name, "balance", f"{reason}.", config, yaml_text(config))


def _nothing_to_balance(train: FileSummary, classes: Sequence[ClassPlan]) -> str:
    if not train.boxes and train.crowd_boxes:
        return f"{train.source} has only crowd regions, which count as no boxes. {CROWD_ADVICE}"
    if not train.boxes:
        return f"{train.source} has no box: every image is background. There is nothing to learn."
    if train.images == 1:
        return f"{train.source} has one image: whatever the sampling, it is drawn."
    (only,) = (row.name for row in classes if row.boxes)
    crowded = [row.name for row in classes if row.is_crowd_only]
    if crowded:
        return (
            f"All annotations of {shorten(crowded)} are crowd regions, which leaves {only} alone to"
            f" count. {CROWD_ADVICE}"
        )
    return f"Only {only} has boxes: with one class there is nothing to balance."


def _is_balanced(present: Sequence[ClassPlan]) -> bool:
    boxes, images = [row.boxes for row in present], [row.images for row in present]
    return all(max(counts) < BALANCED * min(counts) for counts in (boxes, images))


def _is_worth_it(setting: Setting, none: Setting) -> bool:
    """Whether it changes enough, both for the least shown class and between it and the most."""
    return (
        setting.least_boxes >= WORTH * none.least_boxes and setting.max_min * WORTH <= none.max_min
    )


def _at_best(choices: Sequence[Setting], none: Setting, train: FileSummary) -> str:
    """What sampling can do, where that is too little."""
    if not choices:
        return "every setting draws few images over and over."
    best = max(choices, key=lambda setting: setting.least_boxes)
    return (
        f"with {best.name}, {train.images:,} drawn images show"
        f" {counted(best.least_boxes, 'box')} of the least shown class instead of"
        f" {_boxes(none.least_boxes)}, and the most shown class comes {_times(best.max_min)} times"
        f" as often as the least shown one instead of {_times(none.max_min)} times."
    )


def _never_alone(present: Sequence[ClassPlan]) -> str:
    """Which rare classes come with another one whenever they come."""
    rare = [row for row in present if row.group == "rare"]
    never = [row.name for row in rare if row.companion_images == row.images]
    if not never:
        return ""
    return f"{shorten(never)} {'never comes' if len(never) == 1 else 'never come'} alone. "


def _what_remains(rarest: ClassPlan, paste: dict[str, Any]) -> str:
    adding = "Paste adds" if paste else "If it is missed after training, let paste add"
    return (
        f"{adding} boxes of {rarest.name} alone; a loss for rare classes (loss.name:"
        " equalized_focal) and repair after training (detbalance refit) need no other images."
    )


def _may_be(name: str, setting: Setting, train: FileSummary) -> bool:
    """Whether the setting is the one of this name, and may be recommended."""
    return (
        setting.name == name
        and math.isfinite(setting.max_min)
        and setting.largest_repeat < 1.001 * LARGEST_REPEAT
        and setting.effective_images >= KEPT_VARIETY * train.images
    )


def _boxes(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:,.0f}"


def _times(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _paste(present: Sequence[ClassPlan], by_default: Collection[str]) -> dict[str, Any]:
    """The `paste` section, empty where no class needs it or can be pasted."""
    few = [
        row.name
        for row in present
        if row.boxes < ENOUGH_BOXES and row.median_size >= SMALLEST_DONOR
    ]
    if not few:
        return {}
    if set(by_default).intersection(few):
        return {"probability": PASTE_PROBABILITY}
    return {"probability": PASTE_PROBABILITY, "classes": few}


def pasted_classes(
    present: Sequence[ClassPlan], paste: dict[str, Any], by_default: Collection[str]
) -> list[str]:
    """The classes that a `paste` section takes."""
    if "classes" in paste:
        return list(paste["classes"])
    return [
        row.name
        for row in present
        if paste and row.name in by_default and row.median_size >= SMALLEST_DONOR
    ]


def _pasted_words(
    present: Sequence[ClassPlan], paste: dict[str, Any], by_default: Collection[str]
) -> str:
    named = shorten(pasted_classes(present, paste, by_default))
    if "classes" in paste:
        return f"{named}, which have fewer than {ENOUGH_BOXES}"
    return f"{named}: all rare and common classes, the rarer the more often"


def _augmentation(paste: dict[str, Any]) -> dict[str, Any]:
    return {"augmentation": {"paste": paste}} if paste else {}


def _plain(verdict: str, reason: str, paste: dict[str, Any] | None = None) -> Recommendation:
    """No sampling."""
    config = {"sampling": {"method": "none"}, **_augmentation(paste or {})}
    return Recommendation("none", verdict, reason, config, yaml_text(config))


def yaml_text(section: dict[str, Any]) -> str:
    """Write nested settings as YAML."""
    try:
        import yaml
    except ImportError as error:
        raise needs("the lines of a plan", "PyYAML", "report") from error
    text = yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=math.inf)
    return str(text).rstrip("\n")


def yaml_line(section: dict[str, Any]) -> str:
    """Write nested settings as one line of YAML."""
    import yaml

    text = yaml.safe_dump(
        section, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return str(text).strip()[1:-1]
