"""The commands by what they are for, what each says of itself, and the extra with its libraries."""

from __future__ import annotations

# Section -> command -> (first line of its help, extra that brings what it imports).
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "See what the data hold": {
        "plan": (
            "Say how imbalanced a training set is, what to do about it, and what that costs.",
            "plan",
        ),
        "split": (
            "Split one annotation file so that both parts show every class and share no source.",
            "report",
        ),
        "preview": (
            "Show what a training would see: its first images with boxes, and what was pasted.",
            "train",
        ),
    },
    "Train a detector": {
        "quickstart": (
            "Train a plain and a balanced detector on embedded data, and compare them per class.",
            "quickstart",
        ),
        "digits": (
            "Make the embedded data set: handwritten digits in scenes, most of them rare.",
            "quickstart",
        ),
        "train": ("Train a detector, and report AP and recall per class.", "train"),
        "donors": (
            "Cut out all objects that may be pasted, once, so that training opens no image for it.",
            "train",
        ),
        "generate": (
            "Draw new objects of rare classes with a GAN (measured: no clear gain over real ones).",
            "generate",
        ),
        "bag": (
            "Train several detectors to be fused; members that are finished are not trained again.",
            "train",
        ),
    },
    "Prove what it is worth": {
        "evaluate": (
            "Run a trained detector over a data set, and report AP and recall per class.",
            "train",
        ),
        "report": (
            "Report AP, recall, errors and how sure they are, per class, from two JSON files.",
            "report",
        ),
        "compare": (
            "Say which differences between two detectors are real, per class and group.",
            "report",
        ),
    },
    "Repair a trained detector": {
        "thresholds": (
            "Find a score threshold for each class, and say what it gives on other images.",
            "report",
        ),
        "rescore": ("Rebalance scores by how often each class occurred in training.", "report"),
        "fuse": ("Make one set of detections of those of several detectors.", "report"),
        "refit": (
            "Refit the classifier of a trained detector on rebalanced region features, in minutes.",
            "refit",
        ),
        "reclassify": (
            "Put a second classifier or one-class models beside a detector's own scores.",
            "refit",
        ),
        "label-issues": (
            "Rank annotated boxes by how wrong their labels look, and images by unknown objects.",
            "refit",
        ),
    },
}
EVERY = {name: about for section in COMMANDS.values() for name, about in section.items()}
RENAMED = {"opinion": "reclassify", "suspects": "label-issues"}
