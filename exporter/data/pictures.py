"""Image files: cheap checks while rows are read, pixels for prompts, files for images that come as bytes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from exporter.errors import DataError

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on files that are no images or broken ones."""


def why_unreadable(path: Path) -> str | None:
    """What is wrong with an image file, or None. Reads headers and checksums and decodes no pixels."""
    try:
        if not path.exists():
            return f"{path} does not exist"
        if not path.is_file():
            return f"{path} is not a file"
        with Image.open(path) as image:
            image.verify()
    except _UNREADABLE as error:
        return f"{path} cannot be read as an image: {error}"
    return None


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels, out of the file's header; raises DataError where it is no image."""
    try:
        with Image.open(path) as image:
            return image.size
    except _UNREADABLE as error:
        raise DataError(f"image {path} cannot be read: {error}; replace the file or drop its rows") from error


def open_rgb(path: Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        DataError: the file is missing, is no image, or breaks off.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except _UNREADABLE as error:
        raise DataError(f"image {path} cannot be read: {error}; replace the file or drop its rows") from error


class PictureStore:
    """Images of a data set as files, whatever form the data set gives them in.

    Args:
        beside: relative paths in the data start here.
        folder: where images that come as bytes or decoded are written, named by their content; None: nowhere.
    """

    def __init__(self, beside: Path, folder: Path | None) -> None:
        self.beside, self.folder = beside, folder

    def keep(self, value: object) -> Path:
        """The file that holds an image given as a path, bytes, ``{"bytes", "path"}`` or a PIL image.

        Raises:
            ValueError: why there is none, as the end of a sentence that begins with the field's name.
        """
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str | os.PathLike):
            path = self.beside / Path(value)
            if (problem := why_unreadable(path)) is not None:
                raise ValueError(problem)
            return path
        if isinstance(value, Image.Image):
            buffer = io.BytesIO()
            try:
                value.save(buffer, format="PNG")
            except _UNREADABLE as error:
                raise ValueError(f"cannot be written as PNG: {error}") from error
            return self._write(buffer.getvalue(), "png")
        if isinstance(value, bytes | bytearray) and value:
            try:
                with Image.open(io.BytesIO(value)) as image:
                    suffix = (image.format or "img").lower()
                    image.verify()
            except _UNREADABLE as error:
                raise ValueError(f"cannot be read: {error}") from error
            return self._write(bytes(value), suffix)
        raise ValueError(f"must be a path, bytes or an image, received {type(value).__name__}")

    def _write(self, content: bytes, suffix: str) -> Path:
        if self.folder is None:
            raise ValueError("comes without a file of its own; give image_dir, a folder to write images to")
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:24]}.{suffix}"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.{os.getpid()}")
            unfinished.write_bytes(content)
            unfinished.replace(path)
        return path
