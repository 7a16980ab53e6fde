"""Make the embedded data set: `python tools/digits.py --output DIR`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["digits", *sys.argv[1:]])
