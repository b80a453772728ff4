"""Target ``checkpoint`` as the commands know it: a Transformers checkpoint with the steering in its weights and config."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporter import registry
from exporter.errors import InputErrors, VerificationError
from exporter.targets.base import AnyTarget, ExportContext, Target, TargetOptions
from exporter.targets.snippets import config_of, with_transformers
from exporter.targets.values import (
    ChatModel,
    Completions,
    FileKind,
    Finding,
    LoadedTarget,
    Place,
    Reference,
    UsageSnippet,
)

if TYPE_CHECKING:
    from torch import Tensor

    from exporter.inspection import Inspection

_WEIGHTS = "the base's weights, unchanged; they still contain what was forgotten"
_TASKS = ("AutoModelForImageTextToText", "AutoModelForCausalLM")


class CheckpointOptions(TargetOptions):
    """What may be asked of it.

    ``steering``: folder of the program. ``trust_remote_code``: the base's tokenizer or processor may have code of its own.
    """

    steering: Path
    trust_remote_code: bool = False


class Checkpoint(Target[CheckpointOptions]):
    """What every other target is made of and held to."""

    name = "checkpoint"
    title = "Transformers"
    artifact = "A steered checkpoint."
    marker = "config.json"
    Options = CheckpointOptions
    requires = ()
    holds_program = True
    remedy = "fit again with other rows"
    files = (
        FileKind("config.json", "architecture, and the signed steering section"),
        FileKind("steering.safetensors", "steering tensors: what gates compare with and what edits write"),
        FileKind("base-*.safetensors", _WEIGHTS),
        FileKind("model-*.safetensors", _WEIGHTS),
        FileKind("model.safetensors.index.steered.json", "which file contains each tensor", minor=True),
        FileKind("*.py", "code that applies the steering", minor=True),
    )
    folder_kind: ClassVar[str] = "checkpoint"

    def is_at(self, folder: Path) -> bool:
        try:
            config = json.loads((folder / self.marker).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(config, dict) and isinstance(config.get("steering"), dict)

    def named_files(self, folder: Path) -> set[str]:
        """The shards of its index, and all code that this version or an earlier one writes; what is in it is compared elsewhere."""
        from exporter.foreign_code import names_of_code
        from steer_modules.files import WEIGHTS_INDEX
        from steer_modules.template import stock_classes

        index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
        base = json.loads((folder / self.marker).read_text(encoding="utf-8"))["steering"]["base"]
        code = names_of_code(stock_classes(base["model_type"], base["architecture"]))
        return {*index["weight_map"].values(), *code}

    def export(
        self, source: Path, out: Path, options: CheckpointOptions, context: ExportContext | None = None
    ) -> Path:
        """Writes the checkpoint ``out`` of the base ``source`` steered by the program of the options."""
        from exporter.inspection import examine
        from exporter.targets.checkpoint import compile_checkpoint

        del context
        program = examine(options.steering).program
        return compile_checkpoint(source, program, out, trust_remote_code=options.trust_remote_code)

    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        return LoadedTarget(folder, self.name, {"": reference.host})

    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        from exporter.targets.transformers_loads import steered_checkpoint

        return steered_checkpoint(loaded.path, completions, trusted)

    def inspect(self, folder: Path) -> Inspection:
        """Its program, and that the base's weights are those which it was compiled for; their bytes are not read."""
        from dataclasses import replace

        from exporter.inspection import examine
        from exporter.targets.base_weights import BaseWeights

        found = examine(folder)
        weights = BaseWeights.read(folder, steered=True)
        base = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("steering.")}
        if replace(weights, tensors=base).fingerprint() != found.program.base.fingerprint:
            raise VerificationError(
                f"{folder}: the base weights differ from those that the steering was compiled for"
            )
        return found

    def steering_tensors(self, folder: Path, manifest: Mapping[str, object]) -> Mapping[str, Tensor]:
        from safetensors.torch import load_file

        from steer_modules.program import STEERING_TENSORS

        del manifest
        return load_file(folder / STEERING_TENSORS)

    def chat(self, folder: Path, *, dtype: str | None, say: Callable[[str], None]) -> ChatModel | None:
        from exporter.targets.torch_chat import TorchChat
        from steer_modules.registration import register

        try:
            register(folder)
        except ValueError as error:
            raise InputErrors(
                str(folder), [f"{error}; give a steered checkpoint or an exported folder"]
            ) from error
        return TorchChat.load(folder, dtype, say)

    def describe(self, release: Path, place: Place) -> UsageSnippet:
        classes = config_of(release).get("auto_map") or {}
        model = next((name for name in _TASKS if name in classes), None)
        if model is None:
            raise VerificationError(
                f"{release / 'config.json'} has no class in auto_map; compile the checkpoint again"
            )
        note = (
            "`trust_remote_code` runs the code files in this repository that apply the steering. Without it, or with a file missing or "
            "changed, loading raises an error, so the model does not run unsteered by accident. vLLM, SGLang and TGI do not keep gates "
            f"and refuse the model; {_served(release)}."
        )
        code = with_transformers(model, place.pretrained(", trust_remote_code=True"))
        return UsageSnippet(self.name, self.title, "python", code, note)


def _served(release: Path) -> str:
    """What to serve where requests share a row."""
    there = served()
    if there is None:
        return "no target can be served there"
    if (release / there.name).is_dir():
        return f"serve the {there.name} checkpoint in `{there.name}/` there"
    return f"serve a {there.name} checkpoint there, which `steerbake export {there.name}` writes"


def served() -> AnyTarget | None:
    """The target for servers that put requests into one row, and so cannot run this one."""
    return next((one for one in registry.exports().values() if one.serves), None)
