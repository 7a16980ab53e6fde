"""A trained detector for elsewhere: an ONNX graph, TorchScript, or torchvision's own model.

What is written is read again and compared with the model before it may stay.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.models.detection as tv
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from detbalance.data.arrays import Float64
from detbalance.data.files import replace_file
from detbalance.data.messages import needs
from detbalance.detection.backbones import TORCHVISION_BACKBONES

OPSET = 17
# Of scores, and of boxes as a part of the image's longer side.
TOLERANCE = 1e-5
_NEVER = -100.0  # a logit whose sigmoid is 0 to float32

_OUTPUTS = ("boxes", "labels", "scores")

Detections = dict[str, Tensor]
Run = Callable[[Tensor], Detections]


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        files: that were written.
        images: on which the file and the model were compared.
        detections: of the model on these images.
        difference: the largest, of scores, and of boxes as a part of the image's longer side.
    """

    files: tuple[Path, ...]
    images: int
    detections: int
    difference: float


class Thresholded(nn.Module):
    """A detector that drops what is below the score threshold of its class."""

    def __init__(self, model: nn.Module, thresholds: Float64 | None = None) -> None:
        super().__init__()
        self.model = model
        known = torch.zeros(1) if thresholds is None else torch.as_tensor(np.nan_to_num(thresholds))
        self.thresholds: Tensor
        self.register_buffer("thresholds", known.float(), persistent=False)
        self.is_thresholded = thresholds is not None

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detect: boxes [n, 4] (xyxy, pixels), labels [n], scores [n] of each image."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            _, found = self.model(images)
        else:
            found = self.model(images)
        if not self.is_thresholded:
            return found  # type: ignore[no-any-return]
        kept: list[dict[str, Tensor]] = []
        for one in found:
            rows = one["scores"] >= self.thresholds[one["labels"]]
            kept.append({name: value[rows] for name, value in one.items()})
        return kept


class _OneImage(nn.Module):
    """A detector of one image, whose outputs have an order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.model([image])
        return tuple(found[name] for name in _OUTPUTS)


def export_onnx(
    model: nn.Module,
    path: Path,
    images: Sequence[Tensor],
    *,
    thresholds: Float64 | None = None,
) -> Exported:
    """Write an ONNX graph of a detector: one image of one size in; boxes, labels and scores out.

    Args:
        model: as `load_detector` gives it.
        path: of the file.
        images: float [3, H, W] in 0..1, all of the size that the graph is for; what it is compared
            on.
        thresholds: [K + 1] score thresholds by label that go into the graph; None for those of the
            model.

    Returns:
        The file, and how far it was from the model.

    Raises:
        ValueError: if what ONNX Runtime detects is not what the model detects.
        ImportError: if onnx or onnxruntime is missing.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise needs("writing ONNX", "onnx and onnxruntime", "export") from error
    whole = Thresholded(model, thresholds)
    whole.eval()
    height, width = images[0].shape[1:]
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # on tracing what is fixed here: the size of the image
        torch.onnx.export(
            _OneImage(whole).eval(),
            (images[0],),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(_OUTPUTS),
            dynamic_axes={name: {0: "detections"} for name in _OUTPUTS},
        )
    graph = onnx.load_from_string(buffer.getvalue())
    about = {
        "class_names": _names(model),
        "input": f"float32 [3, {height}, {width}], RGB in 0..1",
        "boxes": "x1, y1, x2, y2 in pixels of the input",
    }
    for key, value in about.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    content = graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def run(image: Tensor) -> Detections:
        found = session.run(list(_OUTPUTS), {"image": image.numpy()})
        return dict(zip(_OUTPUTS, map(torch.from_numpy, found), strict=True))

    result = _compared(whole, run, images, path)
    with replace_file(path) as file:
        file.write(content)
    return result


def _names(model: nn.Module) -> str:
    return json.dumps(list(model.class_names), ensure_ascii=False)  # type: ignore[arg-type]


def export_torchscript(
    model: nn.Module,
    path: Path,
    images: Sequence[Tensor],
    *,
    thresholds: Float64 | None = None,
) -> Exported:
    """Write TorchScript of a detector: a list of images of any size in, a list of dicts out.

    The arguments, and what is returned and raised, are those of `export_onnx`.
    """
    whole = Thresholded(model, thresholds)
    whole.eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # newer versions of torch advise another format
        extra = {"class_names.json": _names(model).encode()}
        torch.jit.save(torch.jit.script(whole), buffer, _extra_files=extra)
        buffer.seek(0)
        again = torch.jit.load(buffer)  # type: ignore[no-untyped-call]

    def run(image: Tensor) -> Detections:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore")  # torchvision's, on what it returns when scripted
            return _detect(again, image)

    result = _compared(whole, run, images, path)
    with replace_file(path) as file:
        file.write(buffer.getvalue())
    return result


def export_torchvision(
    model: nn.Module, path: Path, images: Sequence[Tensor], *, options: Mapping[str, Any]
) -> Exported:
    """Write the weights of torchvision's own model, and beside them how it is made.

    Args:
        model: as `load_detector` gives it.
        path: of the safetensors file; the JSON file beside it has its name.
        images: to compare on.
        options: the `model` section of the run's configuration.

    Returns:
        The files, and how far the model of torchvision was from this one.

    Raises:
        ValueError: if the backbone or the layers are not torchvision's, or torchvision's scores are
            not those of the loss.
    """
    import safetensors.torch

    detector, backbone = options["detector"], options["backbone"]
    builder = f"{detector}_{backbone}"
    if backbone not in TORCHVISION_BACKBONES or not hasattr(tv, builder):
        raise ValueError(
            f'export: torchvision has no model "{builder}". A backbone of its own is expected'
            " (resnet50_fpn, ...). Export to ONNX or TorchScript."
        )
    num_classes = len(model.class_names)  # type: ignore[arg-type]
    recipe = _recipe(model, detector, builder, num_classes)
    try:
        stock = build_stock(recipe)
        state = _plain_state(model, stock, num_classes)
        stock.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"export: the layers are not those of {builder} ({str(error).splitlines()[0][:120]})."
            " Torchvision's own are expected. Export to ONNX or TorchScript."
        ) from error
    stock.eval()
    found = _compared(Thresholded(model), lambda image: _detect(stock, image), images, path)
    described = path.with_suffix(".json")
    with replace_file(path) as file, replace_file(described) as text:
        file.write(safetensors.torch.save({k: v.contiguous() for k, v in state.items()}))
        text.write((json.dumps(recipe, indent=2, ensure_ascii=False) + "\n").encode())
    return replace(found, files=(path, described))


def build_stock(recipe: Mapping[str, Any]) -> nn.Module:
    """Make torchvision's model of a recipe: plain torchvision, as anybody would."""
    model: nn.Module = getattr(tv, recipe["builder"])(
        weights=None, weights_backbone=None, **recipe["arguments"]
    )
    part: Any = model.rpn if recipe["builder"].startswith("fasterrcnn") else model
    anchors = AnchorGenerator(
        tuple(map(tuple, recipe["anchor_sizes"])), tuple(map(tuple, recipe["anchor_ratios"]))
    )
    part.anchor_generator = anchors
    return model


def _recipe(model: Any, detector: str, builder: str, num_classes: int) -> dict[str, Any]:
    two_stages = detector == "fasterrcnn"
    part, heads = (model.rpn, model.roi_heads) if two_stages else (model, model)
    names = ("score_thresh", "nms_thresh", "detections_per_img")
    named = {f"box_{name}" if two_stages else name: getattr(heads, name) for name in names}
    if not two_stages:
        named["topk_candidates"] = model.topk_candidates
    return {
        "schema": "detbalance.torchvision/1",
        "builder": builder,
        "arguments": {
            "num_classes": num_classes,
            "min_size": model.transform.min_size[0],
            "max_size": model.transform.max_size,
            **named,
        },
        "anchor_sizes": [list(sizes) for sizes in part.anchor_generator.sizes],
        "anchor_ratios": [list(ratios) for ratios in part.anchor_generator.aspect_ratios],
        "scores": "softmax" if two_stages else "sigmoid",
        "class_names": list(model.class_names),
    }


def _plain_state(model: nn.Module, stock: nn.Module, num_classes: int) -> dict[str, Tensor]:
    """The weights under torchvision's names, with a column for background where it has one."""
    expected = stock.state_dict()
    state = {name: value for name, value in model.state_dict().items() if name in expected}
    for name, value in state.items():
        is_last = name.startswith("head.classification_head.cls_logits")
        if is_last and value.shape[0] != expected[name].shape[0]:
            by_anchor = value.unflatten(0, (-1, num_classes - 1))
            fill = _NEVER if name.endswith("bias") else 0.0
            background = torch.full_like(by_anchor[:, :1], fill)
            state[name] = torch.cat([background, by_anchor], dim=1).flatten(0, 1)
    return state


def _detect(model: nn.Module, image: Tensor) -> Detections:
    with torch.no_grad():
        found: Detections = model([image])[0]
    return found


def _compared(model: Thresholded, run: Run, images: Sequence[Tensor], path: Path) -> Exported:
    """Hold what was written against the model; raise if it detects something else."""
    worst, number = 0.0, 0
    for image in images:
        expected, found = _detect(model, image), run(image)
        number += len(expected["scores"])
        thresholds = model.thresholds if model.is_thresholded else None
        difference = _difference(expected, found, max(image.shape[1:]), thresholds)
        worst = max(worst, difference)
    if not number:
        raise ValueError(
            f"{path}: the model detects nothing on the images, which compares nothing. Images that"
            " show objects are expected. Name their folder (--images)."
        )
    if not worst <= TOLERANCE:
        raise ValueError(
            f"{path}: detects something else than the model (largest difference {worst:.2g}). At"
            f" most {TOLERANCE:g} is expected. Export to another format; nothing was written."
        )
    return Exported((path,), len(images), number, worst)


def _difference(
    expected: Detections, found: Detections, longest: int, thresholds: Tensor | None = None
) -> float:
    """The largest difference of scores and boxes; inf where the detections are others.

    Each is held against the nearest one of its class: equal scores have no order. What is within
    the tolerance of a threshold, or of the lowest score of a full list, may be on one side only.
    """
    sides = [
        torch.cat([side["boxes"] / longest, side["scores"][:, None]], dim=1).double()
        for side in (expected, found)
    ]
    apart = (sides[0][:, None] - sides[1][None]).abs().amax(dim=2)
    apart[expected["labels"][:, None] != found["labels"][None]] = float("inf")
    far = torch.full((1, 1), float("inf"), dtype=apart.dtype)
    worst = 0.0
    for side, rows in ((expected, apart), (found, apart.T)):
        if not len(rows):
            continue
        nearest = torch.cat([rows, far.expand(len(rows), 1)], dim=1).amin(dim=1)
        at_edge = side["scores"] - side["scores"].min() <= TOLERANCE
        if thresholds is not None:
            at_edge |= (side["scores"] - thresholds[side["labels"]]).abs() <= TOLERANCE
        kept = nearest[~(at_edge & (nearest > TOLERANCE))]
        worst = max(worst, float(kept.max()) if len(kept) else 0.0)
    return worst


def made_images(size: tuple[int, int], number: int = 10) -> list[Tensor]:
    """Images to compare on where there are none: soft noise of several scales, [3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(number):
        image = torch.zeros(3, *size)
        for cells in (3, 9, 27):
            noise = torch.rand(1, 3, cells, cells, generator=generator)
            image += F.interpolate(noise, size=size, mode="bilinear")[0] / 3
        images.append(image)
    return images
