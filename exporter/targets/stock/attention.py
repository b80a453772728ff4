"""Attention that turns evidence anywhere before into a flag here, through the ordinary key-value cache, with nothing to carry along.

Two query heads read the same values: u.x, which is 1 at the first token and about 0 elsewhere. One head compares evidence:
its logit is 0 at the first token, far below 0 where there is no evidence and far above where there is some. The other always
looks at the first token. Off, both return the same number and their difference is exactly 0; on, it is 1, and is written as a
flag of size C along one coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.targets.stock.decoder import DecoderShape

GAP = 4000.0
"""Logit per unit of evidence. Evidence within 40 / GAP of the threshold would raise a part of the flag."""
SINK_GAP = 300.0
LISTENER, WITNESS = 0, 1
EVIDENCE, SINK, CONSTANT = 0, 1, 2


@dataclass(frozen=True)
class Broadcast:
    """The functionals [d] of an attention that broadcasts.

    Attributes:
        evidence: 0 at the first token, below -margin where there is none, above it where there is some.
        query: about 1 everywhere but for its sign a matter of indifference.
        sink: 1 at the first token, about 0 elsewhere.
        coordinate: of the residual stream, that the flag is written to.
        size: of the flag, C.
    """

    evidence: Tensor
    query: Tensor
    sink: Tensor
    coordinate: int
    size: float

    def weights(self, shape: DecoderShape) -> dict[str, Tensor]:
        """Tensors of ``self_attn`` by name, float64."""
        size, groups = shape.head, shape.groups * shape.head
        q = torch.zeros(shape.heads * size, shape.width, dtype=torch.float64)
        k, v = (torch.zeros(groups, shape.width, dtype=torch.float64) for _ in range(2))
        o = torch.zeros(shape.width, shape.heads * size, dtype=torch.float64)
        channels = [shape.channel(rank) for rank in (EVIDENCE, SINK, CONSTANT)]
        scale = size**0.5
        # With normed queries and keys the logit's size is that of the norms' weights; here only directions count.
        gaps = (1.0, 1.0) if shape.qk_norm else (GAP * scale, SINK_GAP * scale)
        for head, rank, gap in ((LISTENER, EVIDENCE, gaps[0]), (WITNESS, SINK, gaps[1])):
            share = gap**0.5
            q[head * size + channels[rank]] = self.query * share
            row = shape.group_of(head) * size
            k[row + channels[rank]] = (self.evidence if rank == EVIDENCE else self.sink) * share
            if shape.qk_norm:
                k[row + channels[CONSTANT]] = self.query
            v[row] = self.sink
        o[self.coordinate, LISTENER * size] = -self.size
        o[self.coordinate, WITNESS * size] = self.size
        found = {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "o_proj.weight": o}
        if shape.qk_norm:
            found["q_norm.weight"] = torch.full((size,), _norm_scale(size), dtype=torch.float64)
            found["k_norm.weight"] = torch.full((size,), _norm_scale(size), dtype=torch.float64)
        return {f"self_attn.{name}": tensor for name, tensor in found.items()}


def _norm_scale(size: int) -> float:
    """Weight of both norms by which two parallel normed vectors of ``size`` have a logit of GAP."""
    return float((GAP / size**0.5) ** 0.5)
