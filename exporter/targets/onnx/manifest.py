"""The manifest of an exported folder: what its graphs are, how a prompt is fed to them, and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import JsonValue

from exporter.artifact import Artifact, Given, Strict
from exporter.atomic import write_json
from exporter.digests import digest_of_file
from exporter.host import ModelHost
from exporter.targets.onnx.decoder import DecoderGraph, GateState
from exporter.targets.onnx_runner import FORMAT, MANIFEST, kind_of_graph
from steer_modules.program import canonical_json


@dataclass(frozen=True)
class Identity:
    """What a graph says of itself, in the manifest and in the metadata of every graph.

    Attributes:
        section: the signed steering section; None for graphs without steering.
        license: of the base model, by its SPDX name where it is known.
        edit: what the weights were edited by; None for steered graphs, and for those of the base itself.
    """

    section: Mapping[str, Any] | None
    base: Mapping[str, Any]
    license: str
    edit: EditInWeights | None = None

    def metadata(self) -> dict[str, str]:
        """Properties of a graph; strings, as ONNX wants them."""
        told = {"steered": self.section is not None, "steering": self.section}
        told["edit"] = None if self.edit is None else self.edit.data()
        manifest = {
            "steerbake.format": FORMAT,
            "steerbake.steering_sha256": kind_of_graph(told),
            "steerbake.base_fingerprint": str(self.base.get("fingerprint")),
            "steerbake.license": self.license,
        }
        if self.section is not None:
            manifest["steerbake.steering"] = canonical_json(self.section).decode()
        return manifest


class EditInWeights(Strict):
    """The weight edit in the weights of graphs without gates: hex SHA-256 of the edit, and the fingerprint of the merged weights."""

    method: str
    sha256: str
    fingerprint: str


class CacheSizes(Strict):
    """Layers of the cache, a layer that bears gates among them, with key-value heads and features of a head."""

    layers: int
    kv_heads: int
    head_dim: int


class Preprocessing(Strict):
    """From an image file to ``pixel_values``: edges in pixels to resize to and crop to, PIL's filter, a factor, and what is normalised by."""

    size: dict[str, int] | None
    crop: dict[str, int] | None
    resample: int
    scale: float
    mean: tuple[int | float, ...]
    std: tuple[int | float, ...]


class ImageInput(Strict):
    """How images become features: their token, features for each, and the steps from a file to ``pixel_values``.

    ``tokens`` and ``preprocessing`` are None where a processor cuts images up or puts more than image tokens for one; a runner cannot do
    that alone. ``spatial_merge_size`` is of families whose images have a grid.
    """

    token_id: int
    tokens: int | None
    preprocessing: Preprocessing | None
    spatial_merge_size: int | None = None


class Variant(Strict):
    """The graphs of one precision, as paths in the folder, by what they are to a runner; and the type of the numbers in their cache."""

    decoder: str
    embed: str | None = None
    vision: str | None = None
    merge: str | None = None
    cache_dtype: Literal["float16", "float32"]

    @property
    def graphs(self) -> dict[str, str]:
        """The paths by role."""
        roles = {"decoder": self.decoder, "embed": self.embed, "vision": self.vision, "merge": self.merge}
        return {role: path for role, path in roles.items() if path is not None}


class FileRecord(Strict):
    """Size and hex SHA-256 of one file."""

    bytes: int
    sha256: str


class GraphFacts(Artifact):
    """What is said of graphs, whatever their precision.

    Attributes:
        steering: the signed section; None for an unsteered export.
        edit: what graphs that are not steered have in their weights; None where they are the base's.
        turns: what stands between the messages of a conversation (:func:`exporter.data.turns.literal_turns`).
        position_rows: 1, or 3 for M-RoPE.
    """

    FILE = MANIFEST
    REMEDY = "export it again"

    format: Literal["steerbake-onnx/2"]
    steered: bool
    steering: dict[str, JsonValue] | None
    edit: EditInWeights | None = None
    base: dict[str, JsonValue]
    license: str
    model_type: str
    gates: tuple[str, ...]
    gate_state: GateState | None
    cache: CacheSizes
    position_rows: int
    image: ImageInput | None
    turns: dict[str, str | None] | None
    bos_token: str | None
    pad_id: int
    end_ids: tuple[int, ...]


class OnnxManifest(GraphFacts, Given):
    """The content of steerbake.json. The runner that travels in the folder reads it for itself, and holds every file to it."""

    variants: dict[str, Variant]
    files: dict[str, FileRecord]

    def save(self, path: Path) -> None:
        """Writes it whole or not at all; settings of a base may hold numbers that are not finite."""
        write_json(path, self.data(), indent=self.INDENT, finite=False)


def describe(
    host: ModelHost,
    decoder: DecoderGraph,
    identity: Identity,
    turns: Mapping[str, str | None] | None,
    features: int | None,
) -> GraphFacts:
    """The manifest without its variants and files.

    Args:
        features: of one image, where every image has as many.
        turns: what stands between the messages of a conversation (:func:`exporter.data.turns.literal_turns`).
    """
    size = decoder.size
    return GraphFacts(
        format="steerbake-onnx/2",
        steered=identity.section is not None,
        steering=None if identity.section is None else dict(identity.section),
        edit=identity.edit,
        base=dict(identity.base),
        license=identity.license,
        model_type=host.model_type.removeprefix("steered_"),
        gates=tuple(decoder.gates),
        gate_state=decoder.gate_state,
        cache=CacheSizes(layers=decoder.cache_layers, kv_heads=size.kv_heads, head_dim=size.head_dim),
        position_rows=decoder.family.position_rows,
        image=_image(host, features) if decoder.family.sees else None,
        turns=None if turns is None else dict(turns),
        bos_token=host.tokenizer.bos_token,
        pad_id=host.pad_id,
        end_ids=tuple(sorted(host.end_ids)),
    )


def write(folder: Path, facts: GraphFacts, variants: Mapping[str, Variant]) -> None:
    """Writes the manifest, last: it bears the size and hash of every file of the folder."""
    files = {
        path.relative_to(folder).as_posix(): FileRecord(
            bytes=path.stat().st_size, sha256=digest_of_file(path)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    given = {name: getattr(facts, name) for name in GraphFacts.model_fields}
    if facts.edit is None:
        del given["edit"]  # manifests of steered graphs are as they were
    OnnxManifest(**given, variants=dict(variants), files=files).save(folder / MANIFEST)


def license_of(folder: Path) -> str:
    """The licence that a model folder names: in its card's front matter, else the first words of its LICENSE file."""
    card = folder / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0].splitlines():
            if line.startswith("license:"):
                return line.partition(":")[2].strip()
    for path in sorted(folder.glob("LICENSE*")):
        words = path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].strip()
        return f"see {path.name}" + (f": {words}" if words else "")
    return "not stated by the base model"


def _image(host: ModelHost, features: int | None) -> ImageInput:
    config = host.model.config
    merge = getattr(config.vision_config, "spatial_merge_size", None)
    is_llava = config.model_type.removeprefix("steered_") == "llava"
    return ImageInput(
        token_id=int(config.image_token_id),
        tokens=features,
        preprocessing=_whole_image(getattr(host.processor, "image_processor", None)) if is_llava else None,
        **({} if merge is None else {"spatial_merge_size": int(merge)}),
    )


class ImageProcessor(Protocol):
    """What is read of an image processor of Transformers; others of its settings are asked for by name, as not every class has them."""

    do_resize: bool
    do_rescale: bool
    do_normalize: bool
    size: Mapping[str, int]
    crop_size: Mapping[str, int]
    resample: int
    rescale_factor: float
    image_mean: Sequence[float]
    image_std: Sequence[float]


def _whole_image(processor: ImageProcessor | None) -> Preprocessing | None:
    """Resize, crop and normalise, as a processor that does no more than that is set; else None."""
    if (
        processor is None
        or getattr(processor, "do_image_splitting", False)
        or getattr(processor, "crop_to_patches", False)
        or getattr(processor, "do_pan_and_scan", False)
        or getattr(processor, "do_pad", False)
    ):
        return None
    size = dict(processor.size) if processor.do_resize else None
    if (
        size is not None
        and {k for k in size if size[k]} != {"shortest_edge"}
        and not {"height", "width"} <= set(size)
    ):
        return None
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    is_normal = bool(processor.do_normalize)
    return Preprocessing(
        size=None if size is None else {k: v for k, v in size.items() if v},
        crop=None if crop is None else {k: v for k, v in crop.items() if v},
        resample=int(processor.resample),
        scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(processor.image_mean) if is_normal else (0.0,) * 3,
        std=tuple(processor.image_std) if is_normal else (1.0,) * 3,
    )
