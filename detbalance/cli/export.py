"""`detbalance export`: a trained detector for elsewhere, compared before it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F

from detbalance.calibration.thresholds import load_thresholds
from detbalance.cli.evaluating import check_folder
from detbalance.cli.options import Positional, command, sides
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.cli.printing import say, waiting
from detbalance.data.images import SUFFIXES, read_image
from detbalance.data.messages import counted
from detbalance.detection.export import (
    Exported,
    export_onnx,
    export_torchscript,
    export_torchvision,
    made_images,
)
from detbalance.training.checkpoint import (
    config_from_checkpoint,
    load_checkpoint,
    model_from_checkpoint,
)

_BY_SUFFIX = {
    ".onnx": "onnx",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
    ".safetensors": "torchvision",
}
_COMPARED = 10


@command(
    "export",
    "detbalance export runs/bccd/best.pt model.onnx",
    overwrite="Replace the output file.",
)
def export_command(
    *,
    checkpoint: Annotated[Path, Positional("CHECKPOINT")],
    output: Annotated[Path, OUTPUT_FILE, Positional("OUTPUT")],
    to: Annotated[
        Literal["auto", "onnx", "torchscript", "torchvision"],
        "The format; auto: by the suffix. torchvision: weights for torchvision's own model, and a"
        " JSON file that says how it is made.",
    ] = "auto",
    thresholds: Annotated[
        Path | None, "File of `detbalance thresholds`, to go into an ONNX or TorchScript model."
    ] = None,
    image_size: Annotated[
        str | None,
        "--image-size WIDTHxHEIGHT",
        "Size of the images that an ONNX model takes. Default: the largest that the model scales"
        " nothing of.",
    ] = None,
    images: Annotated[Path | None, "Folder of images to compare on. Default: made ones."] = None,
) -> None:
    """Write, run what was written, and keep it if it detects the same as the model.

    The suffix says the format: .onnx, .ts (TorchScript) or .safetensors (torchvision).
    """
    kind = _BY_SUFFIX.get(output.suffix.lower(), "") if to == "auto" else to
    if not kind:
        raise ValueError(
            f"{output}: its suffix is of no format. {', '.join(_BY_SUFFIX)} are expected. Rename"
            " it, or pass --to."
        )
    if kind == "torchvision" and output.suffix == ".json":
        raise ValueError(
            f"{output}: is where the JSON file beside the weights goes. A name that ends in"
            " .safetensors is expected. Rename it."
        )
    if thresholds is not None and kind == "torchvision":
        raise ValueError(
            "--thresholds: torchvision's model has one threshold for all classes. ONNX or"
            " TorchScript is expected with it. Leave it out, or export to another format."
        )
    check_folder("--images", images)
    state = load_checkpoint(checkpoint)
    model = model_from_checkpoint(state, str(checkpoint))
    by_label = None
    if thresholds is not None:
        by_label = load_thresholds(thresholds).by_label(model.categories)  # type: ignore[arg-type]
    size = _size(image_size, model)
    shown = made_images(size) if images is None else _images_of(images, size)
    with waiting(f"writing {kind}", 20):
        if kind == "torchvision":
            options = config_from_checkpoint(state, str(checkpoint)).model.model_dump()
            result = export_torchvision(model, output, shown, options=options)
        else:
            write = export_onnx if kind == "onnx" else export_torchscript
            result = write(model, output, shown, thresholds=by_label)
    say(_sentence(result, kind, size))


def _sentence(result: Exported, kind: str, size: tuple[int, int]) -> str:
    takes = {
        "onnx": f"It takes one image [3, {size[0]}, {size[1]}], RGB in 0..1.",
        "torchscript": "It takes a list of images [3, H, W], RGB in 0..1.",
        "torchvision": "torchvision's own model takes the weights; the JSON says which and how.",
    }[kind]
    return (
        f"Written: {', '.join(map(str, result.files))}. {takes} The same"
        f" {counted(result.detections, 'detection')} as the model's on"
        f" {counted(result.images, 'image')}, to {result.difference:.1g}."
    )


def _size(text: str | None, model: torch.nn.Module) -> tuple[int, int]:
    """Height and width."""
    if text is None:
        transform: Any = model.transform
        return int(transform.min_size[0]), int(transform.max_size)
    width, height = sides("--image-size", text, least=32, most=4096)
    return height, width


def _images_of(folder: Path, size: tuple[int, int]) -> list[torch.Tensor]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:_COMPARED]
    if not files:
        raise ValueError(f"--images: {folder} holds no image. Some are expected. Name another.")
    images = []
    for file in files:
        pixels = torch.from_numpy(read_image(file)).permute(2, 0, 1).float() / 255
        images.append(F.interpolate(pixels[None], size=size, mode="bilinear")[0].clamp(0, 1))
    return images
