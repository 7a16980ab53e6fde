"""Evaluate a checkpoint: `python tools/evaluate.py --checkpoint best.pt --annotations val.json --images DIR`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
