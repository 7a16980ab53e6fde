"""Labels that look wrong: `python tools/label_issues.py --checkpoint runs/x/best.pt ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["label-issues", *sys.argv[1:]])
