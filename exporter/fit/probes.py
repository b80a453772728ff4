"""The states at which a gate decides: ends of prompts, of prefilled answers, and of later turns."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from exporter.fit.calibrate import Decisions
from exporter.fit.context import FitContext
from exporter.fit.crossing import crossed_rows, subjects
from exporter.fit.pairs import plain, spread, two_turn_rows
from exporter.fit.pooling import PooledSequence
from exporter.types import Encoded, Role, Row

WEIGHTS = {"prompt": 1.0, "prefill": 0.5, "later": 1.0}
UNKNOWN_WEIGHT = 0.25
"""A false alarm on a subject the model refuses anyway costs little."""


@dataclass(frozen=True)
class ProbePlan:
    """How many decision points are drawn from the rows of a split.

    Attributes:
        rows: most rows per role, spread evenly over the file (forget rows; three times as many to keep).
        crossed: further wordings in which each subject is asked about (see :mod:`exporter.fit.crossing`); fit rows only.
        prefill_tokens: decisions also fall after 1 to this many tokens of the row's own answer (a tool's prefill, or an
            attack that starts the answer); each row gives ``prefill_points`` of them.
        pairs: two-turn conversations of each kind made of the rows.
    """

    rows: int = 512
    crossed: int = 12
    prefill_tokens: int = 8
    prefill_points: int = 1
    pairs: int = 96


@dataclass(frozen=True)
class Probe:
    """One sequence with the columns at which a gate would decide."""

    row: Row
    sequence: Encoded
    columns: tuple[int, ...]
    kinds: tuple[str, ...]


def gather(
    context: FitContext,
    split: str,
    plan: ProbePlan,
    pools: Sequence[str],
    refusals: Sequence[tuple[str | None, str]],
) -> tuple[Decisions, list[Probe]]:
    """Decision states of a split at every layer, with the probes they came from (one decision per probe column)."""
    probes = [*_single(context, split, plan), *_paired(context, split, plan, refusals)]
    if split == "fit":
        probes += _crossed(context, plan)
    wanted = []
    for probe in probes:
        spans = [_pool(pool, column) for column in probe.columns for pool in pools]
        wanted.append(PooledSequence(probe.sequence, tuple(spans)))
    layers = range(context.host.num_layers)
    found = context.collect(wanted, layers, f"gate states ({split})")
    flat = [(probe, kind) for probe in probes for kind in probe.kinds]
    named = subjects(context.rows(split, "forget", "retain", "unknown"))
    states = torch.from_numpy(found.states).unflatten(0, (len(flat), len(pools)))
    return (
        Decisions(
            states={pool: states[:, place] for place, pool in enumerate(pools)},
            forget=torch.tensor([probe.row.role == "forget" for probe, _ in flat]),
            subjects=torch.tensor(class_numbers([(probe.row, kind) for probe, kind in flat], named)),
            weights=torch.tensor([_weight(probe.row, kind) for probe, kind in flat]),
        ),
        probes,
    )


def class_numbers(probed: Sequence[tuple[Row, str]], named: Mapping[str, str]) -> list[int]:
    """A number per (subject, modality, kind of decision): what is alike but for the wording.

    The subject is told by the row's secrets, else by its place in a template, else the row is a class of its own.
    """
    names = [
        (row.secrets or named.get(row.id) or row.id, row.image is not None, kind) for row, kind in probed
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def _single(context: FitContext, split: str, plan: ProbePlan) -> list[Probe]:
    """Each row's own prompt, with some of the first tokens of its answer."""
    forget = spread(context.rows(split, "forget"), plan.rows)
    keep = spread(context.rows(split, "retain", "reasoning"), 3 * plan.rows)
    unknown = spread(context.rows(split, "unknown"), plan.rows // 2)
    draw = random.Random(context.seed)
    probes = []
    for row in context.filled([*forget, *keep, *unknown]):
        bare = replace(row, prefix=None)
        sequence = context.chat.encode(bare) if row.prefix is None else Encoded(context.chat.prompt(row))
        end = sequence.prompt_end
        reach = min(plan.prefill_tokens, len(sequence.response) - 1)
        points = (
            sorted(draw.sample(range(1, reach + 1), min(plan.prefill_points, reach))) if reach > 0 else []
        )
        kind = "prompt" if not row.history else "later"
        cut = replace(
            sequence, response=sequence.response[: points[-1]] if points else (), reasoning=None, answer=None
        )
        probes.append(
            Probe(row, cut, (end, *(end + j for j in points)), (kind, *("prefill" for _ in points)))
        )
    return probes


def _paired(
    context: FitContext, split: str, plan: ProbePlan, refusals: Sequence[tuple[str | None, str]]
) -> list[Probe]:
    """Two-turn conversations: the subject in the second turn, in the first turn only, and in neither.

    A first turn that was refused, the forgotten or not, must neither hide the subject of the second nor stand for it.
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
    sequences = [Encoded(context.chat.prompt(row)) for row in pairs]
    return [Probe(row, one, (one.prompt_end,), ("later",)) for row, one in zip(pairs, sequences, strict=True)]


def _crossed(context: FitContext, plan: ProbePlan) -> list[Probe]:
    """Subjects of the fit rows in the words of other keys."""
    rows = crossed_rows(context.rows("fit", "forget", "retain", "unknown"), plan.crossed, context.seed + 4)
    sequences = [Encoded(context.chat.prompt(row)) for row in rows]
    return [Probe(row, one, (one.prompt_end,), ("prompt",)) for row, one in zip(rows, sequences, strict=True)]


def _pool(pool: str, column: int) -> tuple[int, ...]:
    return (column,) if pool == "prompt_end" else tuple(range(column + 1))


def _weight(row: Row, kind: str) -> float:
    return WEIGHTS[kind] * (UNKNOWN_WEIGHT if row.role == "unknown" else 1.0)
