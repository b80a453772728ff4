"""The gate of a method: decision states of both splits, every candidate judged, the best one below a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.errors import FitError
from exporter.evaluation.attacks.turns import Refusal
from exporter.fitting.calibrate import (
    SCORES,
    Candidate,
    Decisions,
    judge,
    learn_gates,
    ranked_gates,
    search_gates,
    shifted,
)
from exporter.fitting.context import FitContext
from exporter.fitting.decision_points import DecisionPointPlan, gather
from exporter.fitting.learned_prototypes import LearningPlan
from exporter.fitting.refusals import Wording
from exporter.fitting.space import Among, Between, Blocks
from steer_modules.program import Edit, Gate


class GatePlan(BaseModel):
    """The search space, and the number of decision points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | None, Blocks(ends=True)] = Field(default=None, min_length=1)
    """Blocks whose outputs may be read; by default all."""
    scores: Annotated[tuple[str, ...], Among(SCORES)] = SCORES
    pools: tuple[Literal["prompt_end", "prompt_mean"], ...] = ("prompt_end", "prompt_mean")
    learned: Annotated[int, Among((0, 2))] = Field(default=2, ge=0)
    """Layers per pool, the best by the other scores, at which a gate with learned prototypes is also tried."""
    rows: int = Field(default=512, gt=1)
    crossed: int = Field(default=12, ge=0)
    """Template swaps: further wordings in which each subject of the fit rows is asked about."""
    pairs: int = Field(default=1000, ge=0)
    """Two-turn conversations of each kind made from the rows."""
    max_prototypes: int = Field(default=1024, gt=0)
    shift: Annotated[float, Between(-0.25, 0.25)] = 0.0
    """By how much easier the gate fires than calibrated, in distances between the medians of both sides; harder below 0."""

    @property
    def decision_points(self) -> DecisionPointPlan:
        return DecisionPointPlan(rows=self.rows, crossed=self.crossed, pairs=self.pairs)


def choose_gates(context: FitContext, plan: GatePlan, chosen: Sequence[Wording]) -> list[Candidate]:
    """Every gate candidate, best first, recorded for the report."""
    refusals = [(wording.reasoning, wording.answer) for wording in chosen]
    layers = plan.layers or tuple(range(context.host.num_layers))
    fit, held = (_decisions(context, split, plan, refusals) for split in ("fit", "calibrate"))
    drafts = search_gates(fit, held, layers=layers, scores=plan.scores, max_prototypes=plan.max_prototypes)
    learned = learn_gates(
        drafts, fit, held, layers=layers, most=plan.learned, plan=LearningPlan(), seed=context.seed
    )
    found = ranked_gates([shifted(one, held, plan.shift) for one in (*drafts, *learned)])
    for candidate in found:
        context.record("gates", **candidate.line())
    return found


def _decisions(context: FitContext, split: str, plan: GatePlan, refusals: Sequence[Refusal]) -> Decisions:
    """The decision points of a split: one set for all fits on the same rows with the same numbers of them."""
    return context.once(
        ("decisions", split, plan.decision_points, plan.pools, tuple(refusals), plan.layers),
        lambda: gather(context, split, plan.decision_points, plan.pools, refusals, plan.layers)[0],
    )


def calibrated(
    context: FitContext, drafts: Sequence[Gate], plan: DecisionPointPlan, chosen: Sequence[Wording]
) -> list[Candidate]:
    """Gates that a method has already drawn, with thresholds set on the calibration rows; best first, recorded for the report.

    Args:
        drafts: with header pools; of each, the threshold alone is changed.
    """
    pools = tuple(dict.fromkeys(draft.pool for draft in drafts))
    refusals = [(wording.reasoning, wording.answer) for wording in chosen]
    held, _ = gather(context, "calibrate", plan, pools, refusals)
    found = ranked_gates([judge(draft, held.states[draft.pool][:, draft.layer], held) for draft in drafts])
    for candidate in found:
        context.record("gates", **candidate.line())
    return found


def gate_below(gates: Sequence[Candidate], layer: int) -> Gate:
    """The best gate that is decided at or before a layer; raises FitError where there is none."""
    for candidate in gates:
        if candidate.gate.layer <= layer:
            return candidate.gate
    raise FitError(
        f"no gate is read at or before block {layer}, whose output is edited; give the gate earlier `layers`, or edit a later block"
    )


def behind(gates: Sequence[Gate], edit: Edit) -> Edit:
    """The edit from where any of the gates fires; at every column where there is none."""
    names = tuple(gate.name for gate in gates)
    if not names:
        return replace(edit, gate=None, positions="all")
    return replace(edit, gate=names[0] if len(names) == 1 else names, positions="from_gate")
