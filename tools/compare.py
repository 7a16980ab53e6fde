"""Which differences are real: `python tools/compare.py A.json B.json --annotations val.json`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
