"""Look at what a training would see: `python tools/preview.py --config configs/x.yaml`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["preview", *sys.argv[1:]])
