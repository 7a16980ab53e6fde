"""Convert annotations: `python tools/convert.py train.json --val val.json --images images`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
