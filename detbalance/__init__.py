"""Make object detectors find the classes that their training data shows too rarely.

Parts are reached by their module name; importing the package itself loads nothing heavy.

- `detbalance.data`: COCO and LVIS files, results files, images, counts per class, splits
- `detbalance.sampling`: how often each image is drawn, and the samplers that draw
- `detbalance.planning`: what is imbalanced, what to do about it, what it costs; before training
- `detbalance.losses`: classification losses for imbalanced classes, and class weights
- `detbalance.augmentation`: copy-paste of rare objects, mosaic, crops, policies per group
- `detbalance.detection`: torchvision detectors with exchangeable losses; data sets; prediction
- `detbalance.training`: configuration, training loop, checkpoints
- `detbalance.integrations`: the samplers in other frameworks
- `detbalance.evaluation`: figures per class with intervals, reports, comparisons of two detectors
- `detbalance.calibration`: score thresholds, rescoring and fusion, chosen on held-out images
- `detbalance.repair`: a trained detector's classifier refitted; labels that look wrong
- `detbalance.generation`: copy-paste sources drawn by a small GAN; an optional layer
- `detbalance.reporting`: console, Markdown, CSV, JSON and HTML of the results
- `detbalance.cli`: the commands
"""

__version__ = "0.1.0"
