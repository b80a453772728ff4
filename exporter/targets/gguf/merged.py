"""Reading a merged checkpoint: a plain Transformers model with a weight edit in its weights, and no layer that is another's."""

from __future__ import annotations

from pathlib import Path

from exporter import registry
from exporter.digests import digest_of_file
from exporter.errors import CompileError, VerificationError
from exporter.targets.edited_base import settings_in
from exporter.targets.gguf.manifest import MergedShown
from exporter.targets.gguf.plain import Plain, blocks_of, refuse_added, text_config
from exporter.targets.merged.manifest import MergedManifest


def read_merged(folder: Path) -> Plain:
    """Reads and checks a merged checkpoint.

    Raises:
        CompileError: it sees images, or a file is missing, added or not the one that merged.json names.
    """
    try:
        registry.target("merged").section(
            folder
        )  # holds every file to its digest, and the weights to their fingerprint
    except VerificationError as error:
        raise CompileError(str(error)) from None
    manifest = MergedManifest.load(folder)
    refuse_added(folder, manifest.files, MergedManifest.FILE)
    blocks = blocks_of(text_config(folder))
    if blocks is None:
        raise CompileError(f"{folder / 'config.json'} does not say how many layers the model has")
    shown = MergedShown(
        sha256=digest_of_file(folder / MergedManifest.FILE),
        edit=manifest.edit,
        method=manifest.method,
        base=manifest.base.fingerprint,
        fingerprint=manifest.fingerprint,
        blocks=blocks,
        files=manifest.files,
        settings=settings_in(folder),
    )
    return Plain(folder, (), blocks, tuple(manifest.files), shown)
