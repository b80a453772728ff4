"""Target ``checkpoint``: a Transformers checkpoint with the steering in its weights and config.

The base shards are hard links to the base's own files; one more shard, the merged index, the config and the code that
travels are written beside them. No weight is read, so compiling costs the same for any size of model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.atomic import link_or_copy, refuse_existing, whole_folder, write_json
from exporter.errors import CompileError
from exporter.foreign_code import checkpoint_code, refuse_code
from exporter.model_folder import leaves, read_object
from exporter.reader import loaded_config
from exporter.steerable import why_unsteerable
from exporter.targets.base_weights import SINGLE, BaseWeights
from exporter.targets.companions import copy_companions, without_places
from exporter.targets.proof import Proof, prove
from exporter.usable_base import other_model
from steer_modules.files import WEIGHTS_INDEX
from steer_modules.program import STEERING_TENSORS, SteeringProgram, save_tensors
from steer_modules.schema import HELD
from steer_modules.settings import KEY, settings
from steer_modules.template import StockClasses, stock_classes
from steer_modules.versions import requirement

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def compile_checkpoint(
    base: Path, program: SteeringProgram, out: Path, *, trust_remote_code: bool = False
) -> Path:
    """Writes ``out``, a checkpoint of ``base`` steered by ``program``, whole or not at all.

    Args:
        base: folder of a Transformers checkpoint with safetensors weights.
        program: fitted on that base; its fingerprint, where it has one, must be the base's.
        out: a folder that does not exist.
        trust_remote_code: the base's tokenizer or processor may have code of its own, which then goes along.

    Returns:
        ``out``.

    Raises:
        CompileError: ``out`` exists, or ``base`` is not whole, is another model, is steered already, asks for code of its own, or a
            tiny twin of it breaks a law.
    """
    refuse_existing(Path(out))
    config = _base_config(Path(base))
    refuse_code(Path(base), trusted=trust_remote_code)
    _refuse_other_model(Path(base), config)
    prove_family(config_of(Path(base)))
    return _compile(Path(base), program, Path(out), trust_remote_code=trust_remote_code)


def prove_family(config: object) -> Proof:
    """Tries whether models of this config can be steered, on a tiny twin with random weights; takes a second or two.

    Args:
        config: the base's, as Transformers loads it.

    Raises:
        CompileError: they cannot; it names the law that broke.
    """
    return prove(config, _compile)


def config_of(base: Path) -> PretrainedConfig:
    """The config of a base as Transformers loads it.

    Raises:
        CompileError: nothing of the kind can be steered.
        InputErrors: no stock class can read it.
    """
    settings = _base_config(base)
    if reason := why_unsteerable(settings):
        raise CompileError(reason)
    return loaded_config(settings)


def _compile(base: Path, program: SteeringProgram, out: Path, *, trust_remote_code: bool = False) -> Path:
    config = _base_config(Path(base))
    weights = BaseWeights.read(Path(base))
    program = _for_base(program, config, weights)
    stock = _stock(program)
    with whole_folder(Path(out)) as folder:
        _write_weights(weights, program, folder)
        _write_config(without_places(config, code=trust_remote_code), program, stock, folder)
        _write_code(stock, folder)
        copy_companions(Path(base), folder, code=trust_remote_code)
    return Path(out)


def _base_config(base: Path) -> dict[str, object]:
    path = base / "config.json"
    if not path.is_file():
        raise CompileError(f"{base} has no config.json; give the folder of a Transformers checkpoint")
    if leaves(path, base):
        raise CompileError(
            f"{path} is a link that leaves its folder, to {path.resolve()}; replace it by the file itself"
        )
    config = read_object(path, strict=False)
    if "steering" in config:
        raise CompileError(f"{base} is already steered; compile from its base model")
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise CompileError(f"{path} names architectures {named}; exactly one is needed")
    if not isinstance(config.get("model_type"), str) or not isinstance(
        config.get("text_config", {}), dict | None
    ):
        raise CompileError(
            f"{path} has a model_type that is not a name, or a text_config that is not an object"
        )
    return config


def _refuse_other_model(base: Path, config: dict[str, object]) -> None:
    """Raises CompileError for a base that Transformers would load as another model than its plain weights are."""
    if reasons := other_model(base, config):
        raise CompileError(f"{base}: {'; '.join(reasons)}")


def _for_base(program: SteeringProgram, config: dict[str, Any], weights: BaseWeights) -> SteeringProgram:
    """The program with the base's fingerprint; raises CompileError where it was fitted on another model."""
    fingerprint = weights.fingerprint()
    found = {
        "architecture": config["architectures"][0],
        "model_type": config.get("model_type"),
        "fingerprint": fingerprint,
        "settings": HELD,
    }
    text = config.get("text_config") or config
    found_sizes = {"hidden_size": text.get("hidden_size", text.get("n_embd"))}
    found_sizes["num_layers"] = text.get("num_hidden_layers", text.get("n_layer"))
    wrong = [
        f"base.{key} is {wanted}, but this base has {found[key]}"
        for key, wanted in program.base.section().items()
        if wanted != found[key]
    ]
    wrong += [
        f"{key} is {getattr(program, key)}, but this base has {size}"
        for key, size in found_sizes.items()
        if size is not None and size != getattr(program, key)
    ]
    if wrong:
        raise CompileError("the steering was fitted on another model: " + "; ".join(wrong))
    return program.with_fingerprint(fingerprint)


def _stock(program: SteeringProgram) -> StockClasses:
    try:
        return stock_classes(program.base.model_type, program.base.architecture)
    except ValueError as error:
        raise CompileError(str(error)) from error


def check_names(weights: BaseWeights) -> None:
    """Raises CompileError where a base uses a name under which the steering is to lie."""
    if STEERING_TENSORS in weights.shards or any(name.startswith("steering.") for name in weights.tensors):
        raise CompileError(f"{weights.folder} already has a shard or tensors called steering")


def _write_weights(weights: BaseWeights, program: SteeringProgram, folder: Path) -> None:
    """Links the base shards, writes the steering shard and the index over all of them.

    No file has a name under which a stock class looks for weights: one that did would load, and run unsteered.
    """
    names = {shard: shard for shard in weights.shards}
    if SINGLE in names:
        names[SINGLE] = "base-00001-of-00001.safetensors"
    check_names(weights)
    for shard, name in names.items():
        link_or_copy(weights.folder / shard, folder / name)
    tensors = program.tensors()
    save_tensors(tensors, folder / STEERING_TENSORS)
    weight_map = {name: names[tensor.shard] for name, tensor in weights.tensors.items()}
    weight_map.update(dict.fromkeys(tensors, STEERING_TENSORS))
    total = weights.total_size + sum(tensor.numel() * 4 for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / WEIGHTS_INDEX, index, indent=2)


def _write_config(
    config: dict[str, Any], program: SteeringProgram, stock: StockClasses, folder: Path
) -> None:
    steered = {
        **config,
        "model_type": f"steered_{stock.model_type}",
        "architectures": [f"Steered{stock.architecture}"],
        "auto_map": {**(config.get("auto_map") or {}), **stock.auto_map},
        "steering": program.signed_section(),
        "steering_shapes": {name: list(tensor.shape) for name, tensor in sorted(program.tensors().items())},
        "steering_requires": requirement(),
    }
    steered[KEY] = settings(steered)
    write_json(folder / "config.json", steered, indent=2, finite=False)


def _write_code(stock: StockClasses, folder: Path) -> None:
    for name, source in checkpoint_code(stock).items():
        (folder / name).write_bytes(source)
