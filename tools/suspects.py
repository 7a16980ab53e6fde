"""Labels that look wrong: `python tools/suspects.py --checkpoint runs/x/best.pt ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["suspects", *sys.argv[1:]])
