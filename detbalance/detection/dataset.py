"""Images and boxes of an annotation file as torchvision's detectors take them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.tv_tensors import BoundingBoxes

from detbalance.augmentation.cutting import note_unusable_masks, segmentation_mask
from detbalance.augmentation.transform import PER_IMAGE, Augmentation, Image, Target, take_rows
from detbalance.data import Annotations
from detbalance.data.checks import check_number
from detbalance.data.images import check_size, read_image
from detbalance.detection.targets import CROWD_LABEL

logger = logging.getLogger(__name__)

Example = tuple[Tensor, dict[str, Tensor]]

MIN_SIDE = 0.01
"""Pixels: torchvision stops at boxes without extent, which augmentation can leave."""

_NO_EPOCH = -1


@dataclass(frozen=True)
class Draw:
    """An image to load, and its place in the stream of all draws of a run."""

    index: int
    position: int


class DetectionDataset(Dataset[Example]):
    """Images with their boxes, by row of the annotations; boxes are `tv_tensors.BoundingBoxes`.

    It holds flat arrays and paths only, so forked workers share them and spawned ones get them by
    one small pickle.

    Args:
        annotations: of the images.
        image_dir: the folder that file names start from.
        augmentation: called on every image and target as `detbalance.augmentation.Augmentation`
            says; None for the images as they are.
        masks: give the augmentation the masks of the objects too, for which the annotations must
            have been loaded with segmentations.
        seed: of the augmentation's random draws, >= 0.

    Attributes:
        annotations: of the images.

    Raises:
        ValueError: if `seed` is negative, `image_dir` is no folder, or `masks` is set and the
            annotations have no segmentations.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        *,
        augmentation: Augmentation | None = None,
        masks: bool = False,
        seed: int = 0,
    ) -> None:
        self.image_dir = Path(image_dir)
        if not self.image_dir.is_dir():
            expected = "The folder of the images is expected. Correct the path."
            raise ValueError(f"{image_dir}: is no folder. {expected}")
        check_number("DetectionDataset", "seed", seed, least=0, whole=True)
        if masks and annotations.segmentations is None:
            raise ValueError(
                f"{annotations.source}: segmentations were not loaded, but masks are asked for."
                " Call load_annotations(path, segmentations=True)."
            )
        if masks:
            note_unusable_masks(annotations, np.arange(annotations.num_annotations))
        self.annotations = annotations
        self.augmentation = augmentation
        self.masks = masks
        self.seed = seed
        self._calls = 0
        # Shared, so that worker processes that are kept over the epochs see it change.
        self._epoch = torch.full((1,), _NO_EPOCH)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """The number of images."""
        return self.annotations.num_images

    def set_epoch(self, epoch: int) -> None:
        """Let the augmentation of a plain row depend on the seed, the epoch and the row alone.

        Call it before each epoch. The images are then the same whatever the number of workers, and
        after a resume. A row that is drawn twice in an epoch looks the same both times: samplers
        that repeat images are better served by `Draw`, which has a place in the stream for each.

        Args:
            epoch: >= 0.

        Raises:
            ValueError: if it is negative.
        """
        check_number("DetectionDataset", "epoch", epoch, least=0, whole=True)
        self._epoch.fill_(epoch)

    def __getitem__(self, draw: int | Draw) -> Example:
        """Load an image and its target."""
        index = draw.index if isinstance(draw, Draw) else int(draw)
        if not 0 <= index < len(self):
            raise IndexError(f"DetectionDataset: no image row {index}; there are {len(self)}.")
        image, target = self.load(index)
        lists: dict[str, NDArray[Any]] = {}
        if self.augmentation is not None:
            image, target = self.augmentation(image, target, self._generator(draw))
            lists["pastes"] = np.zeros((0, 2))
        lists.update({name: target[name] for name in PER_IMAGE if name in target})
        boxes = target["boxes"]
        kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1))
        target = take_rows(target, kept)
        crowd = target["is_crowd"]
        # As floats already here: torch knows little to do with 16 bits.
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        return torch.from_numpy(pixels).div_(np.iinfo(image.dtype).max), {
            # With what a transform of torchvision (v2) needs to move them with the image.
            "boxes": BoundingBoxes(
                _tensor(target["boxes"], np.float32), format="XYXY", canvas_size=image.shape[:2]
            ),
            "labels": _tensor(np.where(crowd, CROWD_LABEL, target["labels"]), np.int64),
            "area": _tensor(target["areas"], np.float32),
            "iscrowd": _tensor(crowd, np.int64),
            "pasted": _tensor(target["pasted"], np.bool_),
            "image_id": torch.tensor(index),
            **{name: _tensor(values, np.int64) for name, values in lists.items()},
        }

    def load(self, index: int) -> tuple[Image, Target]:
        """Load an image and its target without augmentation, as augmentations take them.

        Args:
            index: row of the image.

        Returns:
            The image, uint8 or for a 16-bit file uint16 [H, W, 3], RGB; and the target with the
            arrays that `detbalance.augmentation.Augmentation` describes, `pasted` among them.
            `masks` only if the data set was made with them; an object without a segmentation has
            its box there.

        Raises:
            ValueError: if the image is missing, unreadable, or of another size than the annotations
                say.
        """
        notes, rows = self.annotations, self.annotations.rows(index)
        name = notes.file_name(index)
        if not name:
            raise ValueError(
                f"{notes.source}: image {notes.image_ids[index]} has no file_name. A file name is"
                " needed to open the image. Add it."
            )
        path = notes.image_path(index, self.image_dir)
        image = read_image(path, keep_depth=True)
        check_size(notes, index, path, image)
        target: Target = {
            "boxes": notes.boxes[rows],
            "labels": notes.labels[rows],
            "areas": notes.areas[rows],
            "is_crowd": notes.is_crowd[rows],
            "pasted": np.zeros(rows.stop - rows.start, dtype=np.bool_),
        }
        if self.masks:
            target["masks"] = self._masks(rows, image.shape[:2])
        for key, lists in (
            ("negative_labels", notes.neg_labels),
            ("not_exhaustive_labels", notes.not_exhaustive_labels),
        ):
            if lists is not None:
                target[key] = lists[index]
        return image, target

    def _masks(self, rows: slice, size: tuple[int, ...]) -> NDArray[np.bool_]:
        masks = np.zeros((rows.stop - rows.start, *size), np.bool_)
        for mask, row in zip(masks, range(rows.start, rows.stop), strict=True):
            outline = segmentation_mask(self.annotations.segmentation(row), *size)
            if outline is None:
                left, top, right, bottom = self.annotations.boxes[row].tolist()
                mask[int(top) : math.ceil(bottom), int(left) : math.ceil(right)] = True
            else:
                mask[...] = outline
        return masks

    def _generator(self, draw: int | Draw) -> np.random.Generator:
        if isinstance(draw, Draw):
            return np.random.default_rng([self.seed, draw.position])
        epoch = int(self._epoch)
        if epoch != _NO_EPOCH:
            # The 1 keeps the numbers apart from those of positions, as NumPy fills up with zeros.
            return np.random.default_rng([self.seed, epoch, int(draw), 1])
        self._calls += 1
        worker = get_worker_info()
        loader = 0 if worker is None else worker.seed
        return np.random.default_rng([self.seed, int(draw), loader, self._calls])


def _tensor(values: NDArray[Any], dtype: Any) -> Tensor:
    # A copy: the arrays of the annotations are read-only, tensors are not.
    return torch.from_numpy(np.array(values, dtype=dtype))


def collate(batch: Sequence[Example]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Put examples together for a detector, which takes images of different sizes as a list.

    Values are plain tensors then: nothing is transformed any more, and they cost less.
    """
    plain = [
        {name: value.as_subclass(Tensor) for name, value in target.items()} for _, target in batch
    ]
    return [image for image, _ in batch], plain


def worker_init(worker: int) -> None:
    """Let a loader's worker process use one thread; the `worker_init_fn` of a `DataLoader`."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@contextmanager
def batches_of(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """The batches of a loader, whose processes end with the block."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        # Where one process was killed another may die later, and torch then raises from its signal
        # handler, in whatever this process is at: closing a file, or what comes after the run. What
        # ends them forgets them too, whether or not it is raised in here.
        if shut_down := getattr(batches, "_shutdown_workers", None):
            with suppress(RuntimeError):
                shut_down()


@contextmanager
def worker_deaths() -> Iterator[None]:
    """Say what it means when a loader's worker process is killed."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        text = str(error) or type(error).__name__
        known = "DataLoader worker (pid" in text or "shared memory" in text
        # What a worker itself raised is something else.
        if "in DataLoader worker process" in text or (
            isinstance(error, RuntimeError) and not known
        ):
            raise
        raise ValueError(
            f"a process that loads images died ({text.strip().splitlines()[-1][:200]}). Too little"
            " memory, or shared memory (/dev/shm), is the usual cause. Lower train.workers or"
            " --workers (0 loads without further processes), or the batch size."
        ) from error
