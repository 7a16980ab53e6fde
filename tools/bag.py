"""Train an ensemble: `python tools/bag.py --config configs/x.yaml --output runs/bag`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["bag", *sys.argv[1:]])
