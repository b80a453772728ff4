"""Target ``gguf``: a plain checkpoint as files for llama.cpp; layers that were inserted to steer are in f16 in each of them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from exporter.atomic import refuse_existing, whole_folder
from exporter.digests import digest_of_file
from exporter.errors import CompileError
from exporter.targets.companions import licences
from exporter.targets.gguf.convert import convert
from exporter.targets.gguf.manifest import MANIFEST, GgufFile, GgufManifest
from exporter.targets.gguf.merged import read_merged
from exporter.targets.gguf.plain import Plain
from exporter.targets.gguf.precisions import CONVERTED, choose, label
from exporter.targets.gguf.probe import probe
from exporter.targets.gguf.quantize import quantize
from exporter.targets.gguf.rounding import check_half
from exporter.targets.gguf.stock import read_stock
from exporter.targets.gguf.subprocesses import apart
from exporter.targets.gguf.target import GgufOptions
from exporter.targets.gguf.tensors import check_file, check_reader
from exporter.targets.gguf.tools import find_converter, find_quantiser, has_runtime
from exporter.targets.merged.manifest import MergedManifest

LOG = logging.getLogger(__name__)


def export_gguf(folder: Path, out: Path, options: GgufOptions) -> Path:
    """Writes the folder ``out`` of GGUF files of a plain checkpoint, whole or not at all.

    Args:
        folder: what ``steerbake export stock`` wrote, or a checkpoint with a weight edit merged into it.

    Returns:
        ``out``.

    Raises:
        CompileError: ``out`` exists, ``folder`` is neither, a matrix does not fit f16, a tool is missing or failed.
        VerificationError: a tensor of an inserted layer is not f16 or f32, or llama.cpp does not run a file as the checkpoint.
    """
    refuse_existing(out)
    kinds = choose(options.types)
    name = _name(options.name or folder.resolve().name)
    plain = read_merged(folder) if (folder / MergedManifest.FILE).is_file() else read_stock(folder)
    check_reader()
    if set(kinds) != {"f32"}:
        check_half(plain)
    converter = find_converter(options.llama_cpp)
    converted = tuple(kind for kind in CONVERTED if kind in kinds or (kind == "f16" and set(kinds) - {"f32"}))
    quantised = tuple(kind for kind in kinds if kind not in CONVERTED)
    quantiser = find_quantiser(options.llama_cpp) if quantised else None
    with whole_folder(out) as partial:
        paths = {kind: partial / f"{name}-{label(kind)}.gguf" for kind in (*converted, *quantised)}
        for kind in converted:
            LOG.info("convert to %s", kind)
            convert(converter, folder, paths[kind], kind, name)
            check_file(paths[kind], plain.layers, plain.blocks)
        for kind in quantised:
            LOG.info("quantise to %s", kind)
            quantize(quantiser, paths["f16"], paths[kind], kind, plain.layers)
        if "f16" not in kinds and "f16" in paths:
            paths["f16"].unlink()
        files = {paths[kind].name: _checked(paths[kind], kind, plain) for kind in kinds}
        GgufManifest.of(plain.shown, files).save(partial / MANIFEST)
        for license_file in licences(folder):
            shutil.copyfile(folder / license_file, partial / license_file)
    return out


def _checked(path: Path, kind: str, plain: Plain) -> GgufFile:
    """The manifest's entry of a file that passed every check there is."""
    return GgufFile(
        type=label(kind),
        inserted=check_file(path, plain.layers, plain.blocks),
        probe=apart(probe, path, plain) if has_runtime() else None,
        sha256=digest_of_file(path),
        bytes=path.stat().st_size,
    )


def _name(name: str) -> str:
    """Raises CompileError for a name that cannot begin a file's."""
    if not name or name != Path(name).name or name.startswith((".", "-")):
        raise CompileError(f"{name!r} cannot be part of file names; give a plain name with --name")
    return name
