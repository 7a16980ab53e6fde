"""One annotation file into a training and a validation part that both show every class.

`split_annotations` keeps images of one source together, gives each part its share of the boxes and
the images of every class as far as that goes, and says in words what did not go. `write_split`
writes both parts with every key that the file had.
"""

from detbalance.splitting.files import check_paths, write_split
from detbalance.splitting.grouping import image_groups
from detbalance.splitting.split import ClassShare, Split, split_annotations

__all__ = [
    "ClassShare",
    "Split",
    "check_paths",
    "image_groups",
    "split_annotations",
    "write_split",
]
