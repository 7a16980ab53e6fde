"""Refit a detector's classifier: `python tools/refit.py --checkpoint runs/x/best.pt ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["refit", *sys.argv[1:]])
