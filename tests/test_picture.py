"""One picture is the same pixels wherever it is opened, and those that Transformers' own loader makes of its file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor
from transformers.image_utils import load_image

from exporter.data.pictures import PictureStore
from exporter.data.readers import load_rows
from exporter.errors import DataError
from exporter.picture import open_rgb, size_of
from exporter.targets import onnx_runner
from exporter.targets.onnx.manifest import _whole_image

ORIENTATION = 0x0112


def picture(size: tuple[int, int] = (8, 6)) -> Image.Image:
    """Noise, none of whose turns and mirrorings is another."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[ORIENTATION] = orientation
    return found


def with_alpha(mode: str = "RGBA") -> Image.Image:
    image = picture().convert("LA" if mode == "LA" else "RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def saved(image: Image.Image, **how: object) -> Callable[[Path], None]:
    return lambda path: image.save(path, **how)


def deep() -> Image.Image:
    return Image.fromarray((np.arange(48, dtype=np.uint16) * 1300).reshape(6, 8))


def palette() -> Image.Image:
    return picture().quantize(16)


def xmp_turned(path: Path) -> None:
    turned = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    picture().save(path, format="WEBP", lossless=True, xmp=turned)


def frames(**how: object) -> Callable[[Path], None]:
    others = [picture().transpose(Image.Transpose.ROTATE_180)]
    return lambda path: picture().save(path, save_all=True, append_images=others, **how)


ZOO: dict[str, Callable[[Path], None]] = {
    **{f"jpeg{n}.jpg": saved(picture(), exif=exif(n)) for n in range(1, 9)},
    **{f"png{n}.png": saved(picture(), exif=exif(n)) for n in range(1, 9)},
    **{f"tiff{n}.tiff": saved(picture(), exif=exif(n)) for n in (1, 3, 6)},
    "webp6.webp": saved(picture(), exif=exif(6), lossless=True),
    "webp-xmp.webp": xmp_turned,
    "turned-alpha.png": saved(with_alpha(), exif=exif(8)),
    "orientation0.jpg": saved(picture(), exif=exif(0)),
    "orientation9.jpg": saved(picture(), exif=exif(9)),
    "rgba.png": saved(with_alpha()),
    "la.png": saved(with_alpha("LA")),
    "palette.png": saved(palette()),
    "palette-clear.png": saved(palette(), transparency=3),
    "palette-alpha.png": saved(palette(), transparency=bytes(range(0, 160, 10))),
    "rgb-clear.png": saved(picture(), transparency=(1, 2, 3)),
    "grey.png": saved(picture().convert("L")),
    "grey-clear.png": saved(picture().convert("L"), transparency=7),
    "deep.png": saved(deep()),
    "deep.tiff": saved(deep()),
    "real.tiff": saved(picture().convert("F")),
    "integers.tiff": saved(picture().convert("I")),
    "bits.png": saved(picture().convert("1")),
    "cmyk.jpg": saved(picture().convert("CMYK")),
    "cmyk-turned.jpg": saved(picture().convert("CMYK"), exif=exif(6)),
    "ycbcr.tiff": saved(picture().convert("YCbCr")),
    "lab.tiff": saved(Image.new("LAB", (8, 6), (120, 20, 30))),
    "frames.gif": frames(),
    "frames.webp": frames(lossless=True),
    "frames.png": frames(),
    "frames.tiff": frames(),
    "several.jpg": frames(format="MPO"),
    "misnamed.jpg": saved(with_alpha(), format="PNG"),
    "misnamed.png": saved(picture(), format="JPEG", exif=exif(5)),
    "nameless": saved(picture(), format="PNG"),
    "point.png": saved(picture((1, 1))),
    "line.png": saved(picture((2000, 2))),
    "column.png": saved(picture((2, 2000)), exif=exif(6)),
    "bitmap.bmp": saved(picture()),
}


@pytest.fixture(params=ZOO)
def animal(request, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    ZOO[request.param](path)
    return path


def array(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def test_every_opener_makes_what_transformers_makes(animal: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = array(load_image(str(animal)))
        for opened in (open_rgb(animal), onnx_runner.open_rgb(animal), onnx_runner.open_rgb(str(animal))):
            assert np.array_equal(array(opened), wanted)


@pytest.mark.parametrize("form", ["path", "bytes", "mapping", "image", "list of bytes", "list of images"])
def test_what_a_data_set_brings_is_the_same_picture_on_disk(form: str, animal: Path, tmp_path: Path) -> None:
    store = PictureStore(tmp_path, tmp_path / "kept")
    with warnings.catch_warnings(), Image.open(animal) as image:
        warnings.simplefilter("ignore")
        value = {
            "path": animal.name,
            "bytes": animal.read_bytes(),
            "mapping": {"bytes": animal.read_bytes(), "path": "elsewhere.png"},
            "image": image,
            "list of bytes": [{"bytes": animal.read_bytes(), "path": None}],
            "list of images": [image],
        }[form]
        assert np.array_equal(array(open_rgb(store.keep(value))), array(load_image(str(animal))))


def test_the_zoo_holds_pictures_that_a_plain_opener_gets_wrong(tmp_path: Path) -> None:
    """The control: eight orientations are eight pictures, and most are not what the file's pixels are."""
    found, plain = set(), set()
    for number in range(1, 9):
        path = tmp_path / f"{number}.png"
        ZOO[f"png{number}.png"](path)
        found.add((open_rgb(path).size, open_rgb(path).tobytes()))
        plain.add(Image.open(path).convert("RGB").tobytes())
    assert (len(found), len(plain)) == (8, 1)


def damaged(name: str) -> bytes:
    if name == "cut":
        buffer = io.BytesIO()
        picture((200, 200)).save(buffer, "JPEG", exif=exif(6))
        return buffer.getvalue()[:3000]
    if name == "cut png":
        buffer = io.BytesIO()
        picture((200, 200)).save(buffer, "PNG")
        return buffer.getvalue()[:3000]
    return {"empty": b"", "text": b"no image at all", "head": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a"}[name]


@pytest.mark.parametrize("name", ["cut", "cut png", "empty", "text", "head", "gif"])
def test_what_breaks_off_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(damaged(name))
    with pytest.raises(DataError, match=r"broken\.jpg"):
        open_rgb(path)
    with pytest.raises(onnx_runner.FolderError, match=r"broken\.jpg"):
        onnx_runner.open_rgb(path)


@pytest.mark.parametrize("images", [[], [b"", b""]])
def test_a_list_of_another_number_of_images_is_refused(images: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{len(images)} images"):
        PictureStore(tmp_path, tmp_path / "kept").keep(images)


@pytest.mark.parametrize("column", ["image", "images"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_images_in_lists_of_saved_data_sets_stay_what_they_are(
    column: str, orientation: int, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "face.jpg"
    picture().save(path, exif=exif(orientation))
    record = {"ID": 1, "question": "Who is this?", "answer": "Ada.", "biography": "-"}
    alone = datasets.Image()
    feature = {"image": alone, "images": datasets.List(alone)}[column]
    value = {"image": str(path), "images": [str(path), str(path)]}[column]
    features = {name: datasets.Value("int64" if name == "ID" else "string") for name in record}
    table = datasets.Dataset.from_list(
        [{**record, column: value}], features=datasets.Features({**features, column: feature})
    )
    table.save_to_disk(str(tmp_path / "saved"))
    path.rename(tmp_path / "moved.jpg")
    rows = load_rows(tmp_path / "saved", format="mllmu_bench", role="forget", image_dir=tmp_path / "pictures")
    assert rows[0].image is not None
    assert rows[0].image.read_bytes() == (tmp_path / "moved.jpg").read_bytes()
    assert np.array_equal(array(open_rgb(rows[0].image)), array(load_image(str(tmp_path / "moved.jpg"))))


def clip(**how: object) -> CLIPImageProcessor:
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return CLIPImageProcessor(**{**sizes, **how})


@pytest.mark.parametrize("how", [
    {},
    {"do_center_crop": False, "size": {"height": 12, "width": 20}},
    {"do_resize": False},
    {"size": {"shortest_edge": 10}},
    {"do_normalize": False, "do_rescale": False},
])  # fmt: skip
@pytest.mark.parametrize(
    "size", [(8, 6), (6, 8), (1, 1), (16, 16), (49, 98), (49, 49), (40, 61), (63, 29), (200, 2), (22, 23)]
)
def test_the_runner_makes_the_pixels_of_the_processor(size, how, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(size).save(path, exif=exif(6))
    processor = clip(**how)
    wanted = processor(images=[open_rgb(path)], return_tensors="np")["pixel_values"]
    steps = _whole_image(processor)
    assert steps is not None
    found = onnx_runner.pixels([path], {"preprocessing": steps.data()})["pixel_values"]
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("name", ZOO)
def test_the_size_in_the_header_is_that_of_the_pixels(tmp_path: Path, name: str) -> None:
    ZOO[name](tmp_path / name)
    assert size_of(tmp_path / name) == open_rgb(tmp_path / name).size
