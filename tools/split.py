"""Split into train and val: `python tools/split.py all.json --output data --group-key video`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["split", *sys.argv[1:]])
