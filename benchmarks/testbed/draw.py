"""Drawing at 48 x 48 RGB: a canvas, shapes on the 4 x 4 patch grid, and fresh grain on a clean picture."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

SIDE = 48
CELL = 12
ZOOM = 2
SHAPES = ("square", "circle", "triangle")
SHAPE_COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
}


class Sketch:
    """A canvas in units of final pixels, drawn enlarged and shrunk at the end for smooth edges."""

    def __init__(self, ground: Colour) -> None:
        self.image = Image.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), ground)
        self.pen = ImageDraw.Draw(self.image)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self.pen.ellipse([ZOOM * v for v in (x - rx, y - ry, x + rx, y + ry)], fill=fill)

    def ring(self, x: float, y: float, rx: float, ry: float, ink: Colour) -> None:
        self.pen.ellipse([ZOOM * v for v in (x - rx, y - ry, x + rx, y + ry)], outline=ink, width=ZOOM)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.pen.rectangle([ZOOM * v for v in (left, top, right, bottom)], fill=fill)

    def half(self, x: float, y: float, rx: float, ry: float, span: tuple[int, int], fill: Colour) -> None:
        self.pen.chord([ZOOM * v for v in (x - rx, y - ry, x + rx, y + ry)], *span, fill=fill)

    def polygon(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self.pen.polygon([(ZOOM * x, ZOOM * y) for x, y in points], fill=fill)

    def pixels(self) -> Pixels:
        return np.asarray(self.image.reduce(ZOOM), dtype=np.uint8)


def paint_shapes(shape: str, colour: str, cells: list[int]) -> Pixels:
    """One shape in each of the given cells (0 to 15, row by row) of a pale 4 x 4 grid."""
    s, fill = Sketch((236, 232, 224)), SHAPE_COLOURS[colour]
    for cell in cells:
        x, y = cell % 4 * CELL + CELL / 2, cell // 4 * CELL + CELL / 2
        if shape == "square":
            s.box(x - 4, y - 4, x + 4, y + 4, fill)
        elif shape == "circle":
            s.oval(x, y, 4.5, 4.5, fill)
        else:
            s.polygon([(x, y - 4.5), (x - 4.5, y + 4), (x + 4.5, y + 4)], fill)
    return s.pixels()


def with_grain(clean: Pixels, rng: np.random.Generator, jitter: int = 1) -> Pixels:
    """A fresh drawing of the same picture: moved by up to `jitter` pixels, lit anew, coarse grain on top."""
    dy, dx = rng.integers(-jitter, jitter + 1, size=2)
    edged = np.pad(clean, ((jitter, jitter), (jitter, jitter), (0, 0)), mode="edge")
    moved = edged[jitter + dy : jitter + dy + SIDE, jitter + dx : jitter + dx + SIDE].astype(np.int16)
    lit = (moved * rng.uniform(0.92, 1.08)).astype(np.int16)
    grain = rng.integers(-1, 2, size=(SIDE, SIDE, 1)) * 12 * (rng.random((SIDE, SIDE, 1)) < 0.5)
    drawn: Pixels = np.clip(lit + grain, 0, 255).astype(np.uint8)
    return drawn
