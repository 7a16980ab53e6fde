"""Which images belong together: one source photo, one video, one patient."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Int64
from detbalance.data.duplicates import COPY
from detbalance.data.files import parse_json
from detbalance.data.loading import source_text
from detbalance.data.tolerant import whole_id


class _Images(msgspec.Struct, gc=False):
    images: list[dict[str, Any]]


def image_groups(
    annotations: Annotations, group_by: str | re.Pattern[str] | None
) -> tuple[Int64, list[str]]:
    """Find the group of each image.

    Images with one file name are in one group in any case: they are one picture, listed twice.

    Args:
        annotations: whose images to group.
        group_by: a key of the image entries, read again from the file that the annotations came
            from, with dots between nested keys ("extra.name"); or a compiled regular expression to
            find in file names, whose first group (the whole match if it has none) names the group;
            or None: each image is a group of its own, but augmented copies
            (`<source>.rf.<hash>.jpg`) are with those of the same source.

    Returns:
        int64 [M], the group of each image, numbered in order of appearance; and a name for each.

    Raises:
        ValueError: if an image has no such key, or its name does not match; or the file cannot be
            read again.

    Example:
        >>> import re
        >>> from tempfile import TemporaryDirectory
        >>> from pathlib import Path
        >>> from detbalance.data import load_annotations
        >>> names = ["a_1.png", "b_1.png", "a_2.png"]
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "all.json"
        ...     entries = [{"id": i, "file_name": name} for i, name in enumerate(names)]
        ...     categories = [{"id": 1, "name": "cell"}]
        ...     document = {"images": entries, "categories": categories, "annotations": []}
        ...     _ = path.write_bytes(msgspec.json.encode(document))
        ...     image_groups(load_annotations(path), re.compile("(.*)_"))
        (array([0, 1, 0]), ['a', 'b'])
    """
    keys: list[str | None]
    if group_by is None:
        keys = [_source(_image_name(annotations, i)) for i in range(annotations.num_images)]
        return _numbered(annotations, keys, "")
    if isinstance(group_by, str):
        return _numbered(annotations, image_values(annotations, group_by), f'no "{group_by}"')
    keys = [_match(group_by, annotations.file_name(i)) for i in range(annotations.num_images)]
    return _numbered(
        annotations, keys, f'a file_name that the regular expression "{group_by.pattern}" misses'
    )


def image_values(annotations: Annotations, key: str) -> list[str | None]:
    """The text of a key's value for each image, None where it has none; as names of groups."""
    data = source_text(annotations.source)
    try:
        entries = msgspec.json.decode(data, type=_Images).images
    except msgspec.DecodeError:  # NaN tokens and the like, which the loader accepts as well
        document: Any = parse_json(data, annotations.source)
        entries = [entry for entry in document["images"] if isinstance(entry, dict)]
    values: dict[Any, Any] = {}
    for entry in entries:
        values.setdefault(whole_id(entry.get("id")), _value(entry, key))
    found = (values.get(image_id) for image_id in annotations.image_ids.tolist())
    return [None if value is None else _text(value) for value in found]


def _value(entry: dict[str, Any], key: str) -> Any:
    """The value of a key, or else of keys inside one another with dots between them."""
    if key in entry:
        return entry[key]
    first, dot, rest = key.partition(".")
    inner = entry.get(first)
    return _value(inner, rest) if dot and isinstance(inner, dict) else None


def _source(name: str) -> str:
    """What an image was made from, by its name."""
    copy = COPY.search(name)
    return copy[1] if copy else name


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _match(pattern: re.Pattern[str], file_name: str) -> str | None:
    match = pattern.search(file_name)
    if match is None:
        return None
    return match[1] if pattern.groups else match[0]


def _numbered(
    annotations: Annotations, keys: list[str | None], lacking: str
) -> tuple[Int64, list[str]]:
    missing = [i for i, key in enumerate(keys) if key is None]
    if missing:
        have = "image has" if len(missing) == 1 else "images have"
        raise ValueError(
            f"{annotations.source}: {len(missing)} of {len(keys)} {have} {lacking} (first: "
            f"{_image_name(annotations, missing[0])}). Every image must belong to a group. Complete"
            " the file, or group by something that all images have."
        )
    # Groups that share a file become one, under the name of the first of them.
    above: dict[str, str] = {}

    def top(key: str) -> str:
        while key in above:
            key = above[key]
        return key

    first: dict[bytes, str] = {}
    for name, key in zip(annotations.file_names, keys, strict=True):
        one, other = top(first.setdefault(name, str(key)) if name else str(key)), top(str(key))
        if one != other:
            above[other] = one
    number: dict[str, int] = {}
    groups = [number.setdefault(top(str(key)), len(number)) for key in keys]
    return np.array(groups, dtype=np.int64), list(number)


def _image_name(annotations: Annotations, image: int) -> str:
    return annotations.file_name(image) or f"image {annotations.image_ids[image]}"
