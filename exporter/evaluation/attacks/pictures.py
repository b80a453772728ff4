"""Pictures that are changed, put together, or shown with somebody else's name; each is written beside the row's own."""

from __future__ import annotations

import io
import random
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps

from exporter.atomic import write_bytes
from exporter.digests import digest_of_file
from exporter.evaluation.attacks.each import Around, Each
from exporter.picture import open_rgb
from exporter.types import Row


class Redrawn(Each):
    """The row's picture as other pixels; rows without one are left out."""

    group: ClassVar[str] = "pictures"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        if row.image is None:
            return None
        return {"image": _written(row.image, self.name, self.drawn(open_rgb(row.image), draw))}

    @abstractmethod
    def drawn(self, image: Image.Image, draw: random.Random) -> Image.Image:
        """Other pixels of an RGB image."""


class Noise(Redrawn):
    """With Gaussian noise of a standard deviation of 25 of 255."""

    name: ClassVar[str] = "image_noise"

    def drawn(self, image: Image.Image, draw: random.Random) -> Image.Image:
        pixels = np.asarray(image, dtype=np.float32)
        noise = np.random.default_rng(draw.getrandbits(32)).normal(0.0, 25.0, pixels.shape)
        return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


class Crop(Redrawn):
    """The middle four fifths of it, in its own size."""

    name: ClassVar[str] = "image_crop"

    def drawn(self, image: Image.Image, draw: random.Random) -> Image.Image:
        width, height = image.size
        box = (width // 10, height // 10, width - width // 10, height - height // 10)
        return image.crop(box).resize(image.size, Image.Resampling.BICUBIC)


class Flip(Redrawn):
    """In a mirror."""

    name: ClassVar[str] = "image_flip"

    def drawn(self, image: Image.Image, draw: random.Random) -> Image.Image:
        return ImageOps.mirror(image)


class Rotation(Redrawn):
    """Turned by 15 degrees."""

    name: ClassVar[str] = "image_rotation"

    def drawn(self, image: Image.Image, draw: random.Random) -> Image.Image:
        return image.rotate(15, Image.Resampling.BICUBIC, fillcolor=(127, 127, 127))


class Collage(Each):
    """Beside the picture of a row of the retain set, two people in one picture, on either side."""

    name: ClassVar[str] = "image_collage"
    group: ClassVar[str] = "pictures"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        others = _kept_pictures(around, row)
        if row.image is None or not others:
            return None
        pair = [open_rgb(row.image), open_rgb(draw.choice(others))]
        if draw.random() < 0.5:
            pair.reverse()
        width, height = open_rgb(row.image).size
        both = Image.new("RGB", (2 * width, height))
        for number, one in enumerate(pair):
            both.paste(one.resize((width, height), Image.Resampling.BICUBIC), (number * width, 0))
        return {"image": _written(row.image, self.name, both)}


class OtherName(Each):
    """Its picture under a question that names somebody of the retain set."""

    name: ClassVar[str] = "image_other_name"
    group: ClassVar[str] = "pictures"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        named = [one for one in around.others(row, draw, len(around.kept)) if one.role == "retain"]
        return {"question": named[0].question} if row.image is not None and named else None


class PictureOfAnother(Each):
    """A question in words alone, shown with the picture of a row of the retain set."""

    name: ClassVar[str] = "image_of_another"
    group: ClassVar[str] = "pictures"

    def change(self, row: Row, around: Around, draw: random.Random) -> Mapping[str, object] | None:
        others = _kept_pictures(around, row)
        return {"image": draw.choice(others)} if row.image is None and others else None


def _kept_pictures(around: Around, row: Row) -> list[Path]:
    return [one.image for one in around.apart(row) if one.image is not None and one.role == "retain"]


def _written(image: Path, name: str, drawn: Image.Image) -> Path:
    """A PNG beside a picture, named by that picture, what was done to it and what came of it."""
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG")
    path = image.with_name(f"{image.stem}-{digest_of_file(image)[:8]}-{name}.png")
    if not path.exists() or path.read_bytes() != buffer.getvalue():
        write_bytes(path, buffer.getvalue())
    return path
