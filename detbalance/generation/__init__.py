"""Donors that no image holds: a small generator learns the rare classes, and draws more of them.

`generate` does all of it; any folder in its format, whoever made it, is a source of donors.
"""

from detbalance.generation.generate import Stopped, generate
from detbalance.generation.result import ClassResult, Result, Settings

__all__ = ["ClassResult", "Result", "Settings", "Stopped", "generate"]
