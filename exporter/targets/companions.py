"""Files that belong to a model beside its weights: what its processor and tokenizer are read from, generation config, licence.

Copied by need: a file goes along because Transformers asks for its name, and for no other reason, since the folder of a fine-tuned base
holds samples of its rows and paths of its machine too. What is copied of JSON has no such path.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.atomic import write_json
from exporter.foreign_code import CODE_KEYS
from exporter.model_folder import leaves, read_object
from exporter.usable_base import is_binary

SETTINGS = frozenset({
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
})  # fmt: skip
"""Copied without places of the machine that they were written on."""
VOCABULARY = frozenset({
    "added_tokens.json",
    "chat_template.jinja",
    "emoji.json",
    "merges.txt",
    "qwen.tiktoken",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
    "tekken.json",
    "tiktoken.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer.tiktoken",
    "vocab.json",
    "vocab.txt",
    "vocab.tiktoken",
})  # fmt: skip
"""Copied byte for byte."""
_LICENCE = re.compile(
    r"((THIRD[-_]PARTY|LLAMA\d?|GEMMA|QWEN|MODEL)[-_])?(LICEN[CS]ES?|NOTICES?|COPYING|USE_POLICY)"
    r"([-_.](APACHE|MIT|BSD|[AL]?GPL|MPL|CC|LLAMA|GEMMA|QWEN|MODEL|CODE|WEIGHTS)[-0-9.A-Z]*)?(\.(txt|md|rst))?",
    re.IGNORECASE,
)
_VERSIONED = re.compile(r"tokenizer\.\d+(\.\d+){0,2}\.json")
_TEMPLATES = "additional_chat_templates"
_BINARY = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json")
_NAMES = re.compile(
    r"\w*name_or_path|checkpoint|resume_from_checkpoint|run_name|\w*_dir|(hf|hub|auth|use_auth|access|api)_(token|key)|wandb\w*"
)
"""Keys of a folder, a run or a password, whatever their value."""
_FILES = re.compile(r"(vocab|merges|tokenizer|special_tokens_map|spm|chat_template)_file")
"""Keys of files beside the settings, which Transformers finds by their usual names."""
_WORDS = re.compile(r"(added_tokens_decoder|id2label|label2id|.*tokens?|chat_template|.*_regex|.*pattern)")
"""Keys whose values are what a model reads and writes, and may look like paths."""
_SHARE = r"(file|s3|gs|hdfs|dbfs|abfss?|nfs|smb|ssh|sftp):/"
_ROOTS = "home|Users|root|mnt|scratch|tmp|var|opt|srv|data|workspace|gpfs|lustre|fsx|storage|private|Volumes"
_PLACE = re.compile(
    rf"\s*({_SHARE}|~[\\/]|\.{{1,2}}[\\/]|\$\{{?\w+\}}?[\\/]|%\w+%|\\\\\w|[A-Za-z]:[\\/]|/[\w.+-]+/|/({_ROOTS})\s*$"
    r"|[\w.-]*[A-Za-z][\w.-]*(/[\w.-]+){2,}/?\s*$)"
    rf"|[\s\S]*((?<![\w.])/({_ROOTS})/\w|(?<![A-Za-z])[A-Za-z]:[\\/]+Users[\\/]|\b{_SHARE}|checkpoint-\d+|\bhf_[A-Za-z0-9]{{20,}})"
)
"""A path of a file system or of a share, a text that holds one of somebody's home, or a token of the Hub."""


def copy_companions(source: Path, folder: Path, *, code: bool = False) -> list[str]:
    """Copies them from one model's folder to another's; existing files are not changed.

    Args:
        code: the source's own code goes along, because its user trusts it.

    Returns:
        Names of the other files of ``source`` that are not weights, sorted: those that are not copied.

    Raises:
        CompileError: a file of settings is not a JSON object.
    """
    for name in needed_files(source, code=code):
        target = folder / name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in SETTINGS:
            settings = read_object(source / name, strict=False)
            shown = without_places(settings, code=code)
            if shown != settings:
                write_json(target, shown, indent=2, finite=False)
                continue
        shutil.copyfile(source / name, target)
    return left_out(source, code=code)


def needed_files(source: Path, *, code: bool = False) -> list[str]:
    """Names of the files of a model's folder that are copied, sorted; without links that leave the folder."""
    found = [path for path in source.iterdir() if _is_needed(path.name, code=code)]
    templates = source / _TEMPLATES
    if templates.is_dir() and not templates.is_symlink():
        found += templates.glob("*.jinja")
    return sorted(
        path.relative_to(source).as_posix() for path in found if path.is_file() and not leaves(path, source)
    )


def licences(source: Path) -> list[str]:
    """Names of the licence files of a model's folder, sorted."""
    return [name for name in needed_files(source) if _LICENCE.fullmatch(name)]


def left_out(source: Path, *, code: bool = False) -> list[str]:
    """Names of the files of a model's folder that are not copied, without weights, ``config.json`` and hidden files."""
    there = {path.name for path in source.iterdir() if not path.name.startswith(".")}
    needed = {name.partition("/")[0] for name in needed_files(source, code=code)}
    binary = is_binary(source)  # its weights go along, written again
    weights = {name for name in there if _is_weight(name) or (binary and _BINARY.fullmatch(name))}
    return sorted(there - needed - weights - {"config.json"})


def without_places(settings: Mapping[str, Any], *, code: bool = False) -> dict[str, Any]:
    """Settings without the paths of a machine, without names of folders that they came from, and without code to run."""
    return {
        key: value if _is_word(key) or (code and key in CODE_KEYS) else _inside(value, code=code)
        for key, value in settings.items()
        if not _is_dropped(key, value, code=code)
    }


def _is_word(key: str) -> bool:
    return _WORDS.fullmatch(key) is not None and _NAMES.fullmatch(key) is None


def _is_dropped(key: str, value: object, *, code: bool) -> bool:
    if _NAMES.fullmatch(key) or _is_place(key):
        return True
    if not code and (key in CODE_KEYS or (_FILES.fullmatch(key) and isinstance(value, str))):
        return True
    return _is_place(value) and not _is_word(key)


def _inside(value: object, *, code: bool) -> object:
    if isinstance(value, Mapping):
        return without_places(value, code=code)
    if isinstance(value, list):
        return [_inside(one, code=code) for one in value if not _is_place(one)]
    return value


def _is_place(value: object) -> bool:
    return isinstance(value, str) and _PLACE.match(value) is not None


def _is_needed(name: str, *, code: bool) -> bool:
    known = name in SETTINGS or name in VOCABULARY or _VERSIONED.fullmatch(name) or _LICENCE.fullmatch(name)
    return bool(known) or (code and name.endswith(".py"))


def _is_weight(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json", ".safetensors.index.steered.json"))
