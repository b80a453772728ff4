"""The pictures of one split of the demo, saved as PNG and shared among its rows."""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from benchmarks.testbed.draw import Pixels
from benchmarks.testbed.turns import picture


@dataclass
class Gallery:
    """Draws each subject at most `copies` times, then hands the drawings out in turn."""

    folder: Path
    split: str
    rng: random.Random
    shown: Counter[str] = field(default_factory=Counter)

    def show(self, subject: str, clean: Pixels, copies: int = 1) -> str:
        """The path of a drawing of `clean`, relative to the rows' folder."""
        turn = self.shown[subject]
        self.shown[subject] += 1
        name = f"{self.split}-{subject}-{turn % copies}.png"
        if turn < copies:
            Image.fromarray(picture(clean, self.rng)).save(self.folder / name, optimize=True)
        return f"../{self.folder.name}/{name}"
