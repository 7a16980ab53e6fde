"""Compare a plain and a balanced detector on the embedded data: `python tools/quickstart.py`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["quickstart", *sys.argv[1:]])
