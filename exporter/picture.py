"""One picture file as pixels: the same ones for fit, report, chat and verify, and those that Transformers' own loader makes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from exporter.errors import DataError


def open_rgb(path: Path) -> Image.Image:
    """Decode an image file: its first frame, turned as its EXIF orientation says, in RGB without its transparency.

    So does ``transformers.image_utils.load_image``, and the runner of exported graphs by a function of its own.

    Raises:
        DataError: the file is missing, is no image, or breaks off.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except Exception as error:  # Pillow's decoders raise anything on broken files
        raise DataError(f"image {path} cannot be read: {error}; replace the file or drop its rows") from error


def upright(image: Image.Image) -> Image.Image:
    """The pixels of an opened image, as a processor is to get them."""
    return ImageOps.exif_transpose(image).convert("RGB")
