"""The gate as half-spaces: linear functionals of the normalised state, one of which is positive where the exact gate fires.

A decoder layer can be off to the last bit only on one side of a hyperplane, so what stays off must lie on the off side of every
one. A gate whose forgotten region is not one half-space (a prototype margin) is covered by several, each for the firing
states nearest to one centre. All functionals are homogeneous: a layer without biases has no constant but c.x, a functional
solved to be 1 everywhere.

Evidence need not be sought where the edit is: the states behind the last block are all about the next token, and a functional of
them that tells the forgotten at prompt ends fires in the middle of some answers. It is sought from the gate's layer on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from exporter.targets.stock.calibration import Calibration, Positions
from exporter.targets.stock.solvers import Rest, normalised, ridge, squared_hinge, whitening

COUNTS = (1, 12)
PENALTIES = (0.03, 0.1, 0.3, 1.0)
RESTS = (1.0, 5.0)
SHRINK = 0.3
HARD = 500
"""Positions that come closest to firing which each round adds to a solve."""
ROUNDS = 12
REST_LEVEL = -3.0
"""Where positions that are no prompt ends are drawn to, as a whole: few of any sample tell about the next sample's worst."""
DETECTOR = 3.0
ALARM_COST = 5.0
"""A false alarm changes what a user keeps, and most of what is asked is kept; it weighs as many misses."""
PLAIN_GAIN = 0.02
"""A second layer, which marks prompt ends for the one that edits, has to lower the cost by this much."""
GOOD = 0.15
"""Where one half-space costs at most this, several are not tried: each more is one more that may fire."""
MOST_LAYERS = 4


@dataclass(frozen=True)
class Decisions:
    """Where half-spaces fire on calibration conversations; every value is a fraction of conversations.

    Attributes:
        recall: of those the exact gate fires on, that fire at the prompt's end.
        alarms: of those it does not fire on, that fire anywhere.
        by_kind: both, and the number of conversations, for each kind.
    """

    recall: float
    alarms: float
    by_kind: dict[str, dict[str, float]]

    @property
    def cost(self) -> float:
        return (1 - self.recall) + ALARM_COST * self.alarms


@dataclass(frozen=True)
class GateClassifier:
    """Functionals [K, d] of normalised states, 0 at the first token's; above 0 is evidence. ``constant`` [d] is 1, nearly."""

    weights: Tensor
    constant: Tensor

    def shifted(self, threshold: float) -> GateClassifier:
        """The same with another threshold."""
        return GateClassifier(self.weights - threshold * self.constant, self.constant)

    def of(self, x: Tensor) -> Tensor:
        """The strongest evidence [n] at normalised states [n, d]."""
        return (x @ self.weights.T).amax(-1)


@dataclass(frozen=True)
class Found:
    """Evidence for the states behind ``layer``, and what the same solved on fit rows alone does on held ones."""

    layer: int
    classifier: GateClassifier
    held: Decisions


def layers_between(gate: int, edit: int) -> tuple[int, ...]:
    """Where evidence is sought: the edited layer, the gate's, and some between."""
    steps = min(MOST_LAYERS, edit - gate + 1)
    return tuple(
        sorted({edit - round(i * (edit - gate) / max(steps - 1, 1)) for i in range(steps)}, reverse=True)
    )


def find_gate_classifier(
    fit: Mapping[int, Calibration], held: Mapping[int, Calibration], edited: int, eps: float
) -> Found:
    """Half-spaces for the gate.

    Layer, number, stiffness and threshold are chosen by what those solved on ``fit`` do on ``held``; then they are solved once
    more on both.

    Args:
        fit, held: states behind each layer that is tried.
        edited: where no second layer is needed, if one half-space does.
    """
    fit, held = (
        {layer: _with_normalised(some, eps) for layer, some in split.items()} for split in (fit, held)
    )
    best: _Draft | None = None
    for count in COUNTS:
        if best is not None and best.cost <= GOOD:
            break
        for layer, states in fit.items():
            if count > len(states.on):
                continue
            space = _Space.of(states)
            plain = count == 1 and layer == edited
            for penalty, rest in itertools.product(PENALTIES, RESTS):
                solved = GateClassifier(space.solve(count, penalty, rest), space.constant)
                shift = _best_shift(solved, (states, held[layer]))
                decided = decisions(solved.shifted(shift), held[layer])
                draft = _Draft(
                    decided.cost + (0.0 if plain else PLAIN_GAIN),
                    layer,
                    (count, penalty, rest),
                    shift,
                    decided,
                )
                best = draft if best is None or draft.cost < best.cost else best
    assert best is not None
    both = _Space.of(fit[best.layer].joined(held[best.layer]))
    return Found(
        best.layer, GateClassifier(both.solve(*best.choices), both.constant).shifted(best.shift), best.held
    )


class _Draft(NamedTuple):
    cost: float
    layer: int
    choices: tuple[int, float, float]
    shift: float
    held: Decisions


def _with_normalised(found: Calibration, eps: float) -> Calibration:
    """The same with normalised states."""

    def of(part: Positions) -> Positions:
        return replace(part, states=normalised(part.states, eps))

    on, off, others = of(found.on), of(found.off), of(found.others)
    return replace(found, sink=normalised(found.sink, eps), on=on, off=off, others=others)


def decisions(classifier: GateClassifier, found: Calibration) -> Decisions:
    """Where the classifier fires on the conversations of a split, whose states are normalised."""
    hits = classifier.of(found.on.states) > 0
    peaks = _peaks(classifier, found) > 0
    kinds = (
        [found.kinds[i] for i in found.on.owner.tolist()],
        [found.kinds[i] for i in found.off.owner.tolist()],
    )
    table = {}
    for kind in dict.fromkeys((*kinds[0], *kinds[1])):
        one, other = (torch.tensor([name == kind for name in names]) for names in kinds)
        table[kind] = {
            "recall": _share(hits[one]),
            "alarms": 1 - _share(~peaks[other]),
            "fired": int(one.sum()),
            "kept": int(other.sum()),
        }
    return Decisions(_share(hits), 1 - _share(~peaks), table)


def _peaks(classifier: GateClassifier, found: Calibration) -> Tensor:
    """The strongest evidence [n] anywhere in each conversation on which the exact gate stays off."""
    peaks = torch.full((len(found.kinds),), -torch.inf, dtype=torch.float64)
    for part in (found.off, found.others):
        peaks = peaks.scatter_reduce(0, part.owner, classifier.of(part.states), "amax")
    return peaks[found.off.owner]


def _best_shift(draft: GateClassifier, parts: Sequence[Calibration]) -> float:
    """The threshold that costs least; the middle of those that cost the same."""
    best: list[float] = []
    least = torch.inf
    scores = [(draft.of(part.on.states), _peaks(draft, part)) for part in parts]
    for shift in torch.linspace(-0.9, 0.9, 73, dtype=torch.float64).tolist():
        cost = sum(
            float((on <= shift).double().mean()) + ALARM_COST * float((off > shift).double().mean())
            for on, off in scores
        )
        if cost < least - 1e-9:
            least, best = cost, [shift]
        elif cost < least + 1e-9:
            best.append(shift)
    return best[len(best) // 2]


@dataclass(frozen=True)
class _Space:
    """Calibration states as features [n, d + 2]: whitened, the prompt-end detector, the constant."""

    on: Tensor
    off: Tensor
    others: Tensor
    back: Tensor
    """[d, d + 2] that turns a functional of the features into one of the normalised state, 0 at the first token's."""
    constant: Tensor
    rest: Rest

    @classmethod
    def of(cls, fit: Calibration) -> _Space:
        """Of normalised states."""
        on, off, others, sink = fit.on.states, fit.off.states, fit.others.states, fit.sink
        ends = torch.cat([on, off])
        # Of prompt ends alone: there it stands for a threshold, and has to be even. Elsewhere the solve sees what it is.
        constant = constant_functional(sink, [ends])
        detector = _detector(ends, others, sink)
        whitened = whitening(off, SHRINK)
        identity = torch.eye(len(sink), dtype=torch.float64)
        centring = identity - torch.outer(constant, off.mean(0))
        back = torch.cat([centring @ whitened, DETECTOR * detector[:, None], constant[:, None]], dim=1)
        # Every functional is exactly 0 at the first token, which evidence is compared with.
        u = sink_functional(sink, [on, off, others])
        back = (identity - torch.outer(u, sink)) @ back
        others = others @ back
        rest = Rest(others.mean(0), others.T @ others / len(others), REST_LEVEL, 1.0)
        constant = constant - float(constant @ sink) * u
        return cls(on @ back, off @ back, others, back, constant, rest)

    def solve(self, count: int, penalty: float, weight: float) -> Tensor:
        """Functionals [K, d], K at most ``count``."""
        rest = self.rest._replace(weight=weight)
        stiff = torch.full((self.back.shape[1],), penalty, dtype=torch.float64)
        stiff[-2:] = 1e-6
        groups = _clusters(self.on[:, :-2], count)
        found = []
        for group in range(count):
            members = self.on[groups == group]
            if not len(members):
                continue
            negative = self.off
            w = squared_hinge(members, negative, stiff, rest)
            for _ in range(ROUNDS):
                scores = self.others @ w
                if float(scores.max()) < -0.5:
                    break
                hard = self.others[scores.topk(min(HARD, len(scores))).indices]
                negative = torch.cat([negative, hard])
                w = squared_hinge(members, negative, stiff, rest, start=w)
            found.append(self.back @ w)
        return torch.stack(found)


def constant_functional(sink: Tensor, parts: Sequence[Tensor], rounds: int = 1) -> Tensor:
    """c [d] with c.x = 1, nearly, at the sink and on all normalised states; each part weighs the same.

    Args:
        rounds: of weighing anew, each of which raises the lowest values: c.x has to stay above 0.
    """
    rows = torch.cat([sink[None], *parts])
    weights = torch.cat([torch.full((len(p),), 1000.0 / len(p)) for p in (sink[None], *parts)]).double()
    targets = torch.ones(len(rows), dtype=torch.float64)
    found, lowest = ridge(rows, targets, weights, 0.1), -torch.inf
    best = found
    for _ in range(rounds):
        values = rows @ found
        if float(values.min()) > lowest:
            best, lowest = found, float(values.min())
        weights = weights * (1 + 4 * (1 - values).clamp_min(0)) ** 2
        found = ridge(rows, targets, weights * (1000 * (len(parts) + 1) / weights.sum()), 0.1)
    return best


def sink_functional(sink: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """u [d] with u.x0 = 1 at the sink and 0, nearly, elsewhere."""
    rows = torch.cat([sink[None], *parts])
    targets = torch.zeros(len(rows), dtype=torch.float64)
    targets[0] = 1
    weights = torch.cat(
        [torch.tensor([1e6]), *(torch.full((len(p),), 1000.0 / len(p)) for p in parts)]
    ).double()
    found = ridge(rows, targets, weights, 1.0)
    return found / (found @ sink)


def _detector(ends: Tensor, others: Tensor, sink: Tensor) -> Tensor:
    """Ridge functional [d]: 1 at prompt ends, -1 elsewhere."""
    rows = torch.cat([ends, others, sink[None]])
    targets = torch.cat([torch.ones(len(ends)), -torch.ones(len(others) + 1)]).double()
    sizes = (len(ends), len(others), 1)
    weights = torch.cat([torch.full((n,), 1000.0 / n) for n in sizes]).double()
    return ridge(rows, targets, weights, 10.0)


def _clusters(rows: Tensor, count: int) -> Tensor:
    """Cluster of each row [n] by direction (spherical k-means), the same every time."""
    rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    centres = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]]
    for _ in range(30):
        groups = (rows @ centres.T).argmax(-1)
        sums = torch.zeros_like(centres).index_add_(0, groups, rows)
        lengths = sums.norm(dim=-1, keepdim=True)
        centres = torch.where(lengths > 0, sums / lengths.clamp_min(1e-9), centres)
    return (rows @ centres.T).argmax(-1)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else 1.0


def thinned(part: Positions, most: int) -> Positions:
    """At most ``most`` positions, evenly spread."""
    if len(part) <= most:
        return part
    chosen = torch.linspace(0, len(part) - 1, most).long()
    return Positions(part.states[chosen], part.owner[chosen])
