"""What a LoRA adapter adds to which stored tensor of its base.

An adapter names layers as a loaded model does; files may name and arrange the same weights in another way (``language_model.model.layers``
for ``model.language_model.layers``). Which name is which is asked of a model without weights, by the way in which Transformers saves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exporter.errors import CompileError
from exporter.reader import takes_images

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from exporter.targets.base_weights import BaseWeights
    from exporter.weight_edit import WeightEdit

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of stored weights that an edit can be added to."""
_MATRIX = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")


_MORE = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "exclude_modules",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
)
"""Keys by which peft computes something else than B A on every layer that has tensors."""


@dataclass(frozen=True)
class Delta:
    """One layer's share of an adapter.

    Attributes:
        down, up: A [r, in] and B [out, r].
        scale: of B A.
        transposed: whether the stored tensor is [in, out], as GPT-2's are.
    """

    down: Tensor
    up: Tensor
    scale: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Of the tensor that it is added to."""
        size = self.up.shape[0], self.down.shape[1]
        return size[::-1] if self.transposed else size

    def added_to(self, weight: Tensor) -> Tensor:
        """weight + scale · B A, computed in float32 and rounded once to the weight's dtype."""
        change = self.scale * (self.up.float() @ self.down.float())
        return (weight.float() + (change.T if self.transposed else change)).to(weight.dtype)


def deltas(edit: WeightEdit, config: PretrainedConfig, weights: BaseWeights) -> dict[str, Delta]:
    """What is added to each stored tensor of a base, by its name there.

    Raises:
        CompileError: the adapter has settings or layers that a stored weight cannot hold.
    """
    scale = _scale(edit.config)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in edit.tensors.items():
        matched = _MATRIX.fullmatch(name)
        if matched is None:
            raise CompileError(
                f"the adapter has {name}, which is no LoRA matrix; only plain LoRA can be merged"
            )
        pairs.setdefault(matched["layer"], {})[matched["side"]] = tensor
    stored = stored_names(config, weights)
    found = {}
    for layer, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            raise CompileError(f"the adapter has one matrix of two for {layer}; fit it again")
        place = stored.get(f"{layer}.weight")
        if place is None:
            raise CompileError(
                f"{layer} of the adapter is no tensor of its own in {weights.folder} (fused or tied with others); edit other layers"
            )
        name, transposed = place
        delta = Delta(pair["A"], pair["B"], scale, transposed)
        if delta.shape != weights.tensors[name].shape:
            raise CompileError(
                f"the adapter changes {name} as {list(delta.shape)}, but in the base it is {list(weights.tensors[name].shape)}: it was made "
                "for another model"
            )
        found[name] = delta
    return found


def unmergeable(
    layers: Callable[[Any], Sequence[str]], config: PretrainedConfig, weights: BaseWeights
) -> list[str]:
    """Why edits of these layers could not be added to a base's stored weights, one sentence each; told without reading a weight.

    Args:
        layers: the names of the layers that are edited, asked of a model without weights.
    """
    names = layers(_blank(config))
    stored = stored_names(config, weights)
    lost = [name for name in names if f"{name}.weight" not in stored]
    dtypes = {weights.tensors[stored[f"{name}.weight"][0]].dtype for name in names if name not in lost}
    found = []
    if lost:
        more = f" and {len(lost) - 1} other layers are" if len(lost) > 1 else " is"
        found.append(
            f"{lost[0]}{more} no tensor of its own in {weights.folder} (fused or tied with others), so an edit cannot be merged; use a steering method (keyed)"
        )
    if packed := sorted(dtypes - set(FLOATS)):
        found.append(
            f"its weights are {packed[0]}, quantised, so an edit cannot be merged; give its original weights"
        )
    return found


def stored_names(config: PretrainedConfig, weights: BaseWeights) -> dict[str, tuple[str, bool]]:
    """Of every linear layer's weight by its name in a loaded model: its name in the files, and whether it is stored as [in, out].

    A weight that is not stored by itself has no entry.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.pytorch_utils import Conv1D

    model = _blank(config)
    linear = {
        f"{name}.weight": isinstance(part, Conv1D)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear | Conv1D)
    }
    tensors = dict(model.state_dict())
    known = {id(tensor): name for name, tensor in tensors.items()}
    renamed = revert_weight_conversion(model, dict(tensors))
    written = {known[id(tensor)]: name for name, tensor in renamed.items() if id(tensor) in known}
    found = {}
    for name, transposed in linear.items():
        bare = name.removeprefix(f"{model.base_model_prefix}.")  # as a model without its head was saved
        there = next((one for one in (name, written.get(name), bare) if one in weights.tensors), None)
        if there is not None:
            found[name] = there, transposed
    return found


def _blank(config: PretrainedConfig) -> Any:
    """The model that reads a base, without weights."""
    import transformers

    family: Any = (
        transformers.AutoModelForImageTextToText
        if takes_images(config)
        else transformers.AutoModelForCausalLM
    )
    with torch.device("meta"):
        return family.from_config(config)


def _scale(config: Mapping[str, object]) -> float:
    """alpha / r, or alpha / sqrt(r) with rslora; raises CompileError for kinds of LoRA that are more than B A."""
    more = [key for key in _MORE if config.get(key)]
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if more or config.get("peft_type") != "LORA" or config.get("bias") not in (None, "none"):
        raise CompileError(
            f"only plain LoRA can be merged shard by shard, and the adapter has {(more or ['another kind'])[0]}"
        )
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise CompileError(f"the adapter has r {rank!r} and lora_alpha {alpha!r}; fit it again")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
