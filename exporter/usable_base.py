"""Whether a folder can be a base, judged by its file names, JSON and headers, before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from exporter.errors import CompileError, InputErrors
from exporter.model_folder import inner, leaves, read_object

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"
_QUANTISED = ("quantization_config", "compression_config")
_OTHER = {
    ".gguf": "GGUF files",
    ".h5": "TensorFlow weights",
    ".msgpack": "Flax weights",
    ".pth": "PyTorch files of another layout",
    ".safetensors": "safetensors files of other names",
}


class Quantiser(NamedTuple):
    """What reads the weights of one ``quant_method``: the module to import, and what pip installs."""

    module: str
    package: str


QUANTISERS: Mapping[str, Quantiser | None] = {
    "awq": Quantiser("gptqmodel", "gptqmodel"),
    "gptq": Quantiser("gptqmodel", "gptqmodel optimum"),
    "bitsandbytes": Quantiser("bitsandbytes", "bitsandbytes"),
    "torchao": Quantiser("torchao", "torchao"),
    "compressed-tensors": Quantiser("compressed_tensors", "compressed-tensors"),
    "aqlm": Quantiser("aqlm", '"aqlm[cpu,gpu]"'),
    "hqq": Quantiser("hqq", "hqq"),
    "quanto": Quantiser("optimum.quanto", "optimum-quanto"),
    "quark": Quantiser("quark", "amd-quark"),
    "eetq": Quantiser("kernels", "kernels"),
    "auto-round": Quantiser("auto_round", "auto-round"),
    "vptq": Quantiser("vptq", "vptq"),
    "spqr": Quantiser("spqr_quant", '"spqr_quant[gpu]"'),
    "mxfp4": Quantiser("kernels", "kernels"),
    "fbgemm_fp8": Quantiser("fbgemm_gpu", "fbgemm-gpu"),
    "fp8": None,
    "mxfp8": None,
    "bitnet": None,
}
"""By ``quant_method``; None: Transformers itself."""


def why_unusable(folder: Path) -> list[str]:
    """Why no checkpoint can be made of a folder whatever is fitted on it; nothing for one that may be a base.

    Reads JSON and looks at names; loads nothing. One sentence a reason, each with a fix. Weights in ``.bin`` files are no
    reason, since they are converted.
    """
    if not (folder / "config.json").is_file():
        return [_no_model(folder)]
    try:
        config = read_object(folder / "config.json", strict=False)
    except CompileError as error:
        return [str(error)]
    found = [*other_model(folder, config), _unnamed_class(config), why_no_weights(folder)]
    return [one for one in found if one is not None]


def refuse_unusable(folder: Path) -> None:
    """Raises InputErrors with all reasons of :func:`why_unusable`."""
    if reasons := why_unusable(folder):
        raise InputErrors(str(folder), reasons)


def other_model(folder: Path, config: Mapping[str, object]) -> list[str]:
    """Why Transformers would load another model from a folder than its plain weights are, one sentence a reason."""
    found = [_linked(folder), adapter_beside(folder), why_quantised(config), _weights_elsewhere(config)]
    return [one for one in found if one is not None]


def adapter_beside(folder: Path) -> str | None:
    """Why a folder with an adapter beside its weights is no base: Transformers would put it in without a word."""
    if not (folder / ADAPTER).is_file():
        return None
    return (
        "it contains an adapter (adapter_config.json) in addition to the weights, which Transformers would apply; move the adapter's "
        "files to another folder, and list that folder under base.adapters: [FOLDER] if you want the adapter"
    )


def why_quantised(config: Mapping[str, object]) -> str | None:
    """Why weights that are packed cannot be steered, and which package unpacks them; None for plain weights."""
    told = [
        value
        for place, value in inner(config)
        if place.rpartition(".")[2] in _QUANTISED and value is not None
    ]
    if not told:
        return None
    settings = told[0]
    method = _method_of(settings)
    tool = QUANTISERS.get(method)
    takes = (
        f" (which needs `pip install {tool.package}`)"
        if tool is not None and not _installed(tool.module)
        else ""
    )
    return (
        f"its weights are quantised by {method}, and a checkpoint cannot be made from packed weights; give the folder of the model with "
        f"its original weights, or of these weights dequantised{takes}"
    )


def is_binary(folder: Path) -> bool:
    """Whether a folder's weights lie in PyTorch's ``.bin`` files alone."""
    return not any((folder / name).exists() for name in (SAFE, SAFE_INDEX)) and any(
        (folder / name).exists() for name in (BIN, BIN_INDEX)
    )


def shards_of_index(index: Path, suffix: str) -> dict[str, str]:
    """Shard by tensor, as an index names them.

    Args:
        suffix: how a shard's name ends, ``.bin`` or ``.safetensors``.

    Raises:
        CompileError: it names none, or one that is no file of that ending beside it.
    """
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CompileError(f"{index} has no weight_map that names a shard for each tensor")
    shard = re.compile(rf"(?!\.)[^/\\\x00-\x1f]{{1,200}}{re.escape(suffix)}")
    for name, value in found.items():
        if not isinstance(value, str) or not shard.fullmatch(value):
            raise CompileError(
                f"{index} names the shard {value!r:.80} for {name!r:.80}; a shard must be a {suffix} file in the same folder"
            )
    return found


def _no_model(folder: Path) -> str:
    if (folder / ADAPTER).is_file():
        return (
            "it contains an adapter but no model; give the adapter's base under base.path (or base.repo), and this folder under "
            "base.adapters: [FOLDER]"
        )
    return "it has no config.json; give the folder of a Transformers checkpoint"


def _linked(folder: Path) -> str | None:
    path = folder / "config.json"
    if leaves(path, folder):
        return f"config.json is a link that leaves its folder, to {path.resolve()}; replace it by the file itself"
    return None


def _weights_elsewhere(config: Mapping[str, object]) -> str | None:
    name = config.get("transformers_weights")
    if name is None:
        return None
    return (
        f"config.json makes Transformers load the weights from {name!r:.80} (transformers_weights) instead of {SAFE}; remove the key, or "
        "save the model again with save_pretrained"
    )


def _unnamed_class(config: Mapping[str, object]) -> str | None:
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        return f"config.json names architectures {named}; exactly one is needed, such as LlamaForCausalLM"
    if not isinstance(config.get("model_type"), str):
        return "config.json has no model_type"
    answers = _answering(str(config["model_type"]))
    if answers and named[0] not in answers:
        return (
            f"config.json names the class {named[0]}, which does not generate text; a base must be a {' or a '.join(sorted(answers))}, "
            "including its head"
        )
    return None


def _answering(model_type: str) -> set[str]:
    """The classes of a model type that Transformers loads to generate text; none for a type that it does not know."""
    from transformers.models.auto import modeling_auto

    tables = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )
    found = (dict(table).get(model_type, ()) for table in tables)
    return {name for names in found for name in ([names] if isinstance(names, str) else names)}


def why_no_weights(folder: Path) -> str | None:
    """Why a folder's weights are not there as a base's may be, by the names of its files; None where they are."""
    there = [name for name in (SAFE, SAFE_INDEX) if (folder / name).exists()]
    if len(there) == 2:
        return f"it contains both {SAFE} and {SAFE_INDEX}; remove the one that does not belong to the model"
    binary = [name for name in (BIN, BIN_INDEX) if (folder / name).exists()]
    if not there and len(binary) == 2:
        return f"it contains both {BIN} and {BIN_INDEX}; remove the one that does not belong to the model"
    if not there and not binary:
        return _other_weights(folder)
    try:
        return next(_lost_shards(folder, (there or binary)[0]), None)
    except CompileError as error:
        return str(error)


def _other_weights(folder: Path) -> str:
    suffixes = {path.suffix for path in folder.iterdir() if path.is_file()}
    other = [text for suffix, text in _OTHER.items() if suffix in suffixes]
    held = f"it contains {' and '.join(other)}, but " if other else "it holds "
    return (
        f"{held}neither {SAFE} nor {SAFE_INDEX}; load the model with Transformers and save it again with save_pretrained, which writes "
        "safetensors"
    )


def _lost_shards(folder: Path, name: str) -> Iterator[str]:
    suffix = ".safetensors" if name in (SAFE, SAFE_INDEX) else ".bin"
    shards = (
        set(shards_of_index(folder / name, suffix).values()) if name in (SAFE_INDEX, BIN_INDEX) else {name}
    )
    lost = sorted(shard for shard in shards if not (folder / shard).is_file())
    if lost:
        yield f"{', '.join(lost[:3])} of the weights {'is' if len(lost) == 1 else 'are'} missing; download the model again"
    for shard in sorted({name, *shards} - set(lost)):
        if leaves(folder / shard, folder):
            yield f"{shard} is a link that leaves its folder, to {(folder / shard).resolve()}; replace it by the file itself"


def _method_of(settings: object) -> str:
    if not isinstance(settings, Mapping):
        return "an unknown method"
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method") or "an unknown method")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
