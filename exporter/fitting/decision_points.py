"""The states at which a gate with a header pool decides: the generation headers of prompts and of later turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from exporter.evaluation.attacks.turns import two_turn_rows
from exporter.fitting.calibrate import Decisions
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.selection import plain, spread
from exporter.fitting.template_swap import subjects, swapped_rows
from exporter.types import Encoded, Role, Row

UNKNOWN_WEIGHT = 0.25
"""A false alarm on a subject the model refuses anyway costs little."""


@dataclass(frozen=True)
class DecisionPointPlan:
    """How many decision points are drawn from the rows of a split.

    Attributes:
        rows: most rows per role, spread evenly over the file (forget rows; three times as many to keep).
        crossed: further wordings in which each subject is asked about (see :mod:`exporter.fitting.template_swap`); fit rows only.
        pairs: two-turn conversations of each kind made of the rows.
    """

    rows: int = 512
    crossed: int = 12
    pairs: int = 96


@dataclass(frozen=True)
class DecisionPoint:
    """One sequence with the column at which a gate decides; kind: "prompt" or "later", of a later turn."""

    row: Row
    sequence: Encoded
    column: int
    kind: str


def gather(
    context: FitContext,
    split: str,
    plan: DecisionPointPlan,
    pools: Sequence[str],
    refusals: Sequence[tuple[str | None, str]],
    layers: Sequence[int] | None = None,
) -> tuple[Decisions, list[DecisionPoint]]:
    """Decision states of a split at every layer, with the points that they are of.

    Args:
        layers: those whose states are returned, in this order; those of all are collected.
    """
    points = [*_single(context, split, plan), *_paired(context, split, plan, refusals)]
    if split == "fit":
        points += _swapped(context, plan)
    wanted = [
        PooledSequence(point.sequence, tuple(_pool(pool, point.column) for pool in pools)) for point in points
    ]
    found = context.collect(wanted, range(context.host.num_layers), f"gate states ({split})")
    named = subjects(context.rows(split, "forget", "retain", "unknown"))
    states = (found if layers is None else replace(found, asked=tuple(layers))).states
    states = states.unflatten(0, (len(points), len(pools)))
    return (
        Decisions(
            states={pool: states[:, place] for place, pool in enumerate(pools)},
            forget=torch.tensor([point.row.role == "forget" for point in points]),
            subjects=torch.tensor(class_numbers([(point.row, point.kind) for point in points], named)),
            weights=torch.tensor([_weight(point.row) for point in points]),
        ),
        points,
    )


def class_numbers(asked: Sequence[tuple[Row, str]], named: Mapping[str, str]) -> list[int]:
    """A number per (subject, modality, kind of decision): what is alike but for the wording.

    The subject is told by the row's secrets, else by its place in a template, else the row is a class of its own.
    """
    names = [(row.secrets or named.get(row.id) or row.id, row.image is not None, kind) for row, kind in asked]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def _single(context: FitContext, split: str, plan: DecisionPointPlan) -> list[DecisionPoint]:
    """Each row's own prompt."""
    forget = spread(context.rows(split, "forget"), plan.rows)
    keep = spread(context.rows(split, "retain", "reasoning"), 3 * plan.rows)
    unknown = spread(context.rows(split, "unknown"), plan.rows // 2)
    rows = context.filled([*forget, *keep, *unknown])
    return [_decision_point(context, row, "later" if row.history else "prompt") for row in rows]


def _decision_point(context: FitContext, row: Row, kind: str) -> DecisionPoint:
    sequence = Encoded(context.chat.prompt(row))
    return DecisionPoint(row, sequence, context.decision(sequence.prompt), kind)


def _paired(
    context: FitContext, split: str, plan: DecisionPointPlan, refusals: Sequence[tuple[str | None, str]]
) -> list[DecisionPoint]:
    """Two-turn conversations: the subject in the second turn, in the first turn only, and in neither.

    A refused first turn, about the forget set or not, must neither hide the subject of the second turn nor replace it.
    """
    forget = plain(context.rows(split, "forget"))
    keep = plain(context.rows(split, "retain", "reasoning"))
    refused = plain(context.rows(split, "unknown"))
    said = () if refused else refusals
    pairs = [
        *two_turn_rows(forget, keep, plan.pairs, context.seed + 2, refusals),
        *two_turn_rows(keep, keep, plan.pairs // 2, context.seed + 3),
        *two_turn_rows(refused or keep, keep, plan.pairs // 2, context.seed + 5, said),
        *two_turn_rows(refused or keep, forget, plan.pairs, context.seed + 4, said),
    ]
    # Roles apart: of one drawn bag, the few rows of a role would make few conversations.
    roles: tuple[Role, ...] = ("retain", "reasoning")
    for number, role in enumerate(roles, start=6):
        firsts = plain(context.rows(split, role))
        pairs += two_turn_rows(firsts, forget, plan.pairs * 3 // 4, context.seed + number)
    return [_decision_point(context, row, "later") for row in pairs]


def _swapped(context: FitContext, plan: DecisionPointPlan) -> list[DecisionPoint]:
    """Subjects of the fit rows in the words of other keys."""
    rows = swapped_rows(context.rows("fit", "forget", "retain", "unknown"), plan.crossed, context.seed + 4)
    return [_decision_point(context, row, "prompt") for row in rows]


def _pool(pool: str, column: int) -> tuple[int, ...]:
    return (column,) if pool == "prompt_end" else tuple(range(column + 1))


def _weight(row: Row) -> float:
    return UNKNOWN_WEIGHT if row.role == "unknown" else 1.0
