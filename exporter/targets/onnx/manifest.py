"""The manifest of an exported folder: what its graphs are, how a prompt is fed to them, and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.atomic import write_json
from exporter.digests import digest_of_file
from exporter.host import ModelHost
from exporter.targets.onnx.decoder import DecoderGraph
from exporter.targets.onnx_runner import FORMAT, MANIFEST
from steer_modules.program import canonical_json


@dataclass(frozen=True)
class Identity:
    """What a graph says of itself, in the manifest and in the metadata of every graph.

    Attributes:
        section: the signed steering section; None for an unsteered export.
        license: of the base model, by its SPDX name where it is known.
    """

    section: Mapping[str, Any] | None
    base: Mapping[str, Any]
    license: str

    def metadata(self) -> dict[str, str]:
        """Properties of a graph; strings, as ONNX wants them."""
        manifest = {
            "steerbake.format": FORMAT,
            "steerbake.steering_sha256": "unsteered" if self.section is None else self.section["sha256"],
            "steerbake.base_fingerprint": str(self.base.get("fingerprint")),
            "steerbake.license": self.license,
        }
        if self.section is not None:
            manifest["steerbake.steering"] = canonical_json(self.section).decode()
        return manifest


def describe(
    host: ModelHost,
    decoder: DecoderGraph,
    identity: Identity,
    turns: Mapping[str, str | None] | None,
    features: int | None,
) -> dict[str, Any]:
    """The manifest without its variants and files.

    Args:
        features: of one image, where every image has as many.
        turns: what stands between the messages of a conversation (:func:`exporter.data.turns.literal_turns`).
    """
    size = decoder.size
    return {
        "format": FORMAT,
        "steered": identity.section is not None,
        "steering": identity.section,
        "base": dict(identity.base),
        "license": identity.license,
        "model_type": host.model_type.removeprefix("steered_"),
        "gates": list(decoder.gates),
        "gate_state": decoder.gate_state,
        "cache": {
            "layers": decoder.cache_layers,
            "kv_heads": size.kv_heads,
            "head_dim": size.head_dim,
        },
        "position_rows": decoder.family.position_rows,
        "image": _image(host, features) if decoder.family.sees else None,
        "turns": turns,
        "bos_token": host.tokenizer.bos_token,
        "pad_id": host.pad_id,
        "end_ids": sorted(host.end_ids),
    }


def write(folder: Path, manifest: Mapping[str, Any], variants: Mapping[str, Mapping[str, str]]) -> None:
    """Writes the manifest, last: it bears the size and hash of every file of the folder."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest_of_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    whole = {**manifest, "variants": variants, "files": files}
    write_json(folder / MANIFEST, whole, finite=False)


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


def _image(host: ModelHost, features: int | None) -> dict[str, Any]:
    """How images become features: token, features for each, and the steps from a file to ``pixel_values``.

    The last two are None where a processor cuts images up or puts more than image tokens for one; a runner cannot do that alone.
    """
    config = host.model.config
    image: dict[str, Any] = {
        "token_id": int(config.image_token_id),
        "tokens": features,
        "preprocessing": None,
    }
    merge = getattr(config.vision_config, "spatial_merge_size", None)
    if merge is not None:
        image["spatial_merge_size"] = int(merge)
    if config.model_type.removeprefix("steered_") == "llava":
        image["preprocessing"] = _whole_image(getattr(host.processor, "image_processor", None))
    return image


def _whole_image(processor: Any) -> dict[str, Any] | None:
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
    ones = {"mean": [0.0] * 3, "std": [1.0] * 3}
    norm = (
        {"mean": list(processor.image_mean), "std": list(processor.image_std)}
        if processor.do_normalize
        else ones
    )
    return {
        "size": None if size is None else {k: v for k, v in size.items() if v},
        "crop": None if crop is None else {k: v for k, v in crop.items() if v},
        "resample": int(processor.resample),
        "scale": float(processor.rescale_factor) if processor.do_rescale else 1.0,
        **norm,
    }
