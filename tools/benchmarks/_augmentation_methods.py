"""The augmentations that are compared, as overrides of a configuration with sampling and paste."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NO_SAMPLING = "sampling={method: none}"
NO_PASTE = "augmentation.paste=null"


def methods(policy: str, donors: Path) -> dict[str, tuple[str, ...]]:
    """All methods, each on top of repeat factors.

    Args:
        policy: override that turns the policy of the groups on.
        donors: folder of generated donors.
    """
    return {
        "plain": (NO_SAMPLING, NO_PASTE),
        "repeat factors": (NO_PASTE,),
        # The policy has flips, scale and colour of its own.
        "+ policy, rare crops": (
            NO_PASTE,
            policy,
            "augmentation.standard=null",
            "augmentation.crop={probability: 0.5}",
        ),
        "+ paste": ("augmentation.paste={probability: 0.5}",),
        "+ paste, first free place": ("augmentation.paste={probability: 0.5, context_places: 1}",),
        "+ paste, generated donors too": (
            f"augmentation.paste={{probability: 0.5, folders: [{donors}]}}",
        ),
        "+ balanced mosaic": (NO_PASTE, "augmentation.mosaic={probability: 0.5}"),
    }


def generated(folder: Path, annotations: Path, images: Path, *options: str) -> Path:
    """A folder of generated donors, made if it is not there."""
    if not folder.exists():
        command = [sys.executable, "tools/generate.py", "--annotations", str(annotations)]
        command += ["--images", str(images), "--output", str(folder), *options]
        subprocess.run(command, check=True)
    return folder
