"""A second opinion on a detector's regions: `python tools/opinion.py --checkpoint best.pt ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["opinion", *sys.argv[1:]])
