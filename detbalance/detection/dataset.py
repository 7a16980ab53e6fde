"""Images and boxes of an annotation file as torchvision's detectors take them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from detbalance.annotations import Annotations
from detbalance.detection.crowd import CROWD_LABEL
from detbalance.images import read_image, size_problem

if TYPE_CHECKING:
    from detbalance.augmentation import Augmentation

__all__ = ["DetectionDataset", "Draw", "Example", "collate", "worker_init"]

logger = logging.getLogger(__name__)

Example = tuple[Tensor, dict[str, Tensor]]

MIN_SIDE = 0.01
"""Pixels: torchvision stops at boxes without extent, which augmentation can leave."""


@dataclass(frozen=True)
class Draw:
    """An image to load, and its place in the stream of all draws of a run.

    Attributes:
        index: row of the image.
        position: place in the stream, >= 0; it decides the augmentation.
    """

    index: int
    position: int


class DetectionDataset(Dataset[Example]):
    """Images with their boxes, by row of the annotations.

    It holds flat arrays and paths only, so forked workers share them and spawned ones get them by
    one small pickle.

    Args:
        annotations: of the images.
        image_dir: the folder that file names start from.
        augmentation: called on every image and target as `detbalance.augmentation.Augmentation`
            says; None for the images as they are.
        seed: of the augmentation's random draws, >= 0.

    Attributes:
        annotations: of the images.

    Raises:
        ValueError: if `seed` is negative or `image_dir` is no folder.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.image_dir = Path(image_dir)
        if not self.image_dir.is_dir():
            raise ValueError(
                f"{image_dir}: is no folder. The folder of the images is expected. Correct the"
                " path."
            )
        if seed < 0:
            raise ValueError(
                f"DetectionDataset: seed is {seed}. A whole number from 0 on is expected. Change"
                " seed."
            )
        self.annotations = annotations
        self.augmentation = augmentation
        self.seed = seed
        self._calls = 0

    def __len__(self) -> int:
        """The number of images."""
        return self.annotations.num_images

    def __getitem__(self, draw: int | Draw) -> Example:
        """Load an image and its target.

        Args:
            draw: a `Draw`, whose augmentation depends on `seed` and its position alone; or a plain
                row, whose augmentation is another one each time, by the seed of the worker.

        Returns:
            The image, float32 [3, H, W] in 0..1, RGB; and the target with `boxes` float32 [n, 4]
            xyxy in pixels, `labels` int64 [n] (1..K; -1 for crowd regions), `area` float32 [n],
            `iscrowd` int64 [n], `pasted` bool [n] (put there by the augmentation) and `image_id`,
            int64, the row. Where the file has the lists of LVIS, also `negative_labels`, int64
            (1..K), the classes that were verified to be absent from the image, and
            `not_exhaustive_labels`, int64, those with objects that are not annotated. The lists
            are the file's: a class that the augmentation pastes into an image where it was absent
            is in `labels` and in `negative_labels`, and to a loss its box is simply a positive.

        Raises:
            IndexError: if there is no such row.
            ValueError: if the image is missing, unreadable, or of another size than the annotations
                say.
        """
        index = draw.index if isinstance(draw, Draw) else int(draw)
        if not 0 <= index < len(self):
            raise IndexError(f"DetectionDataset: no image row {index}; there are {len(self)}.")
        image, target = self._load(index)
        if self.augmentation is not None:
            image, target = self.augmentation(image, target, self._generator(draw))
        boxes = target["boxes"]
        kept = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)
        target = {name: values[kept] for name, values in target.items()}
        crowd = target["is_crowd"]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return pixels.contiguous().float().div_(255), {
            "boxes": _tensor(target["boxes"], np.float32),
            "labels": _tensor(np.where(crowd, CROWD_LABEL, target["labels"]), np.int64),
            "area": _tensor(target["areas"], np.float32),
            "iscrowd": _tensor(crowd, np.int64),
            "pasted": _tensor(target["pasted"], np.bool_),
            "image_id": torch.tensor(index),
            **self._lists(index),
        }

    def _load(self, index: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
        notes, rows = self.annotations, self.annotations.rows(index)
        name = notes.file_name(index)
        if not name:
            raise ValueError(
                f"{notes.source}: image {notes.image_ids[index]} has no file_name. A file name is"
                " needed to open the image. Add it."
            )
        image = read_image(self.image_dir / name)
        if problem := size_problem(notes, index, (image.shape[1], image.shape[0])):
            raise ValueError(
                f"{self.image_dir / name}: {problem}. The same size is expected, as boxes are in"
                " pixels. Replace the image or correct the annotations."
            )
        return image, {
            "boxes": notes.boxes[rows],
            "labels": notes.labels[rows],
            "areas": notes.areas[rows],
            "is_crowd": notes.is_crowd[rows],
            "pasted": np.zeros(rows.stop - rows.start, dtype=np.bool_),
        }

    def _lists(self, index: int) -> dict[str, Tensor]:
        """The LVIS lists; of the image, not of its boxes, so the augmentation does not see them."""
        lists = {
            "negative_labels": self.annotations.neg_labels,
            "not_exhaustive_labels": self.annotations.not_exhaustive_labels,
        }
        return {
            name: _tensor(labels[index], np.int64)
            for name, labels in lists.items()
            if labels is not None
        }

    def _generator(self, draw: int | Draw) -> np.random.Generator:
        if isinstance(draw, Draw):
            return np.random.default_rng([self.seed, draw.position])
        self._calls += 1
        worker = get_worker_info()
        loader = 0 if worker is None else worker.seed
        return np.random.default_rng([self.seed, int(draw), loader, self._calls])


def _tensor(values: NDArray[Any], dtype: Any) -> Tensor:
    # A copy: the arrays of the annotations are read-only, tensors are not.
    return torch.from_numpy(np.array(values, dtype=dtype))


def collate(batch: Sequence[Example]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Put examples together for a detector, which takes images of different sizes as a list.

    Args:
        batch: examples of a `DetectionDataset`.

    Returns:
        The images and the targets.
    """
    return [image for image, _ in batch], [target for _, target in batch]


def worker_init(worker: int) -> None:
    """Let a loader's worker process use one thread; the `worker_init_fn` of a `DataLoader`.

    Args:
        worker: its number, not used.
    """
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
