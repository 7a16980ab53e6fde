"""Pictures of what models found, and many small images on one sheet."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detbalance.data.files import replace_file
from detbalance.data.fonts import find_font, lacking, text_size, write_text
from detbalance.data.images import import_cv2, read_image
from detbalance.data.messages import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from detbalance.data import Annotations, Predictions

OWN, PASTED, CROWD = (31, 155, 255), (255, 122, 0), (150, 150, 150)
_GAP = 6
_CAPTION = 16  # pixels in height
_FONT = 0.38


@dataclass(frozen=True, eq=False)
class Tile:
    """An image of a sheet."""

    image: npt.NDArray[np.uint8]
    caption: str = ""
    boxes: npt.NDArray[Any] | None = None
    names: Sequence[str] = ()
    colors: Sequence[tuple[int, int, int]] = ()
    note: str = ""


def save_sheet(
    cells: Sequence[Tile], path: str | Path, *, columns: int = 6, width: int = 320, title: str = ""
) -> Path:
    """Put images side by side and write the sheet as a PNG."""
    cv2 = import_cv2()
    columns = min(columns, len(cells))
    drawn = [_drawn(cell, width) for cell in cells]
    tile = max(picture.shape[0] for picture in drawn)
    rows = -(-len(drawn) // columns)
    top = _GAP + (_CAPTION + _GAP if title else 0)
    down, across = tile + _CAPTION + _GAP, width + _GAP
    sheet = np.full((top + rows * down, _GAP + columns * across, 3), 255, np.uint8)
    if title:
        _write(sheet, title, _GAP, _GAP + _CAPTION - 4, (0, 0, 0))
    for number, (cell, picture) in enumerate(zip(cells, drawn, strict=True)):
        row, column = divmod(number, columns)
        y, x = top + row * down, _GAP + column * across
        _write(sheet, _fitting(cell.caption, cell.note, width), x, y + _CAPTION - 4, (70, 70, 70))
        y += _CAPTION
        sheet[y : y + picture.shape[0], x : x + width] = picture
    written, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert written
    with replace_file(path) as file:
        file.write(data.tobytes())
    return Path(path)


def _drawn(cell: Tile, width: int) -> npt.NDArray[np.uint8]:
    """The image at the width of the sheet's columns, with its boxes and their names."""
    cv2 = import_cv2()
    factor = width / cell.image.shape[1]
    height = max(1, round(cell.image.shape[0] * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    picture = cv2.resize(cell.image, (width, height), interpolation=method)
    boxes = np.zeros((0, 4)) if cell.boxes is None else cell.boxes
    for box, name, color in zip(boxes, cell.names, cell.colors, strict=True):
        left, top, right, bottom = (round(float(v) * factor) for v in box)
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), color, 1)
        if name:
            wide, high = text_size(name, _FONT)
            x = max(0, min(left, width - wide - 2))
            y = top - 3 if top > high + 4 else min(bottom + high + 3, height - 2)
            picture[max(0, y - high - 2) : y + 3, x : x + wide + 2] = color
            _write(picture, name, x + 1, y, (255, 255, 255))
    return np.asarray(picture, np.uint8)


def _write(
    picture: npt.NDArray[np.uint8], text: str, x: int, y: int, color: tuple[int, int, int]
) -> None:
    write_text(picture, text, x, y, _FONT, color)


def _fitting(caption: str, note: str, width: int) -> str:
    """As much of both as there is room for: of a caption its end, where file names differ."""

    def fits(text: str) -> bool:
        return text_size(text, _FONT)[0] <= width

    while caption and not fits(caption):
        caption = caption[1:]
    if not note or fits(f"{caption} {note}"):
        return f"{caption} {note}".rstrip()
    while note and not fits(f"{caption} {note}.."):
        note = note[:-1]
    return f"{caption} {note}.." if note else caption


HIGHLIGHT_COLOR = "#ff7a00"
OTHER_COLOR = "#1f9bff"
_PANEL_INCHES = 3.2
_DPI = 130
_LABEL_POINTS = 8.0


def draw_predictions(
    annotations: Annotations,
    image_dir: str | Path,
    models: Mapping[str, Predictions],
    path: str | Path,
    *,
    rows: Sequence[int] | None = None,
    max_rows: int = 4,
    score_threshold: float = 0.3,
    highlight: Collection[int] = (),
    ground_truth: bool = True,
) -> Path:
    """Draw the boxes of several models beside the ground truth, and save the picture."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as exc:
        raise needs("detbalance.reporting.pictures", "matplotlib", "quickstart") from exc

    path = Path(path) if Path(path).suffix else Path(path).with_suffix(".png")
    chosen = pick_rows(annotations, highlight, max_rows) if rows is None else list(rows)
    wrong = [row for row in chosen if not 0 <= row < annotations.num_images]
    if wrong:
        raise ValueError(
            f"draw_predictions(): {len(wrong)} image rows do not exist (first: {wrong[0]}). "
            f"Expected 0 to {annotations.num_images - 1}. Choose rows of {annotations.source}."
        )
    titles = [*(["ground truth"] if ground_truth else []), *models]
    if not chosen or not titles:
        raise ValueError(
            f"draw_predictions(): {len(chosen)} images and {len(titles)} columns. "
            "Expected at least one of each. Pass images and models."
        )
    images = [read_image(annotations.image_path(row, image_dir)) for row in chosen]
    heights = [_PANEL_INCHES * image.shape[0] / image.shape[1] for image in images]
    figure = Figure(
        figsize=(_PANEL_INCHES * len(titles), sum(heights) + 0.3 * len(images) + 0.7),
        dpi=_DPI,
        layout=ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.03, hspace=0.0, wspace=0.0),
    )
    panels = figure.subplots(len(chosen), len(titles), squeeze=False, height_ratios=heights)
    for i, (row, image) in enumerate(zip(chosen, images, strict=True)):
        for j, title in enumerate(titles):
            axes = panels[i, j]
            _show_image(axes, image, annotations.file_name(row) if j == 0 else None)
            if i == 0:
                axes.set_title(title, fontsize=12, fontweight="bold", parse_math=False)
            if ground_truth and j == 0:
                boxes, labels, scores = _truth(annotations, row)
            else:
                boxes, labels, scores = _found(models[title], row, score_threshold)
            names = [annotations.categories.name(label) for label in labels.tolist()]
            _draw_boxes(axes, boxes, labels, names, scores, highlight)
    _legend(figure, bool(highlight), score_threshold)
    save_figure(figure, path)
    return path


def pick_rows(
    annotations: Annotations, highlight: Collection[int] = (), count: int = 4
) -> list[int]:
    """Choose images that show as many classes as possible, without a look at any prediction."""
    counts = ~annotations.is_crowd
    if highlight:
        counts &= np.isin(annotations.labels, list(highlight))
    pairs = list(
        zip(
            annotations.image_index[counts].tolist(),
            annotations.labels[counts].tolist(),
            strict=True,
        )
    )
    chosen: list[int] = []
    shown: set[int] = set()
    while len(chosen) < count:
        candidates: dict[int, list[int]] = {}
        for row, label in pairs:
            if row not in chosen:
                candidates.setdefault(row, []).append(label)
        if not candidates:
            break

        def worth(row: int, labels: dict[int, list[int]] = candidates) -> tuple[int, int, int]:
            return len(set(labels[row]) - shown), len(labels[row]), -row

        best = max(candidates, key=worth)
        chosen.append(best)
        shown.update(candidates[best])
    return chosen


def _truth(
    annotations: Annotations, row: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], None]:
    """Boxes to find in one image, as xywh; crowd regions are not among them."""
    rows = annotations.rows(row)
    kept = ~annotations.is_crowd[rows]
    return annotations.bbox[rows][kept], annotations.labels[rows][kept], None


def _found(
    predictions: Predictions, row: int, score_threshold: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Detections of one image, as xywh, the best last so that it is drawn on top."""
    index = np.flatnonzero(
        (predictions.image_index == row) & (predictions.scores >= score_threshold)
    )
    index = index[np.argsort(predictions.scores[index], kind="stable")]
    return predictions.bbox[index], predictions.labels[index], predictions.scores[index]


def _show_image(axes: Axes, image: npt.NDArray[np.uint8], caption: str | None) -> None:
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    if caption is not None:
        axes.set_xlabel(caption, fontsize=7, color="#666666", loc="left", parse_math=False)


def _draw_boxes(
    axes: Axes,
    boxes: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    names: list[str],
    scores: npt.NDArray[np.float64] | None,
    highlight: Collection[int],
) -> None:
    from matplotlib.patches import Rectangle

    height, width = -float(np.diff(axes.get_ylim())[0]), float(np.diff(axes.get_xlim())[0])
    # The room that one line of text takes above a box, in pixels of the image.
    line = 1.9 * _LABEL_POINTS / 72 * width / _PANEL_INCHES
    # Highlighted boxes come last, on top of the others.
    for i in np.argsort(np.isin(labels, list(highlight)), kind="stable").tolist():
        x, y, w, h = boxes[i].tolist()
        x, y = x - 0.5, y - 0.5  # pixel i is drawn from i - 0.5 to i + 0.5
        color = HIGHLIGHT_COLOR if int(labels[i]) in highlight else OTHER_COLOR
        axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=color, lw=1.8))
        above, below = y >= line, y + h + line <= height
        on_right = x + w / 2 > width / 2
        axes.text(
            min(x + w, width) if on_right else max(x, 0.0),
            y if above else min(y + h, height),
            names[i] if scores is None else f"{names[i]} {scores[i]:.2f}",
            fontsize=_LABEL_POINTS,
            color="black",
            va="top" if below and not above else "bottom",
            ha="right" if on_right else "left",
            clip_on=True,
            parse_math=False,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.0, "alpha": 0.9},
        )


def _legend(figure: Any, highlighted: bool, score_threshold: float) -> None:
    from matplotlib.patches import Patch

    entries = [(OTHER_COLOR, "other classes" if highlighted else "boxes")]
    if highlighted:
        entries.insert(0, (HIGHLIGHT_COLOR, "rare classes"))
    figure.legend(
        handles=[Patch(facecolor=color, label=label) for color, label in entries],
        loc="outside lower center",
        ncols=len(entries),
        frameon=False,
        fontsize=8,
        title=f"predictions with score >= {score_threshold:g}",
        title_fontsize=8,
    )


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure; the file appears whole or not at all."""
    buffer = io.BytesIO()
    _add_letters(figure)
    try:
        with warnings.catch_warnings():
            # A class name in a script that no font has is drawn as boxes; the log says so.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(buffer, format=path.suffix[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(buffer.getvalue())
    except (OSError, ValueError) as exc:
        raise ValueError(
            f"{path}: the picture cannot be written ({exc}). "
            "Expected a path that ends in .png, .pdf or .svg. Choose another."
        ) from exc


def _add_letters(figure: Any) -> None:
    """Give texts whose font lacks some of their letters another one for these."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    known = font_manager.fontManager
    for text in figure.findobj(Text):
        missing = lacking(known.findfont(text.get_fontproperties()), text.get_text())
        path = find_font(missing) if missing else None
        if path is not None:
            if all(font.fname != path for font in known.ttflist):
                known.addfont(path)
            name = font_manager.FontProperties(fname=path).get_name()
            text.set_fontfamily([*text.get_fontfamily(), name])
            text.set_fontweight("normal")  # most fonts of a script have no other
