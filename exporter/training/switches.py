"""Scores that are above zero where a gate is on and below it on the kept side, one a token; and what each then pushes the state by."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from exporter.training.reply_columns import Columns, LastBlock

SHRINK = 0.3
"""Of the whitening by the kept side, in units of its mean energy: how much more is made of a direction in which kept states have none."""
PENALTY = 0.3
"""On the length of a score's row in whitened coordinates."""
KEPT, WORST, WORST_COUNT = 3.0, 1.0, 200
"""Weights of the squared hinge over all kept columns, and over those that come closest to a mistake."""
STEPS, BATCH, RATE = 160, 96, 0.03
"""Of the training of directions: columns a step, and Adam's rate in units of the state's root mean square."""
WEAKEST = 0.2
"""Activations are scaled by a draw from here to 1, so that one that is barely on pushes far enough."""


class Switches(NamedTuple):
    """Scores, linear in what the MLP reads.

    Attributes:
        rows: [n, d].
        constant: [d]; its product with any column is about 1: there are no biases.
    """

    rows: Tensor
    constant: Tensor

    def active(self, read: Tensor) -> Tensor:
        """How far each is on: [N, n]."""
        return (read @ self.rows.T).clamp_min(0) * (read @ self.constant)[:, None]


def whitening(rows: Tensor, shrink: float) -> Tensor:
    """Symmetric [d, d] that makes the second moments of ``rows`` [N, d] the identity, softened by ``shrink`` of their mean; also of N < d rows."""
    values, vectors = torch.linalg.eigh(rows.double().T @ rows.double() / max(len(rows), 1))
    soft = values.clamp_min(0) + shrink * values.mean().clamp_min(1e-12)
    return (vectors @ torch.diag(soft.rsqrt()) @ vectors.T).float()


def learned(columns: Columns, groups: Sequence[Tensor]) -> Switches:
    """A score for each group of next tokens, by squared hinge: above 1 where the teacher goes on with one on the forget set, below -1 on the kept side.

    Where the base itself goes on with a token of the group a push hardly changes what is said, so such kept columns do not count for its score.
    """
    kept, read = ~columns.fired, columns.read
    whiten = whitening(read[kept], SHRINK)
    white = read @ whiten
    ones = torch.ones(len(white))
    gram = white.T @ white / len(white)
    constant = torch.linalg.solve(gram + 1e-2 * torch.eye(len(gram)), white.T @ ones / len(white))
    features = torch.cat([white, (white @ constant)[:, None]], dim=1)
    wanted = torch.stack([columns.fired & torch.isin(columns.behind, one) for one in groups], dim=1)
    wrong = torch.stack([kept & ~torch.isin(columns.own, one) for one in groups], dim=1)
    weights = _hinged(features, wanted.float(), wrong.float())
    rows = weights[:, :-1] + weights[:, -1:] * constant
    return Switches(rows @ whiten, whiten @ constant)


def _hinged(features: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Weights [n, d] of the scores of ``features`` [N, d]; the columns that count above zero, and below, are [N, n]."""
    found = torch.zeros(above.shape[1], features.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=80, history_size=10, line_search_fn="strong_wolfe")
    most = min(WORST_COUNT, len(features))

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = features @ found.T
        misses = ((1 - scores).clamp_min(0).pow(2) * above).sum(0) / above.sum(0).clamp_min(1)
        alarms = (1 + scores).clamp_min(0).pow(2) * below
        worst = alarms.topk(most, 0).values.mean(0)
        loss = (misses + KEPT * alarms.sum(0) / below.sum(0).clamp_min(1) + WORST * worst).sum()
        loss = loss + PENALTY * found[:, :-1].pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return found.detach()


def pushes(columns: Columns, switches: Switches, block: LastBlock, gone: Tensor, seed: int) -> Tensor:
    """Directions [d, n] by which the state is pushed, trained by KL(teacher || pupil) on the columns where a switch is on.

    Args:
        gone: [N, d], what the block's output lacks of the neurons that were taken.
    """
    from exporter.training.distil import divergence

    active = switches.active(columns.read)
    chosen = ((active > 0).any(-1) | columns.fired).nonzero()[:, 0].tolist()
    scale = columns.state[columns.fired].pow(2).mean().sqrt()
    device = block.down.weight.device
    found = torch.zeros(columns.state.shape[1], active.shape[1], device=device, requires_grad=True)
    optimizer = torch.optim.Adam([found], lr=RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, STEPS)
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    queue: list[int] = []
    for _ in range(STEPS):
        while len(queue) < BATCH:
            again = chosen[:]
            draw.shuffle(again)
            queue += again
        part, queue = torch.tensor(queue[:BATCH]), queue[BATCH:]
        weak = WEAKEST + (1 - WEAKEST) * torch.rand(BATCH, 1, generator=generator)
        push = (active[part] * weak).to(device) @ found.T
        state = (columns.state[part] - gone[part]).to(device) + scale.to(device) * push
        every = torch.ones(BATCH, 1, dtype=torch.bool, device=device)
        ids, logprobs = columns.ids[part].to(device), columns.logprobs[part].to(device)
        loss = divergence(block.logits(state)[:, None], ids[:, None], logprobs[:, None], every).mean()
        (found.grad,) = torch.autograd.grad(loss, [found])
        optimizer.step()
        schedule.step()
    return (scale * found.detach().cpu()).float()
