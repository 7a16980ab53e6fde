"""Image files: what is refused, by the reader and by the check before a run, and what is hinted."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from detbalance.data import load_annotations
from detbalance.data.images import check_images, read_image, usable_images
from detbalance.detection.dataset import DetectionDataset

# What only a strict look finds


def encoded(picture, kind="JPEG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noisy(width=320, height=240):
    rng = np.random.default_rng(0)
    return Image.fromarray(
        (np.full((height, width, 3), 120) + rng.normal(0, 40, (height, width, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


JPEG_KINDS = {
    "plain": {},
    "fine": {"subsampling": 0, "quality": 97},
    "coarse": {"subsampling": 2, "quality": 5},
    "tables": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "own colours": {"keep_rgb": True},
}


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 9), (161, 120)])
def test_strict_jpeg_has_the_values_of_opencv(tmp_path, kind, size):
    import cv2

    for picture in (noisy(*size), noisy(*size).convert("L")):
        if picture.mode == "L" and kind == "own colours":
            continue
        data = encoded(picture, **JPEG_KINDS[kind])
        for number, tail in enumerate((b"", b"\0" * 9000, data)):  # a second picture behind it
            path = tmp_path / f"{number}.jpg"
            path.write_bytes(data + tail)
            expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
            found = read_image(path)
            assert np.array_equal(found, expected)
            assert found.flags.writeable


@pytest.mark.parametrize("kind", ["plain", "fine", "tables"])
def test_jpeg_files_that_libjpeg_fills_up_or_cuts_are_noticed(tmp_path, kind):
    data = encoded(noisy(), **JPEG_KINDS[kind])
    start = data.index(b"\xff\xda") + 20
    rng = np.random.default_rng(1)
    path = tmp_path / "a.jpg"
    for at in rng.integers(start, len(data) - 600, 12).tolist():
        damaged = {
            "end mark put on": data[:at] + b"\xff\xd9",
            "a piece is missing": data[:at] + data[at + 500 :],
            "other bytes": data[:at] + rng.bytes(300) + data[at + 300 :],
            "all ones": data[:at] + b"\xff" * 200 + data[at + 200 :],
            "mark inside": data[:at] + b"\xff\xe3" + data[at + 2 :],
        }
        for name, content in damaged.items():
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"a.jpg: the image cannot be read \(it is"):
                pytest.fail(f"{name} at {at}: {read_image(path).shape}")


def test_a_progressive_jpeg_whose_scans_are_missing_is_noticed(tmp_path):
    data = encoded(noisy(), progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", data)]
    path = tmp_path / "a.jpg"
    for start in scans[1:]:
        path.write_bytes(data[:start] + b"\xff\xd9")
        with pytest.raises(ValueError, match="it is damaged: parts of its picture are missing"):
            read_image(path)
    path.write_bytes(data)
    assert read_image(path).shape == (240, 320, 3)


def test_padding_before_the_end_mark_is_fine(tmp_path):
    data = encoded(noisy())
    for blank in (b"\0", b"\xff"):
        (tmp_path / "a.jpg").write_bytes(data[:-2] + blank * 900 + data[-2:])
        assert read_image(tmp_path / "a.jpg").shape == (240, 320, 3)


def set_of(folder, *files, sizes=False):
    """Annotations of image files, one box in each."""
    document = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(files)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81}
            for n in range(len(files))
        ],
    }
    (folder / "set.json").write_text(json.dumps(document))
    return load_annotations(folder / "set.json")


def odd_files(folder):
    """Files that decode, and that no reader takes, with what is said of them."""
    Image.new("L", (4000, 10)).save(folder / "wide.png")
    Image.fromarray(np.ones((30, 40), np.float32)).save(folder / "float.tif")
    Image.fromarray(np.ones((30, 40), np.int32)).save(folder / "whole.tif")
    Image.new("CMYK", (40, 30)).save(folder / "print.tif")
    Image.new("RGB", (40, 30)).save(folder / "a.tga")
    zeros = zlib.compress(bytes(30_001), 9)
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = [chunk, b"IDAT" + zeros, b"IEND"]
    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
            for part in body
        )
    )
    return {
        "wide.png": "is 4000x10 pixels, more than 100 times as long as wide",
        "float.tif": "has pixels of 32 bits (floats), not of 8 or 16 bits",
        "whole.tif": "has pixels of 32 bits (whole numbers)",
        "print.tif": "has the colours of a printer (CMYK)",
        "bomb.png": "has more than 178,956,970 pixels",
        "a.tga": "is a TGA file, which OpenCV does not read",
    }


def test_reader_and_first_check_refuse_the_same(tmp_path):
    expected = odd_files(tmp_path)
    Image.new("RGB", (40, 30)).save(tmp_path / "good.png")
    annotations = set_of(tmp_path, *expected, "good.png")
    found = check_images(annotations, tmp_path)
    assert list(found) == list(expected)
    for name, problem in expected.items():
        assert found[name].startswith(problem), name
        with pytest.raises(ValueError, match=rf"{name}: the image cannot be read \(it ") as error:
            read_image(tmp_path / name)
        assert name == "a.tga" or problem in str(error.value)
    kept = usable_images(annotations, tmp_path, skip=True)
    assert [kept.file_name(i) for i in range(kept.num_images)] == ["good.png"]
    assert len(DetectionDataset(kept, tmp_path)[0][1]["boxes"]) == 1


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "TGA", "ICO", "PCX", "SGI")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_the_first_check_takes_can_be_read(tmp_path, kind):
    grey = Image.fromarray((np.arange(1200).reshape(30, 40) % 256).astype(np.uint8))
    names = []
    for mode in MODES:
        values = np.asarray(grey, np.uint16) * 257
        picture = Image.fromarray(values) if mode == "I;16" else grey.convert(mode)
        try:
            picture.save(tmp_path / f"{len(names)}", kind)
        except (OSError, ValueError, KeyError):
            continue
        names.append(f"{len(names)}")
    bad = check_images(set_of(tmp_path, *names), tmp_path, decode=True)
    for name in names:
        if name in bad:
            with pytest.raises(ValueError, match="cannot be read"):
                read_image(tmp_path / name)
        else:
            assert read_image(tmp_path / name).shape == (30, 40, 3)


def test_decoding_on_request_finds_what_headers_do_not_show(tmp_path):
    data = encoded(noisy())
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    png = encoded(noisy(), "PNG")
    (tmp_path / "middle.png").write_bytes(png[:9000] + b"x" * 99 + png[9099:])
    (tmp_path / "good.jpg").write_bytes(data)
    annotations = set_of(tmp_path, "cut.jpg", "good.jpg", "middle.png")
    assert check_images(annotations, tmp_path) == {}
    found = check_images(annotations, tmp_path, decode=True)
    assert list(found) == ["cut.jpg", "middle.png"]
    assert found["cut.jpg"].startswith("is damaged: image file is truncated")


def test_few_bits_in_sixteen_are_said_once_before_the_run(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for name, bits in (("a.png", 12), ("b.png", 12), ("c.png", 16)):
        values = rng.integers(0, 2**bits, (30, 40)).astype(np.uint16)
        values[0, 0] = 2**bits - 1
        Image.fromarray(values).save(tmp_path / name)
    check_images(set_of(tmp_path, "c.png"), tmp_path)
    assert not caplog.records
    annotations = set_of(tmp_path, "a.png", "b.png", "c.png")
    usable_images(annotations, tmp_path)
    assert "a.png: has 16 bits a value, and the largest is 4095 of 65535" in caplog.text
    assert "have 12 bits, multiply their values by 16" in caplog.text
    read_image(tmp_path / "b.png")
    assert len(caplog.records) == 1


# Names of missing files


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("images\\sub\\a 1.jpg", "images/sub/a 1.jpg"),
        ("images/sub/a%201.jpg", "images/sub/a 1.jpg"),
        ("images/gro\u0308\u00dfe.jpg", "images/gr\u00f6\u00dfe.jpg"),
        ("images/UPPER.jpg", "images/upper.JPG"),
        ("Images/bare", "images/bare.png"),
        ("images/bare.jpg", "images/bare.png"),
        ("C/data/images/bare.png", "images/bare.png"),
        ("images/two.png", None),
        ("images/nothing.jpg", None),
        ("images/sub", None),
    ],
)
def test_a_missing_image_is_told_from_one_of_another_spelling(tmp_path, name, meant):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for file in (
        "sub/a 1.jpg",
        "gr\u00f6\u00dfe.jpg",
        "upper.JPG",
        "bare.png",
        "Two.png",
        "tWo.png",
    ):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / file)
    problem = check_images(set_of(tmp_path, name), tmp_path)[name]
    if name == "images/sub":
        assert problem == "is no file"
    else:
        hint = f"; {tmp_path / meant} is there" if meant else ""
        if name.startswith(("images/gro", "images/UPPER")):
            hint += " (another case or Unicode normal form)"
        assert problem == f"is missing{hint}"


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a.jpg/b.jpg", "caf\u00e9%ff%00.jpg"])
def test_names_that_no_system_takes_are_named(tmp_path, name):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    assert list(check_images(set_of(tmp_path, name), tmp_path)) == [name]
    with pytest.raises(ValueError, match="the image cannot be read"):
        read_image(tmp_path / name)
