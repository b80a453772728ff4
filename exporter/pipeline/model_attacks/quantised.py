"""Weights rounded to 8 and 4 bits by torchao, as people do before they run a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from exporter.attack_report import Access, AttackResult
from exporter.evaluation.case import Case
from exporter.pipeline.model_attacks.base import NotMeasured
from exporter.pipeline.model_attacks.changed_weights import accepted
from exporter.pipeline.model_attacks.counts import counted
from exporter.pipeline.model_attacks.under_attack import Side, UnderAttack, asked_of, asked_rows
from exporter.types import Row

if TYPE_CHECKING:
    from exporter.host import ModelHost

GROUP = 32
"""Weights that share a scale, of 4 bits."""


class Quantised:
    """Linear layers to 8 bits a weight, one scale a row; base and steered model alike.

    Zhang et al. (https://arxiv.org/abs/2410.16454) find that rounding brings back what training unlearned. The steering's own tensors are
    no linear layers and stay as they are.
    """

    name: ClassVar[str] = "int8"
    group: ClassVar[str] = "quantisation"
    access: ClassVar[Access] = "weights"
    costs: ClassVar[str] = "needs torchao"
    bits: ClassVar[int] = 8

    def measure(self, under: UnderAttack) -> AttackResult:
        """Plain rows put to both rounded models."""
        packed(self.bits)  # before anything is loaded
        canary: dict[str, object] = {}
        rows = asked_rows(under.rows)
        said = {side: self._asked(under, side, rows, canary) for side in ("base", "steered")}
        return counted(
            self.name,
            self.group,
            said["base"],
            said["steered"],
            access=self.access,
            details={"bits": self.bits, **canary},
        )

    def _asked(
        self, under: UnderAttack, side: Side, rows: list[Row], canary: dict[str, object]
    ) -> list[Case]:
        host = under.host(side)
        try:
            rounded(host, self.bits)
            if side == "steered":
                canary["canary"] = accepted(host)
            return asked_of(host, under, rows, f"{side}-{self.name}")
        except (RuntimeError, NotImplementedError) as error:
            raise NotMeasured(f"torchao's {self.bits} bits do not run on this machine: {error}") from error
        finally:
            under.close(side)


class FourBits(Quantised):
    """The same to 4 bits, one scale for 32 weights."""

    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4


def rounded(host: ModelHost, bits: int) -> None:
    """Rounds the linear layers of the decoder's blocks in place; embeddings and head stay."""
    from torch import nn
    from torchao.quantization import quantize_

    def chosen(part: object, name: str) -> bool:
        del name
        return isinstance(part, nn.Linear) and part.in_features % GROUP == 0

    try:
        quantize_(host.blocks, packed(bits), filter_fn=chosen)
    except Exception as error:  # its kernels raise what they like where they do not fit a machine
        raise NotMeasured(f"torchao cannot round this model to {bits} bits here: {error}") from error


def packed(bits: int) -> Any:
    """The settings of torchao; raises NotMeasured where it is not installed."""
    try:
        import torch
        from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup
    except ImportError as error:
        raise NotMeasured(
            "torchao is needed and is not installed: pip install 'steerbake[attack]'"
        ) from error
    kind: torch.dtype = getattr(torch, f"int{bits}")  # torch's stubs know no int4
    return IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerAxis(0) if bits == 8 else PerGroup(GROUP))
