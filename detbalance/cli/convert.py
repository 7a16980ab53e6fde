"""`detbalance convert`: annotations in another format, and what that cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from detbalance.cli.evaluating import check_folder
from detbalance.cli.options import DropInvalid, Positional, command
from detbalance.cli.outputs import Output
from detbalance.cli.printing import say
from detbalance.data import load_annotations
from detbalance.data.convert import convert
from detbalance.data.loading import image_folder
from detbalance.data.messages import counted


@command(
    "convert", "detbalance convert data.yaml:train --val data.yaml:val --to coco --output coco"
)
def convert_command(
    *,
    train_file: Annotated[Path, Positional("ANNOTATIONS")],
    val_file: Annotated[Path | None, "--val", "The validation data, in any of the formats."] = None,
    output: Annotated[Path, Output("*.json", "data.yaml", lock=""), "A new folder."],
    to: Annotated[Literal["coco", "yolo", "voc"], "The format to write."] = "coco",
    images: Annotated[
        Path | None, "Folder of the images, where the annotations do not say it."
    ] = None,
    val_images: Annotated[
        Path | None, "Folder of the validation images. Default: that of the others."
    ] = None,
    drop_invalid: DropInvalid = False,
) -> None:
    """Read COCO or LVIS files, YOLO labels or VOC folders, and write them beside their images.

    YOLO labels are named as data.yaml:train, a split of a VOC folder as VOC2007:train.
    """
    check_folder("--images", images)
    check_folder("--val-images", val_images)
    files = {"train": train_file, **({} if val_file is None else {"val": val_file})}
    parts = {
        name: load_annotations(file, segmentations=True, drop_invalid=drop_invalid)
        for name, file in files.items()
    }
    folders = {"train": images, "val": val_images or images}
    known = {name: folders[name] or image_folder(file) for name, file in files.items()}
    there = {name: folder for name, folder in known.items() if folder is not None}
    lost = convert(parts, output, to, images=there or None)
    for text in lost:
        say(f"Note: {text}", style="yellow")
    each = [
        f"{name} ({counted(part.num_images, 'image')}, {counted(part.num_annotations, 'box')})"
        for name, part in parts.items()
    ]
    say(f"Written: {output}, {' and '.join(each)}; {_READ[to].format(output=output)}")


_READ = {
    "coco": "read them as {output}/train.json, images in {output}/images/train",
    "yolo": "read them as {output}/data.yaml:train",
    "voc": "read them as {output}:train",
}
