"""Files that belong to a model beside its weights: processor, tokenizer, chat template, generation config, licence."""

from __future__ import annotations

import shutil
from pathlib import Path

from exporter.targets.base_weights import INDEX

_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "LICENSE*", "NOTICE*")
_NOT_THESE = (
    "config.json",
    INDEX,
    "adapter_config.json",
    "steering.json",
    "verification.json",
    "provenance.json",
)
"""The last two tell of the other folder."""


def copy_companions(source: Path, folder: Path) -> None:
    """Copies them from one model's folder to another's; what is there already is left as it is."""
    for pattern in _PATTERNS:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and path.name not in _NOT_THESE and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name)
