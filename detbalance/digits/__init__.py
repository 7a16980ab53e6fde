"""The embedded data set of the quickstart: handwritten digits in textured scenes, as COCO files.

Ten classes, one per digit, from 60% of the training images down to 0.5%, so that a detector
trained on it without any balancing hardly finds the rarest ones. The digits are real: 8x8 scans
that ship inside scikit-learn (UCI "Optical Recognition of Handwritten Digits", CC BY 4.0), enlarged
and drawn on generated backgrounds between strokes, blobs and outlines that are no digits. What is
written is ordinary COCO JSON and PNG, so that everything that reads it is the code for real data.

It is a demonstration, not evidence: scenes made by pasting flatter a method that pastes.
"""

from detbalance.digits.files import FREQUENCY_ORDER, NAMES, DigitsPaths, make_digits

__all__ = ["FREQUENCY_ORDER", "NAMES", "DigitsPaths", "make_digits"]
