"""A few neurons of the last block made into switches: off on what is kept, on where a gate is, each for a token of what is said there, or for several.

A neuron of a gated MLP adds act(g . x) (u . x) d to its block's output (https://arxiv.org/abs/2002.05202). With g = GAIN s, where s . x is below zero on the
kept side, it adds next to nothing there, whatever its d: SiLU, GELU and ReLU are zero far below. So a plain adapter of gate, up and down projection can decide,
which one that is linear in the states cannot. The neurons that are taken for it are those that the base misses least, and what they said is
predicted from the others as far as that goes.

Everything but d is a convex problem over states of the base; behind the last block a column's logits are a function of its own state alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from exporter.host import ModelHost
from exporter.training.factors import Factors
from exporter.training.reply_columns import Columns, LastBlock, last_block
from exporter.training.switches import learned, pushes

MOST = 6
"""Neurons that are taken at most; each is one that the base misses."""
GAIN = 64.0
"""How steep a switch is: at a score of -0.2 its activation is 6e-7 of that at 1."""
RIDGE = 1e-3
"""Of a prediction, in units of the mean square of what it is made from."""


class Taken(NamedTuple):
    """Neurons that are replaced.

    Attributes:
        places: [n] of the block's neurons.
        stand_in: [n, f], what each activation is predicted by from the others; 0 at ``places``.
    """

    places: Tensor
    stand_in: Tensor


def groups_of(columns: Columns, most: int) -> list[Tensor]:
    """The teacher's next tokens on the forget set, int64 [n] each: those in which the base differs most from it by themselves, all others as one more group.

    A push towards several tokens leaves it to the base which of them follows.

    Args:
        most: of the groups.
    """
    every, place = columns.behind[columns.fired].unique(return_inverse=True)
    mass = torch.zeros(len(every)).index_add_(0, place, columns.apart[columns.fired])
    order = every[mass.argsort(descending=True, stable=True)]
    alone = len(order) if len(order) <= most else most - 1
    return [*(one[None] for one in order[:alone]), *([order[alone:]] if alone < len(order) else [])]


def least_missed(columns: Columns, block: LastBlock, count: int, seed: int) -> Tensor:
    """The neurons whose removal changes the base's distributions least on the kept side: int64 [count].

    What removing neuron j costs is E (a_j d_j . grad log p(y))^2 / 2 with y drawn from p, the second order of the KL (optimal brain damage with the Fisher
    information, https://arxiv.org/abs/1801.05787), times the share of a_j that the other neurons do not predict.
    """
    kept = ~columns.fired
    some = kept.nonzero()[:, 0]
    some = some[torch.randperm(len(some), generator=torch.Generator().manual_seed(seed))[:2048]]
    cost = torch.zeros(block.down.in_features)
    generator = torch.Generator().manual_seed(seed)
    for part in some.split(256):
        state = columns.state[part].requires_grad_()
        logprobs = block.logits(state).log_softmax(-1)
        drawn = torch.multinomial(logprobs.detach().exp().cpu(), 1, generator=generator)
        (slope,) = torch.autograd.grad(logprobs.gather(-1, drawn.to(logprobs.device)).sum(), state)
        cost += (columns.active[part] * (slope.float() @ block.down.weight.float().cpu())).pow(2).sum(0)
    return (cost * unpredicted(columns.active[kept])).argsort(stable=True)[:count]


def unpredicted(active: Tensor) -> Tensor:
    """Share of each neuron's energy [f] over columns [N, f] that a ridge prediction from all others leaves: 1 / (G_jj (G^-1)_jj) of their second moments G."""
    gram = _second_moments(active)
    return (1 / (gram.diagonal() * torch.linalg.inv(gram).diagonal())).clamp(0, 1).float()


def _second_moments(active: Tensor) -> Tensor:
    """Of neurons over columns [N, f], with the ridge on the diagonal: float64 [f, f]."""
    gram = active.double().T @ active.double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp_min(1e-12))
    return gram


def taken(columns: Columns, places: Tensor) -> Taken:
    """These neurons with a ridge prediction of what they are on the kept side."""
    gram = _second_moments(columns.active[~columns.fired])
    rest = torch.ones(len(gram), dtype=torch.bool)
    rest[places] = False
    stand_in = torch.zeros(len(places), len(gram))
    stand_in[:, rest] = torch.linalg.solve(gram[rest][:, rest], gram[rest][:, places]).T.float()
    return Taken(places, stand_in)


def switched(
    host: ModelHost, columns: Columns, *, rank: int, seed: int, bfloat16: bool
) -> dict[str, Factors] | None:
    """The changes of the last block's three projections, by full name; None where there is no such block, or nothing to tell apart.

    Args:
        columns: of the calibration conversations, as the base has them.
        rank: of the changes, at most; a neuron needs two.
    """
    block = last_block(host.model)
    if block is None or rank < 2 or not bool(columns.fired.any()) or bool(columns.fired.all()):
        return None
    block = block._replace(bfloat16=bfloat16)
    groups = groups_of(columns, min(MOST, rank // 2))
    places = least_missed(columns, block, len(groups), seed)
    found = taken(columns, places)
    switches = learned(columns, groups)
    own = block.down.weight.detach().float().cpu()[:, places]
    gone = (columns.active[:, places] - columns.active @ found.stand_in.T) @ own.T
    directions = pushes(columns, switches, block, gone, seed)
    return _factors(block, found, GAIN * switches.rows, switches.constant / GAIN, directions)


def _factors(
    block: LastBlock, found: Taken, gates: Tensor, constant: Tensor, directions: Tensor
) -> dict[str, Factors]:
    """The neurons ``found.places`` with rows ``gates`` [n, d] and ``constant`` [d] on the way in and ``directions`` [d, n] on the way out."""
    places, count = found.places, len(found.places)
    names = dict(zip(("gate", "up", "down"), block.names, strict=True))
    pick = nn.functional.one_hot(places, block.down.in_features).float()  # [n, f]
    own = {name: getattr(block, name).weight.detach().float().cpu() for name in names}
    changes = {}
    for name, rows in (("gate", gates), ("up", constant.expand(count, -1))):
        changes[names[name]] = Factors(rows - own[name][places], pick.T)
    out = own["down"][:, places]
    changes[names["down"]] = Factors(
        torch.cat([pick, found.stand_in]), torch.cat([directions - out, out], dim=1)
    )
    return changes
