"""Fuse results files: `python tools/fuse.py a.json b.json --annotations val.json ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["fuse", *sys.argv[1:]])
