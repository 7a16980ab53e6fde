"""The commands by what they are for, what each says of itself, and the extra with its libraries."""

from __future__ import annotations

# Section -> command -> first line of its help.
COMMANDS = {
    "See what the data hold": {
        "plan": "Say how imbalanced a training set is, what to do about it, and what that costs.",
        "init": "Write a training configuration for a data set, with a reason for each choice.",
        "convert": "Write annotations as COCO files, YOLO labels or a Pascal VOC folder.",
        "split": "Split one annotation file so that both parts show every class and share no"
        " source.",
        "preview": "Show what a training would see: its first images with boxes, and what was"
        " pasted.",
    },
    "Train a detector": {
        "quickstart": "Train a plain and a balanced detector on embedded data, and compare them"
        " per class.",
        "digits": "Make the embedded data set: handwritten digits in scenes, most of them rare.",
        "train": "Train a detector, and report AP and recall per class.",
        "donors": "Cut out all objects that may be pasted, once, so that training opens no image"
        " for it.",
        "generate": "Draw new objects of rare classes with a GAN (measured: no clear gain over"
        " real ones).",
        "bag": "Train several detectors to be fused; members that are finished are not trained"
        " again.",
    },
    "Prove what it is worth": {
        "evaluate": "Run a trained detector over a data set, and report AP and recall per class.",
        "report": "Report AP, recall, errors and how sure they are, per class, from two JSON"
        " files.",
        "compare": "Say which differences between two detectors are real, per class and group.",
    },
    "Repair a trained detector": {
        "thresholds": "Find a score threshold for each class, and say what it gives on other"
        " images.",
        "rescore": "Rebalance scores by how often each class occurred in training.",
        "fuse": "Make one set of detections of those of several detectors.",
        "refit": "Refit the classifier of a trained detector on rebalanced region features, in"
        " minutes.",
        "reclassify": "Put a second classifier or one-class models beside a detector's own scores.",
        "label-issues": "Rank annotated boxes by how wrong their labels look, and images by"
        " unknown objects.",
    },
    "Take it elsewhere": {
        "export": "Write a trained detector as ONNX, TorchScript or weights for torchvision's own.",
    },
}
HELP = {name: words for commands in COMMANDS.values() for name, words in commands.items()}
_OF_EXTRA = {
    "plan": ("plan",),
    "report": ("convert", "split", "report", "compare", "thresholds", "rescore", "fuse"),
    "train": ("init", "preview", "train", "donors", "bag", "evaluate"),
    "export": ("export",),
    "quickstart": ("quickstart", "digits"),
    "generate": ("generate",),
    "refit": ("refit", "reclassify", "label-issues"),
}
# Command -> extra that brings what it imports.
EXTRAS = {name: extra for extra, names in _OF_EXTRA.items() for name in names}
RENAMED = {"opinion": "reclassify", "suspects": "label-issues"}
