"""Changes of linear layers that were computed: low-rank factors by layer, and the adapter that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.training.lora import as_edit, taken_out, with_adapter
from exporter.weight_edit import WeightEdit

LARGEST_RANK = 512
"""What servers take of one adapter (vLLM)."""

_EXACT = 512
"""Smaller side of a matrix up to which all its singular vectors are computed."""


class Factors(NamedTuple):
    """The change B A of one linear layer's weights [out, in]: A [r, in], B [out, r]."""

    a: Tensor
    b: Tensor

    @property
    def delta(self) -> Tensor:
        """The change itself [out, in]."""
        return self.b @ self.a


def truncated(delta: Tensor, rank: int) -> tuple[Factors, float]:
    """The factors of this rank nearest to a change [out, in], and how much of it they lack: |delta - B A|_F / |delta|_F.

    A large matrix is decomposed at random (https://arxiv.org/abs/0909.4061), the same way each time; what it lacks is measured all the same.
    The singular values are shared by both factors, so that neither is out of the range of a 16-bit type.
    """
    delta = delta.float()
    if min(delta.shape) <= _EXACT:
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(delta, q=min(2 * rank + 8, *delta.shape), niter=4)
        right = right.mT
    kept = values[:rank].sqrt()
    found = Factors((kept[:, None] * right[:rank]).cpu(), (left[:, :rank] * kept).cpu())
    whole = float(delta.norm())
    return found, float((delta.cpu() - found.delta).norm()) / whole if whole else 0.0


def edit_of(context: FitContext, method: str, factors: Mapping[str, Factors]) -> WeightEdit:
    """The adapter of these changes, by the full names of their layers; a layer of a lower rank than others is padded with zeros.

    Raises:
        FitError: a number is not finite, or a rank is larger than servers take.
    """
    rank = max(one.a.shape[0] for one in factors.values())
    if rank > LARGEST_RANK:
        raise FitError(
            f"the edit has rank {rank}, and servers take {LARGEST_RANK} at most; change fewer directions"
        )
    for name, one in factors.items():
        if not bool(torch.isfinite(one.a).all() and torch.isfinite(one.b).all()):
            raise FitError(f"the change of {name} is not finite; load the model in float32 or bfloat16")
    host = context.host
    with with_adapter(host.model, list(factors), rank=rank, alpha=rank) as tuned:
        for name, one in factors.items():
            layer = tuned.get_base_model().get_submodule(name)
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            with torch.no_grad():
                a.zero_()[: one.a.shape[0]] = one.a.to(a)
                b.zero_()[:, : one.b.shape[1]] = one.b.to(b)
        config, tensors = taken_out(tuned)
    return as_edit(context, method, config, tensors)


def factors_of(config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    """The changes that a trained adapter makes, by the full names of their layers, its scaling included."""
    alpha, rank = config["lora_alpha"], config["r"]
    assert isinstance(alpha, int)
    assert isinstance(rank, int)
    start, end = "base_model.model.", ".lora_A.weight"
    names = [key.removeprefix(start).removesuffix(end) for key in tensors if key.endswith(end)]
    return {
        name: Factors(
            tensors[f"{start}{name}.lora_A.weight"], alpha / rank * tensors[f"{start}{name}.lora_B.weight"]
        )
        for name in names
    }
