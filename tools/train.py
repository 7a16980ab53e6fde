"""Train a detector: `python tools/train.py --config configs/bccd.yaml`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
