"""Image files: cheap checks while rows are read, files for images that come as bytes. :mod:`exporter.picture` opens them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from exporter.atomic import write_bytes
from exporter.picture import upright


def why_unreadable(path: Path) -> str | None:
    """What is wrong with an image file, or None. Reads headers and checksums and decodes no pixels."""
    try:
        if not path.exists():
            return f"{path} does not exist"
        if not path.is_file():
            return f"{path} is not a file"
        with Image.open(path) as image:
            image.verify()
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise anything on broken files
        return f"{path} cannot be read as an image: {error}"
    return None


class PictureStore:
    """Images of a data set as files, whatever form the data set gives them in.

    Args:
        beside: relative paths in the data start here.
        folder: where images that come as bytes or decoded are written, named by their content; None: nowhere.
    """

    def __init__(self, beside: Path, folder: Path | None) -> None:
        self.beside, self.folder = beside, folder

    def keep(self, value: object) -> Path:
        """The file that holds an image given as a path, bytes, ``{"bytes", "path"}``, a PIL image or a list of one of these.

        Bytes are written as they are; a PIL image as the pixels that its model is to see (:func:`exporter.picture.upright`),
        since a copy of it may lose what its file says of its orientation or transparency.

        Raises:
            ValueError: why there is none, as the end of a sentence that begins with the field's name.
        """
        if isinstance(value, list | tuple):
            if len(value) != 1:
                raise ValueError(
                    f"contains {len(value)} images; a row has at most one: give a list of one image, or the image itself"
                )
            (value,) = value
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
                upright(value).save(buffer, format="PNG")
            except Exception as error:
                raise ValueError(f"cannot be written as PNG: {error}") from error
            return self._write(buffer.getvalue(), "png")
        if isinstance(value, bytes | bytearray) and value:
            try:
                with Image.open(io.BytesIO(value)) as image:
                    suffix = (image.format or "img").lower()
                    image.verify()
            except Exception as error:
                raise ValueError(f"cannot be read: {error}") from error
            return self._write(bytes(value), suffix)
        raise ValueError(f"must be a path, bytes or an image, received {type(value).__name__}")

    def _write(self, content: bytes, suffix: str) -> Path:
        if self.folder is None:
            raise ValueError("is not a file; give image_dir, a folder to write images to")
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:24]}.{suffix}"
        if not path.exists():
            write_bytes(path, content)
        return path
