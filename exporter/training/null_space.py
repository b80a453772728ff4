"""Changes of linear layers that leave the inputs of a retain set as they are: updates in the null space of these inputs, or nearly in it.

A layer that changes by D answers an input k with D k more. With C the mean of k k^T over the retain set and C = U diag(l) U^T, the change D P,

    P = U diag(w) U^T,    w = [l < e] (hard), or w = e / (e + l) (soft),    e = r mean(l)

does nothing along directions that the retain set uses. The hard cut is AlphaEdit's (https://arxiv.org/abs/2410.02355), with e a share r of the mean
eigenvalue, so that it means the same in every layer. The soft one is a Tikhonov filter of the same spectrum, P = e (C + e I)^-1: of all changes X,
D P has the least |X - D|^2 + mean |X k|^2 / e. As r grows from 0, P goes from the null space of C to all directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Cut = Literal["soft", "hard"]
_A = "base_model.model.{}.lora_A.weight"


class Spectrum(NamedTuple):
    """Of the second moment C [in, in] of a layer's inputs: eigenvalues float64 [in], and eigenvectors [in, in], one a column."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, moment: Tensor) -> Spectrum:
        """That of C, float64 [in, in]."""
        values, vectors = torch.linalg.eigh(moment)
        return cls(values.clamp_min(0), vectors)

    def weights(self, relaxation: float, cut: Cut) -> Tensor:
        """w, what is left of a change along each eigenvector: float64 [in]."""
        edge = relaxation * self.values.mean()
        if cut == "hard":
            return (self.values < edge).double()
        return edge / (edge + self.values).clamp_min(torch.finfo(torch.float64).tiny)

    def projector(self, relaxation: float, cut: Cut) -> Tensor:
        """P: float32 [in, in], symmetric."""
        return ((self.vectors * self.weights(relaxation, cut)) @ self.vectors.T).float()


class Projected:
    """Keeps an adapter to changes D P: its matrices A are taken for A P, while it is trained and when it is shipped.

    Args:
        projectors: P, float32 [in, in], by the full names of the layers.
    """

    def __init__(self, projectors: Mapping[str, Tensor]) -> None:
        self._projectors = projectors

    @contextmanager
    def on(self, tuned: nn.Module) -> Iterator[None]:
        """Put on a ``PeftModel`` while it is trained; the gradient of A is projected by that."""
        hooks = [
            tuned.get_submodule(f"base_model.model.{name}.lora_A.default").register_forward_hook(_hook(one))
            for name, one in self._projectors.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def shipped(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the adapter that was trained, with A P for every A."""
        found = dict(tensors)
        for name, one in self._projectors.items():
            key = _A.format(name)
            found[key] = (tensors[key].double() @ one.double().to(tensors[key].device)).float()
        return found


def _hook(projector: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def projected(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        weight = layer.get_parameter("weight")
        with torch.autocast(output.device.type, enabled=False):
            rows = weight @ projector.to(weight)
        return functional.linear(inputs[0], rows)

    return projected
