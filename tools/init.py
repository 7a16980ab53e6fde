"""Write a configuration: `python tools/init.py train.json --val val.json --images images`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["init", *sys.argv[1:]])
