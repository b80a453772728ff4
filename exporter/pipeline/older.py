"""Programs and checkpoints of format ``steerbake/1``, brought to today's where the law can be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer

from exporter.atomic import link_or_copy
from exporter.data.headers import generation_headers
from exporter.errors import CompileError, DataError
from exporter.targets.base_weights import INDEX, BaseWeights
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.companions import copy_companions
from steer_modules.program import STEERING_JSON, STEERING_TENSORS, SteeringProgram
from steer_modules.schema import CONFIG_KEYS
from steer_modules.upgrade import is_old, upgraded


def program_for(base: Path, steering: Path) -> SteeringProgram:
    """The program of a steering folder; one of format 1 is upgraded for ``base``, whose chat template has the headers.

    Raises:
        ProgramError: it is not understood, was altered, or cannot be upgraded.
        DataError: the base has no chat template.
    """
    section, tensors = _old(steering / STEERING_JSON, steering / STEERING_TENSORS)
    if section is None:
        return SteeringProgram.load(steering)
    return upgraded(section, tensors, headers_of(base))


def headers_of(base: Path) -> tuple[tuple[int, ...], ...]:
    """Generation headers by the tokenizer, or else the processor, that lies with a model; none of its code is run.

    Raises:
        DataError: neither has a chat template whose prompts end in a header.
        CompileError: neither can be read.
    """
    try:
        return generation_headers(AutoTokenizer.from_pretrained(base, trust_remote_code=False))
    except DataError as error:  # of some families the processor alone has the chat template
        try:
            processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            raise error from None
        return generation_headers(processor)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CompileError(f"the tokenizer of {base} cannot be loaded: {error}") from error


def upgrade_checkpoint(checkpoint: Path, out: Path) -> Path:
    """Writes ``out``: the base and the steering of a checkpoint of format 1, in today's format.

    Raises:
        CompileError: ``checkpoint`` is none of format 1, or ``out`` exists.
        ProgramError: its program cannot be upgraded.
    """
    config = _json(checkpoint / "config.json")
    section = config.get("steering")
    if not isinstance(section, dict) or not is_old(section):
        raise CompileError(
            f"{checkpoint} is not a checkpoint of format steerbake/1, so it cannot be upgraded"
        )
    tensors = load_file(checkpoint / STEERING_TENSORS)
    program = upgraded(section, tensors, headers_of(checkpoint))
    with TemporaryDirectory(dir=out.absolute().parent, prefix=".upgrade-") as name:
        base = Path(name)
        _take_out(checkpoint, config, base)
        return compile_checkpoint(base, program, out)


def _take_out(checkpoint: Path, config: Mapping[str, Any], base: Path) -> None:
    """The base model that lies within a checkpoint of format 1, as links."""
    ours = (*CONFIG_KEYS, "auto_map")
    plain = {k: v for k, v in config.items() if k not in ours}
    plain["model_type"] = str(config["model_type"]).removeprefix("steered_")
    plain["architectures"] = [str(name).removeprefix("Steered") for name in config["architectures"]]
    (base / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    weights = BaseWeights.read(checkpoint)
    own = {name: t.shard for name, t in weights.tensors.items() if not name.startswith("steering.")}
    for shard in sorted(set(own.values())):
        link_or_copy(checkpoint / shard, base / shard)
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": own}), encoding="utf-8")
    copy_companions(checkpoint, base)


def _old(section_file: Path, tensor_file: Path) -> tuple[dict[str, object] | None, dict[str, Tensor]]:
    """Section and tensors of format 1; (None, {}) for anything else, which its own reader tells apart."""
    try:
        section = json.loads(section_file.read_text(encoding="utf-8"))
        return (section, load_file(tensor_file)) if is_old(section) else (None, {})
    except (OSError, ValueError, SafetensorError):
        return None, {}


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompileError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CompileError(f"{path} is not the config of a model")
    return found
