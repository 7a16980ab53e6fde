"""The README's picture, from what `make quickstart` drew: `python tools/readme_picture.py`."""

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
WIDTH = 1100

if __name__ == "__main__":
    with Image.open(ROOT / "runs/quickstart/predictions.png") as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDTH, 10_000))
    target = ROOT / "docs/images/quickstart.webp"
    target.parent.mkdir(exist_ok=True)
    small.save(target, quality=80)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
