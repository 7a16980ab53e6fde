"""Make object detectors find the classes that their training data shows too rarely.

Parts are reached by their module name; importing the package itself loads nothing heavy.

- `detbalance.annotations`: COCO and LVIS files as flat, checked NumPy arrays
- `detbalance.predictions`: detections as arrays, and as COCO results files
- `detbalance.frequency`: counts per class; rare, common and frequent groups
- `detbalance.images`: image files, read as RGB and checked before a run
- `detbalance.sampling`: repeat factors, and the sampler that draws by them
- `detbalance.losses`: classification losses for imbalanced classes, and class weights
- `detbalance.augmentation`: standard augmentation, and rare boxes pasted into other images
- `detbalance.detection`: torchvision detectors with exchangeable losses; data sets; prediction
- `detbalance.training`: configuration, training loop, checkpoints
- `detbalance.evaluation`: AP, AR, recall and precision per class
- `detbalance.reporting`: tables, files and pictures of the results
"""

__version__ = "0.1.0"
