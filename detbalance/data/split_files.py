"""Both parts of a split as files: the entries of the source file, every key as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from detbalance.data.annotations import Annotations
from detbalance.data.files import parse_json, replace_file
from detbalance.data.loading import source_text
from detbalance.data.split import Split
from detbalance.data.tolerant import whole_id

_CHUNK = 20_000  # entries written at a time
Entry = bytes | msgspec.Raw
_LISTS = ("images", "annotations", "categories")
_LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


class _Id(msgspec.Struct, gc=False):
    id: int


def write_split(
    split: Split, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write train.json and val.json.

    The entries are those of the source file, with the keys that `Annotations` does not read
    (supercategory, segmentations, licences, what images were grouped by) and the paths of the
    images as they were; annotation ids are numbered anew where they repeat. What was left out on
    loading is left out here.

    Args:
        split: what `split_annotations` gave, of annotations loaded from a file that is still there.
        folder: made if need be.
        overwrite: replace files that are there.

    Returns:
        The paths of the training and the validation file.

    Raises:
        ValueError: if one of the files exists and `overwrite` is off, or is the source itself, or
            the source cannot be read again.
    """
    paths = check_paths(split.train.source, folder, overwrite=overwrite)
    Path(folder).mkdir(parents=True, exist_ok=True)
    source = _Source(split.train.source)
    for part, path in zip((split.train, split.val), paths, strict=True):
        source.write(part, path)
    return paths


def check_paths(
    source: str | os.PathLike[str], folder: str | os.PathLike[str], *, overwrite: bool
) -> tuple[Path, Path]:
    """Return the two paths, or refuse them before any work is done.

    Raises:
        ValueError: as `write_split`.
    """
    paths = Path(folder) / "train.json", Path(folder) / "val.json"
    for path in paths:
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise ValueError(
                f"{path}: is the file to split. Its parts go to another folder. Choose another one."
            )
        if path.exists() and not overwrite:
            raise ValueError(
                f"{path}: exists already. A new or empty folder is expected. Choose another folder,"
                " or pass --overwrite (overwrite=True) to replace it."
            )
    return paths


class _Source:
    """The entries of a file as JSON texts, with their ids."""

    def __init__(self, path: str) -> None:
        data = source_text(path)
        try:
            document: dict[str, Entry] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            entries: dict[str, list[Entry]] = {
                key: msgspec.json.decode(document[key], type=list[msgspec.Raw]) for key in _LISTS
            }
            ids: dict[str, list[int | None]] = {
                key: [entry.id for entry in msgspec.json.decode(document[key], type=list[_Id])]
                for key in _LISTS
            }
        except msgspec.DecodeError:
            # Such a file has faults; the loader has named them, and what is left was asked for.
            whole: Any = parse_json(data, path)
            document = {key: _raw(value) for key, value in whole.items()}
            entries = {key: [_raw(entry) for entry in whole[key]] for key in _LISTS}
            ids = {
                key: [
                    whole_id(entry.get("id")) if isinstance(entry, dict) else None
                    for entry in whole[key]
                ]
                for key in _LISTS
            }
        self._entries, self._ids = entries, ids
        self._others = {key: text for key, text in document.items() if key not in _LISTS}

    def write(self, part: Annotations, path: Path) -> None:
        """Write the entries of one part."""
        images = self._chosen("images", part.image_ids.tolist())
        numbered = any(fault.kind == "annotation number" for fault in part.faults)
        if any(not fault.is_note for fault in part.faults):
            images = _with_known_categories(images, set(part.categories.ids))
        with replace_file(path) as file:
            file.write(b"{")
            for key, text in self._others.items():
                file.write(msgspec.json.encode(key) + b":" + bytes(text) + b",\n")
            for key, texts in (
                ("categories", self._chosen("categories", part.categories.ids)),
                ("images", images),
                (
                    "annotations",
                    self._chosen("annotations", part.annotation_ids.tolist(), numbered=numbered),
                ),
            ):
                file.write(b'"' + key.encode() + b'":[\n')
                for start in range(0, len(texts), _CHUNK):
                    chunk = texts[start : start + _CHUNK]
                    file.write((b",\n" if start else b"") + b",\n".join(chunk))
                file.write(b"]}\n" if key == "annotations" else b"],\n")

    def _chosen(self, key: str, wanted: Iterable[int], *, numbered: bool = False) -> list[Entry]:
        """The first entry with each of the wanted ids, in the order of the file."""
        left: set[int | None] = set(wanted)
        entries = self._entries[key]
        ids = range(1, len(entries) + 1) if numbered else self._ids[key]
        chosen: list[Entry] = []
        for entry_id, entry in zip(ids, entries, strict=True):
            if entry_id in left:
                left.discard(entry_id)
                chosen.append(
                    _raw({**json.loads(bytes(entry)), "id": entry_id}) if numbered else entry
                )
        return chosen


def _raw(value: object) -> bytes:
    return json.dumps(value).encode()


def _with_known_categories(images: Sequence[Entry], known: set[int]) -> list[Entry]:
    """Take categories that were left out from the lists of images, too."""
    changed: list[Entry] = []
    for text in images:
        image = json.loads(bytes(text))
        for key in _LVIS_KEYS:
            if key in image:
                ids = image[key] if isinstance(image[key], list) else []
                image[key] = [i for i in ids if whole_id(i) in known]
        changed.append(_raw(image))
    return changed
