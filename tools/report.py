"""Report per class: `python tools/report.py --annotations val.json --predictions results.json`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
