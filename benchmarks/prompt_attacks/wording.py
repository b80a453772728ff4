"""What the attacks are worded with: both halves of the product's lists, none of which a fit reads (tests/evaluation/test_halves.py)."""

from exporter.evaluation.attacks.framing_words import FRAMES, ODD, STORIES, WORDS

__all__ = ["FRAMES", "ODD", "STORIES", "WORDS"]
