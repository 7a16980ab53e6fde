"""The rules of matching: COCO's and LVIS's, and which of them a file asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from detbalance.data import Annotations

RulesName: TypeAlias = Literal["coco", "lvis"]
RulesChoice: TypeAlias = Literal["auto", "coco", "lvis"]
# pycocotools writes its grids with linspace; arange would give other last bits.
IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
AREA_RANGES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


@dataclass(frozen=True)
class Rules:
    """How detections are matched and which of them count.

    Attributes:
        name: "coco": crowd regions are neither to be found nor wrong to find. "lvis": the same of
            annotations marked `ignore`; an image says which classes were looked for in it, and
            detections of others do not count.
        iou_thresholds: smallest overlaps of a match, ascending, in (0, 1].
        max_detections: how many detections of an image take part, highest scores first: of each
            class by COCO's rules, of all classes together by LVIS's. None for all.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312; Gupta et al., LVIS, 2019,
    arXiv:1908.03195, section 2.4; and the reference codes pycocotools and lvis-api.
    """

    name: RulesName = "coco"
    iou_thresholds: tuple[float, ...] = IOU_THRESHOLDS
    max_detections: int | None = 100

    @property
    def cap_is_per_class(self) -> bool:
        """Whether `max_detections` holds for each class of an image on its own."""
        return self.name == "coco"


COCO = Rules()
LVIS = Rules("lvis", max_detections=300)


def choose_rules(annotations: Annotations, choice: RulesChoice | Rules = "auto") -> Rules:
    """Choose the rules that a file asks for, or the ones named."""
    listed = annotations.neg_labels is not None and annotations.not_exhaustive_labels is not None
    wanted = choice.name if isinstance(choice, Rules) else choice
    if wanted not in ("auto", "coco", "lvis"):
        raise ValueError(f'rules: "{wanted}" is unknown. Known: auto, coco, lvis. Choose one.')
    if wanted == "lvis" and not listed:
        raise ValueError(
            f"{annotations.source}: LVIS's rules need neg_category_ids and "
            "not_exhaustive_category_ids of the images, and the file has none. An LVIS file is "
            "expected. Use COCO's rules."
        )
    if isinstance(choice, Rules):
        return choice
    return LVIS if wanted == "lvis" or (wanted == "auto" and listed) else COCO
