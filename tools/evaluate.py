"""Run a checkpoint over a data set: `python tools/evaluate.py --help` lists the options."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
