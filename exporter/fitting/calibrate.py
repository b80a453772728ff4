"""Choosing a gate: layer x pool x score, fitted on fit rows; threshold and choice made on calibration rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporter.errors import FitError
from exporter.fitting.learned_prototypes import LearningPlan, learn_prototypes
from exporter.fitting.subspaces import energy_basis, unit, whitening_metric
from steer_modules import ops
from steer_modules.program import Gate

SCORES = ("prototype_margin", "prototype_margin_whitened", "linear", "linear_unit", "subspace_ratio")
"""Candidate scores; "prototype_margin_whitened" is prototype_margin with a metric."""


MISS_COST = 2.0
"""What a missed question costs in units of a false alarm, both as shares of their side."""


@dataclass(frozen=True)
class Decisions:
    """States at which a gate has to decide.

    Attributes:
        states: by pool, float32 [n,L,d]; layers in the order of the search's ``layers``.
        forget: bool [n]; the gate must fire.
        subjects: int64 [n]; rows about one subject share a number (classes of the whitening).
        weights: float32 [n]; how much a mistake counts.
    """

    states: Mapping[str, Tensor]
    forget: Tensor
    subjects: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if not bool(self.forget.any()) or bool(self.forget.all()):
            raise FitError("a gate needs forget rows and retain rows; one of the two is missing")


@dataclass(frozen=True)
class Candidate:
    """One gate with its measurements on the calibration rows.

    Attributes:
        missed, false_alarms: weighted fractions in [0, 1].
        margin: gap between the two sides at the threshold over the distance of their medians; negative with mistakes.
    """

    gate: Gate
    missed: float
    false_alarms: float
    margin: float
    scores: Tensor
    learned: bool = False

    @property
    def cost(self) -> float:
        """A leak weighs more than a refusal too many."""
        return MISS_COST * self.missed + self.false_alarms

    def line(self) -> dict[str, object]:
        """For the report's table."""
        gate = self.gate
        score = gate.score + ("_learned" if self.learned else "_whitened" if "metric" in gate.tensors else "")
        return {
            "layer": gate.layer,
            "pool": gate.pool,
            "score": score,
            "threshold": gate.threshold,
            "missed": self.missed,
            "false_alarms": self.false_alarms,
            "margin": self.margin,
        }


def search_gates(
    fit: Decisions,
    calibrate: Decisions,
    *,
    layers: Sequence[int],
    scores: Sequence[str] = SCORES,
    max_prototypes: int = 1024,
) -> list[Candidate]:
    """Every candidate, best first: fewest weighted mistakes, then widest margin, then lowest layer, score, pool.

    Args:
        layers: the blocks that the second dimension of the states stands for.
        max_prototypes: rows kept per side for prototype scores, spread evenly over the rows given.
    """
    unknown = set(scores) - set(SCORES)
    if unknown:
        raise FitError(f"unknown gate scores {sorted(unknown)}; choose from {', '.join(SCORES)}")
    found: list[Candidate] = []
    for pool, (place, layer), score in (
        (pool, pair, score) for pool in fit.states for pair in enumerate(layers) for score in scores
    ):
        states = fit.states[pool][:, place]
        for draft in fit_gates(score, states, fit, max_prototypes):
            gate = replace(draft, name="topic", layer=layer, pool=pool)
            found.append(judge(gate, calibrate.states[pool][:, place], calibrate))
    return ranked_gates(found)


def ranked_gates(found: Sequence[Candidate]) -> list[Candidate]:
    """Candidates, best first: fewest weighted mistakes, then widest margin, then lowest layer, score, pool."""
    return sorted(
        found,
        key=lambda c: (
            round(c.cost, 9),
            -c.margin,
            c.gate.layer,
            SCORES.index(_score_name(c.gate)),
            c.gate.pool,
        ),
    )


def learn_gates(
    found: Sequence[Candidate],
    fit: Decisions,
    calibrate: Decisions,
    *,
    layers: Sequence[int],
    most: int,
    plan: LearningPlan,
    seed: int,
) -> list[Candidate]:
    """Gates with learned prototypes at the ``most`` best layers of each pool, as the candidates ``found`` rank them."""
    learned: list[Candidate] = []
    for pool in fit.states:
        best = list(dict.fromkeys(one.gate.layer for one in found if one.gate.pool == pool))[:most]
        for layer in best:
            place = list(layers).index(layer)
            states = fit.states[pool][:, place]
            rows = learn_prototypes(states, fit.forget, fit.subjects, fit.weights, plan=plan, seed=seed)
            draft = replace(_draft("prototype_margin", "above", rows.tensors()), name=found[0].gate.name)
            gate = replace(draft, layer=layer, pool=pool)
            judged = judge(gate, calibrate.states[pool][:, place], calibrate)
            learned.append(replace(judged, learned=True))
    return learned


def judge(gate: Gate, states: Tensor, calibrate: Decisions) -> Candidate:
    """Set the threshold of a gate on calibration states [n,d] and measure it there."""
    values = gate_scores(gate, states)
    sign = 1.0 if gate.fires == "above" else -1.0
    threshold, missed, false_alarms, margin = best_threshold(
        sign * values, calibrate.forget, calibrate.weights
    )
    return Candidate(replace(gate, threshold=sign * threshold), missed, false_alarms, margin, values)


def shifted(candidate: Candidate, calibrate: Decisions, shift: float) -> Candidate:
    """The candidate with a threshold that is moved from where it was calibrated, and what it then misses.

    Args:
        calibrate: what it was judged on, in the order of its scores.
        shift: in distances between the medians of both sides; above 0 the gate fires more easily, below 0 less.
    """
    if not shift:
        return candidate
    sign = 1.0 if candidate.gate.fires == "above" else -1.0
    found = moved_threshold(
        sign * candidate.scores, calibrate.forget, calibrate.weights, sign * candidate.gate.threshold, shift
    )
    gate = replace(candidate.gate, threshold=sign * found[0])
    return replace(candidate, gate=gate, missed=found[1], false_alarms=found[2])


def moved_threshold(
    values: Tensor, forget: Tensor, weights: Tensor, threshold: float, shift: float
) -> tuple[float, float, float]:
    """A threshold lowered by ``shift`` distances of the medians, with missed and false alarms there (weighted fractions).

    Args:
        values [n], forget bool [n], weights [n]: as :func:`best_threshold` has them; values above the threshold fire.
    """
    moved = threshold - shift * abs(float(values[forget].median() - values[~forget].median()))
    fires = values > moved
    mass = weights.double()
    missed = float((mass * (forget & ~fires)).sum() / (mass * forget).sum())
    return moved, missed, float((mass * (~forget & fires)).sum() / (mass * ~forget).sum())


def gate_scores(gate: Gate, states: Tensor) -> Tensor:
    """Scores [n] of pooled states [n,d], by the very function that travels in the checkpoint."""
    score: Callable[..., Tensor] = ops.SCORES[gate.score]
    return score(states, **gate.tensors)


def best_threshold(values: Tensor, forget: Tensor, weights: Tensor) -> tuple[float, float, float, float]:
    """Threshold that fires on values above it with the least cost of missed and false alarms; of equals, in the widest gap.

    Firing always and never count among the choices, but only where no gap does as well.

    Args:
        values [n], forget bool [n], weights [n].

    Returns:
        threshold, missed and false alarms (weighted fractions), margin (see :class:`Candidate`).
    """
    order = values.argsort(stable=True)
    ranked, mass, side = values[order].float(), weights[order].double(), forget[order]
    missed, kept = _share_below(mass * side), _share_below(mass * ~side)
    gaps = torch.zeros(len(ranked) + 1)
    gaps[1:-1] = ranked.diff()
    cost = MISS_COST * missed + 1 - kept
    cost[1:-1] = torch.where(gaps[1:-1] > 0, cost[1:-1], torch.inf)  # no threshold lies between equal values
    best = (cost <= cost.min() + 1e-9).nonzero()[:, 0]
    cut = int(best[(gaps[best] == gaps[best].max()).nonzero()[0, 0]])
    spread = float(ranked[side].median() - ranked[~side].median())
    clear = float(ranked[side].min() - ranked[~side].max())
    margin = clear / spread if spread > 0 else -1.0
    return _threshold_at(ranked, cut), float(missed[cut]), float(1 - kept[cut]), margin


def _share_below(mass: Tensor) -> Tensor:
    """Share of the mass [n] that lies below each of the n + 1 places where a row of values can be cut."""
    below = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
    return below / below[-1]


def _threshold_at(ranked: Tensor, cut: int) -> float:
    """A float32 that ``ranked[cut:]`` lie above and ``ranked[:cut]`` do not; ranked float32 [n] in rising order."""
    if cut == 0:
        return float(torch.nextafter(ranked[0], ranked.new_tensor(-torch.inf)))
    if cut == len(ranked):
        return float(ranked[-1])
    lower, upper = ranked[cut - 1], ranked[cut]
    middle = ((lower.double() + upper.double()) / 2).float()
    return float(middle if middle < upper else lower)


def fit_gates(score: str, states: Tensor, fit: Decisions, max_prototypes: int) -> Iterator[Gate]:
    """Gates of one score over fit states [n,d], without layer, pool and threshold."""
    forget, retain = states[fit.forget], states[~fit.forget]
    if score == "subspace_ratio":
        center = retain.mean(0)
        basis = energy_basis(forget - center, 0.8)
        yield _draft(score, "above", {"basis": basis, "center": center})
    elif score in ("linear", "linear_unit"):
        weight, bias = discriminant(unit(states) if score == "linear_unit" else states, fit.forget)
        yield _draft(score, "above", {"weight": weight, "bias": bias})
    else:
        center = states.mean(0)
        tensors = {"center": center}
        mapped = states - center
        if score.endswith("whitened"):
            tensors["metric"] = whitening_metric(states, fit.subjects)
            mapped = mapped @ tensors["metric"].T
        rows = unit(mapped)
        tensors["forget_prototypes"] = spread_rows(rows[fit.forget], max_prototypes)
        tensors["retain_prototypes"] = spread_rows(rows[~fit.forget], max_prototypes)
        yield _draft("prototype_margin", "above", tensors)


def discriminant(states: Tensor, forget: Tensor, *, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Ridge regression of +1 / -1 on states [n,d], both sides weighing the same: weight [d], bias [1]."""
    x = states.double()
    share = torch.where(forget, 0.5 / forget.sum(), 0.5 / (~forget).sum()).double()
    goal = torch.where(forget, 1.0, -1.0).double()
    mean = share @ x
    centred = x - mean
    covariance = (centred * share[:, None]).T @ centred
    damped = covariance + ridge * covariance.trace() * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(damped, centred.T @ (share * goal))
    return weight.float(), (-(mean @ weight)).reshape(1).float()


def spread_rows(rows: Tensor, most: int) -> Tensor:
    """At most ``most`` of the rows [n,d], evenly spread over their order."""
    if len(rows) <= most:
        return rows.contiguous()
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()].contiguous()


def _draft(score: str, fires: str, tensors: Mapping[str, Tensor]) -> Gate:
    return Gate(
        name="draft", layer=0, pool="prompt_end", score=score, threshold=0.0, fires=fires, tensors=tensors
    )


def _score_name(gate: Gate) -> str:
    return gate.score + ("_whitened" if "metric" in gate.tensors else "")
