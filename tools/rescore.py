"""Rebalance scores: `python tools/rescore.py --annotations val.json --predictions p.json ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["rescore", *sys.argv[1:]])
