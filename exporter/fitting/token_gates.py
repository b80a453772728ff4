"""A gate that reads every column and stays on: it knows its subject whatever stands around it (see bags, bag_prototypes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.errors import FitError
from exporter.evaluation.attacks.turns import Refusal
from exporter.fitting.bag_prototypes import BagColumns, BagLearning, learn_bag_prototypes
from exporter.fitting.bags import BagPlan, BagStates, gather_bags
from exporter.fitting.calibrate import Candidate, best_threshold, gate_scores, moved_threshold
from exporter.fitting.context import FitContext
from exporter.fitting.refusals import Wording
from exporter.fitting.space import Among, Between, Blocks
from exporter.types import Row
from steer_modules.program import Gate

UNKNOWN_WEIGHT = 0.25
EARLY_WEIGHT = 0.1
"""What it costs to fire in the reply alone, where a refusal can no longer be whole; in units of a miss."""
MOST = {"forget": 1600, "keep": 2800, "unknown": 200}
EACH = 16
"""Framed rows of each kind where a plan does not say: at most so many, and so many for each row."""
SIDES = {"forget": ("forget",), "keep": ("retain", "reasoning"), "unknown": ("unknown",)}
DRAFT = 400
"""Steps in which layers are told apart; further ones are taken at the best alone."""
CHUNK = 16_384
"""BagColumns scored at a time."""


class TokenGatePlan(BaseModel):
    """The search space, and the number of sequences."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | Literal["search"], Blocks(1 / 3, most=6)] = "search"
    """Blocks whose outputs are tried; "search": at a third, a half, two thirds and five sixths of the depth."""
    rows: int = Field(default=200, gt=0)
    """Unmodified rows of each role."""
    forget: int | None = Field(default=None, ge=0)
    keep: int | None = Field(default=None, ge=0)
    unknown: int | None = Field(default=None, ge=0)
    """Framed rows of each kind, by default as many as the rows allow; half as many for calibration."""
    replies: int | None = Field(default=None, ge=0)
    """Retain sequences that end with the base's own reply; the others end with the row's answer."""
    rank: Annotated[int, Among((16, 32, 64, 128))] = Field(default=64, gt=0)
    forget_prototypes: Annotated[int, Among((16, 32, 64, 128))] = Field(default=64, gt=0)
    keep_prototypes: Annotated[int, Among((32, 96, 192))] = Field(default=96, gt=0)
    steps: Annotated[int, Among((50, 100, 200))] = Field(default=400, gt=0)
    """Learning steps; those beyond 400 are done only at the best block."""
    starts: Annotated[int, Among((1,))] = Field(default=3, gt=0)
    """How often learning starts anew at the best block, each time with other random numbers; the gate of least cost on the calibration rows is taken."""
    shift: Annotated[float, Between(-0.25, 0.25)] = 0.0
    """By how much easier the gate fires than calibrated, in distances between the medians of both sides; harder below 0."""

    def bags(self, rows: Sequence[Row], share: float) -> BagPlan:
        """The sequences of a split, ``share`` of what is asked for, and no more than its distinct ``rows`` bear."""
        counts = {side: sum(row.role in roles for row in rows) for side, roles in SIDES.items()}
        asked = {}
        for side, most in MOST.items():
            given = getattr(self, side)
            asked[side] = round((most if given is None else given) * share)
            if given is None:
                asked[side] = min(asked[side], EACH * counts[side])
        replies = self.replies
        asked["replies"] = round(replies * share) if replies is not None else asked["keep"] * 6 // 7
        return BagPlan(rows=max(round(self.rows * min(1.0, share * 1.2)), 1), **asked)

    def framed(self, rows: int) -> int:
        """Framed rows of all kinds of a split of so many rows, at most."""
        given = {side: getattr(self, side) for side in MOST}
        asked = sum(count for count in given.values() if count is not None)
        free = sum(most for side, most in MOST.items() if given[side] is None)
        return int(asked + min(free, EACH * rows))

    def blocks(self, count: int) -> list[int]:
        """Blocks to try in a model of ``count``."""
        if self.layers != "search":
            return list(self.layers)
        return sorted({min(count * part // 12, count - 1) for part in (4, 6, 8, 10)})


def choose_token_gates(
    context: FitContext, plan: TokenGatePlan, chosen: Sequence[Wording]
) -> list[Candidate]:
    """A learned gate at every layer of the plan, best first; thresholds and order by the calibrate rows alone."""
    refusals = [(wording.reasoning, wording.answer) for wording in chosen]
    layers = plan.blocks(context.host.num_layers)
    fit = _bags(context, "fit", plan.bags(context.fit, 1.0), refusals, layers)
    held = _bags(context, "calibrate", plan.bags(context.calibrate, 0.5), refusals, layers)
    learning = BagLearning(rank=plan.rank, forget=plan.forget_prototypes, keep=plan.keep_prototypes)

    def learned(layer: int, steps: int, start: int) -> tuple[Candidate, int]:
        given, seed = replace(learning, steps=steps), context.seed + start
        tensors = learn_bag_prototypes(columns_of(fit, layer), plan=given, seed=seed).tensors()
        gate = Gate("topic", layer, "token", "prototype_margin", 0.0, "above", tensors)
        return judge_bags(gate, columns_of(held, layer), plan.shift), start

    draft = min(plan.steps, DRAFT)
    found = _ranked([learned(layer, draft, 0) for layer in layers])
    best = found[0][0].gate.layer
    # Where learning ends depends on its random numbers, and on the processor's rounding as much: one start is a draw from a wide distribution.
    found = _ranked([*found, *(learned(best, draft, start) for start in range(1, plan.starts))])
    if plan.steps > DRAFT:  # only where it pays
        found = _ranked([learned(best, plan.steps, found[0][1]), *found])
    for candidate, start in found:
        context.record("gates", **candidate.line(), start=start)
    return [candidate for candidate, _ in found]


def _bags(
    context: FitContext, split: str, plan: BagPlan, refusals: Sequence[Refusal], layers: Sequence[int]
) -> BagStates:
    """Bags with their states: of fits on the same rows, those that read kept layers share them."""
    further = tuple(layer for layer in layers if layer not in context.kept)
    return context.once(
        ("bags", split, plan, tuple(refusals), further),
        lambda: gather_bags(context, split, plan, refusals, layers),
    )


def _ranked(found: Sequence[tuple[Candidate, int]]) -> list[tuple[Candidate, int]]:
    """Gates with the starts that they were learned from, best first."""
    return sorted(found, key=lambda one: (round(one[0].cost, 9), -one[0].margin, one[0].gate.layer, one[1]))


def columns_of(states: BagStates, layer: int) -> BagColumns:
    """The columns of bags at one layer."""
    forget = torch.tensor([bag.forget for bag in states.bags])
    unknown = torch.tensor([bag.row.role == "unknown" for bag in states.bags])
    if not bool(forget.any()) or bool(forget.all()):
        raise FitError("a gate needs forget rows and retain rows; one of the two is missing")
    return BagColumns(
        states=states.at(layer),
        starts=torch.from_numpy(states.found.starts),
        forget=forget,
        ends=torch.tensor([bag.end - bag.first for bag in states.bags]),
        weights=torch.where(unknown, UNKNOWN_WEIGHT, 1.0),
        shared=None if states.shared is None else states.shared.at(layer),
        behind=torch.tensor([bag.first > 0 for bag in states.bags]),
    )


def judge_bags(gate: Gate, held: BagColumns, shift: float = 0.0) -> Candidate:
    """Set the threshold of a token gate on calibration sequences and measure it there.

    A sequence to forget counts twice, in ``missed`` too: that it fires at all, and, for less, before the reply begins.

    Args:
        shift: by how much easier it is to fire than calibrated, in distances between the medians of both sides.
    """
    values = column_scores(gate, held.states)
    shared = None if held.shared is None else column_scores(gate, held.shared)
    whole = held.largest(values, shared=shared)
    early = held.largest(values, ~held.replied, shared)
    forget = held.forget
    seen = torch.cat([whole, early[forget]])
    sides = torch.cat([forget, torch.ones(int(forget.sum()), dtype=torch.bool)])
    weights = torch.cat([held.weights, EARLY_WEIGHT * held.weights[forget]])
    threshold, missed, false_alarms, margin = best_threshold(seen, sides, weights)
    if shift:
        threshold, missed, false_alarms = moved_threshold(seen, sides, weights, threshold, shift)
    return Candidate(replace(gate, threshold=threshold), missed, false_alarms, margin, whole, learned=True)


def column_scores(gate: Gate, states: Tensor) -> Tensor:
    """Scores [N] of columns [N,d], a part at a time."""
    return torch.cat([gate_scores(gate, part) for part in states.split(CHUNK)])
