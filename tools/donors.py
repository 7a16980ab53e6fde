"""Cut out the objects to paste: `python tools/donors.py --annotations train.json ...`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["donors", *sys.argv[1:]])
