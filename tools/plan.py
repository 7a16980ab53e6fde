"""How imbalanced the data are and what to do: `python tools/plan.py train.json --val val.json`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["plan", *sys.argv[1:]])
