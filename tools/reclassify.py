"""A second classifier beside a detector: `python tools/reclassify.py --checkpoint best.pt ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["reclassify", *sys.argv[1:]])
