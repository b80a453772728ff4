"""By which files a run's checkpoint gave its answers, so that a release of the same files need not be asked once more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from exporter import registry
from exporter.atomic import write_json
from exporter.digests import FileDigests, digest_of_file
from exporter.provenance import versions
from exporter.publish.files import covered


def digests_of(folder: Path) -> FileDigests:
    """Of every file of a checkpoint or a release that a verification covers, read now."""
    return FileDigests(folder, covered(folder))


def note_files(answers: Path, found: FileDigests) -> None:
    """Writes beside recorded answers which weights, code, config and tokenizer gave them, and under which versions."""
    write_json(_beside(answers), _told(answers, found))


def answered_by(answers: Path, found: FileDigests) -> bool:
    """Whether recorded answers were given by just these files of a checkpoint, under the versions that are installed now."""
    try:
        noted = json.loads(_beside(answers).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(noted == _told(answers, found))


def _beside(answers: Path) -> Path:
    return answers.with_name(f"{answers.name}.files.json")


def _told(answers: Path, found: FileDigests) -> Mapping[str, object]:
    """The files of the checkpoint at the root of a folder; a target beside it gives no answer of the checkpoint's."""
    others = registry.exports()
    own = {path: one for path, one in found.files.items() if path.partition("/")[0] not in others}
    return {"answers": digest_of_file(answers), "files": own, "versions": versions()}
