"""Donors of rare classes: `python tools/generate.py --annotations train.json --images images`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
