"""A base and an edit as one checkpoint, shard by shard: no more than one shard is ever in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from exporter.atomic import link_or_copy, refuse_existing, whole_folder, write_json
from exporter.digests import digest_of_file
from exporter.errors import CompileError
from exporter.foreign_code import refuse_code
from exporter.model_folder import read_object
from exporter.reader import loaded_config
from exporter.targets.base_weights import INDEX, BaseWeights
from exporter.targets.companions import copy_companions, without_places
from exporter.targets.edited_base import not_noted, why_other_base
from exporter.targets.merged.deltas import FLOATS, Delta, deltas
from exporter.targets.merged.manifest import MergedManifest
from exporter.weight_edit import WeightEdit

LOG = logging.getLogger(__name__)


def export_merged(base: Path, edit: WeightEdit, out: Path, *, trust_remote_code: bool = False) -> Path:
    """Writes ``out``, the checkpoint of ``base`` with ``edit`` in its weights, whole or not at all.

    Shards that the edit does not touch are linked. Each changed tensor is computed in float32 and rounded once to its stored dtype.

    Args:
        base: folder of a Transformers checkpoint with safetensors weights.
        trust_remote_code: the base's tokenizer or processor may have code of its own, which then goes along.

    Returns:
        ``out``.

    Raises:
        CompileError: ``out`` exists, the edit is of another base or of other settings of it, its weights are quantised, or the edit has layers that they do not hold.
    """
    refuse_existing(Path(out))
    refuse_code(Path(base), trusted=trust_remote_code)
    weights = BaseWeights.read(Path(base))
    if wrong := why_other_base(edit.edited_base, Path(base)):
        raise CompileError(f"the edit was fitted on another model: {'; '.join(wrong)}")
    if note := not_noted(edit.edited_base):
        LOG.warning("note: %s", note)
    config = read_object(Path(base) / "config.json", strict=False)
    changes = deltas(edit, loaded_config(config), weights)
    packed = [name for name in changes if weights.tensors[name].dtype not in FLOATS]
    if packed:
        raise CompileError(
            f"{packed[0]} of the base is {weights.tensors[packed[0]].dtype}, quantised; give its original weights"
        )
    with whole_folder(Path(out)) as folder:
        changed = _write_shards(weights, changes, folder)
        write_json(
            folder / "config.json", without_places(config, code=trust_remote_code), indent=2, finite=False
        )
        copy_companions(Path(base), folder, code=trust_remote_code)
        if not changed:
            raise CompileError(
                "the edit changes no weight of the base (it is zero, or lost in rounding), so the model would forget nothing; fit it again with "
                "a higher learning_rate"
            )
        _write_manifest(edit, changed, folder)
    return Path(out)


def _write_shards(weights: BaseWeights, changes: Mapping[str, Delta], folder: Path) -> int:
    """Writes every shard; returns how many tensors are not the base's any more."""
    changed = 0
    for shard in weights.shards:
        source = weights.folder / shard
        if not any(weights.tensors[name].shard == shard for name in changes):
            link_or_copy(source, folder / shard)
            continue
        with safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            metadata = file.metadata()
        for name in changes.keys() & tensors.keys():
            before = tensors[name]
            tensors[name] = changes[name].added_to(before)
            changed += not torch.equal(tensors[name], before)
            if not bool(torch.isfinite(tensors[name]).all()):
                raise CompileError(
                    f"{name} is not finite after the edit; fit it again with a lower learning_rate"
                )
        save_file(tensors, folder / shard, metadata=metadata)
        del tensors
    if (weights.folder / INDEX).is_file():
        index = read_object(weights.folder / INDEX, strict=False)
        write_json(folder / INDEX, index, indent=2)
    return changed


def changed_tensors(base: Path, merged: Path) -> int:
    """How many tensors of a merged checkpoint are not its base's, read shard by shard.

    Raises:
        CompileError: the two do not have the same tensors.
    """
    one, other = BaseWeights.read(base), BaseWeights.read(merged)
    if one.tensors.keys() != other.tensors.keys():
        raise CompileError(f"{merged} has other tensors than {base}")
    changed = 0
    for shard in other.shards:
        with safe_open(merged / shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                with safe_open(base / one.tensors[name].shard, framework="pt") as before:
                    changed += not torch.equal(file.get_tensor(name), before.get_tensor(name))
    return changed


def _write_manifest(edit: WeightEdit, changed: int, folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): digest_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = MergedManifest(
        format="steerbake-merged/1",
        method=edit.method,
        seed=edit.seed,
        rows=edit.rows,
        base=edit.edited_base,
        edit=edit.sha256,
        fingerprint=BaseWeights.read(folder).fingerprint(),
        changed=changed,
        files=files,
    )
    manifest.save(folder / MergedManifest.FILE)
