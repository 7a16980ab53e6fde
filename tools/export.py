"""Export a detector: `python tools/export.py runs/bccd/best.pt model.onnx`."""

import sys

from detbalance.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
