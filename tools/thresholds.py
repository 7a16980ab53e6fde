"""Thresholds per class: `python tools/thresholds.py --annotations a.json --predictions p.json`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["thresholds", *sys.argv[1:]])
