"""One picture file as pixels: the same ones for fit, report, chat and verify, and those that Transformers' own loader makes."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from exporter.errors import DataError

_ON_THEIR_SIDE = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


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


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels of what :func:`open_rgb` makes of a file, out of its header alone; raises DataError where it is no image."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow turns the size of a TIFF file as it reads the header.
            on_side = image.getexif().get(ExifTags.Base.Orientation) in _ON_THEIR_SIDE
            turned = on_side and image.format != "TIFF"
    except Exception as error:  # Pillow's decoders raise anything on broken files
        raise DataError(f"image {path} cannot be read: {error}; replace the file or drop its rows") from error
    return (height, width) if turned else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """The pixels of an opened image, as a processor is to get them."""
    return ImageOps.exif_transpose(image).convert("RGB")
