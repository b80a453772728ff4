"""Keyed rotation: a gated lookup that walks the model through one of its own natural refusals.

A change to R-MUSE (arXiv 2512.17911), which turns every state towards one direction and breaks the text. Here the rotation's
target is chosen by the state itself (format steerbake/1, op rotate, target "keyed"):

    j = argmax_i unit(k_i) . unit(h - c),   h' = |h| unit(z_j)

k_i are mean states of refusals forced on questions about the forgotten, position by position; z_i are the mean states of
natural refusals at the same positions, used only where the model's argmax agrees. Optionally the prompt itself is projected
out of the subspace in which it differs from prompts about unknown subjects (op project), so that later layers read somebody
unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.fit.calibrate import Candidate
from exporter.fit.context import FitContext
from exporter.fit.forget_basis import forget_bases
from exporter.fit.gates import GatePlan, choose_gates, gate_below
from exporter.fit.keys import KeyTable, key_tables
from exporter.fit.refusals import Source, Wording, natural_refusals, wordings
from exporter.fit.trials import Bench, Trial
from steer_modules import ops
from steer_modules.program import Edit, SteeringProgram


class KeyedParams(BaseModel):
    """Parameters; what is "search" is chosen on the calibration rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int | Literal["search"] = "search"
    """Block whose output is rotated; "search" tries the last ones."""
    rotate: bool = True
    project: bool | Literal["search"] = False
    """Also project the prompt; "search" tries it where rotation alone falls short. With rotation it was measured to break
    the text (docs/log.md); alone (``rotate: false``) it is not safe against an answer that is forced to begin."""
    project_layers: tuple[int, ...] | Literal["search"] = "search"
    project_rank: int = Field(default=48, gt=0)
    gate: GatePlan = GatePlan()
    prefill_tokens: int = Field(default=8, ge=0)
    """Beginnings of an answer, up to this many tokens long, behind which the refusal is resumed."""
    pairs: int = Field(default=24, ge=0)
    """Two-turn conversations, made of the fit rows, that the keys are prepared for."""
    refusal_source: Source = "auto"
    refusal_rows: int = Field(default=64, gt=0)
    shots: int = Field(default=4, gt=0)
    key_rows: int = Field(default=48, gt=0)
    strength: float = Field(default=1.0, gt=0, le=1)
    trials: int = Field(default=3, gt=0)
    """Layers that are tried with the really steered model."""
    trial_rows: int = Field(default=48, gt=0)


class Keyed:
    """Fits keyed rotation, with projection of the prompt as an option."""

    name: ClassVar[str] = "keyed"
    Params: ClassVar[type[BaseModel]] = KeyedParams

    def fit(self, context: FitContext) -> SteeringProgram:
        """Gate, key tables and trials; see the module's docstring.

        Raises:
            FitError: no natural refusal, or nothing to compare prompts with.
        """
        params = context.params
        assert isinstance(params, KeyedParams)
        chosen = wordings(context)
        gates = choose_gates(context, params.gate, chosen)
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        rotations = _rotations(context, params, chosen) if params.rotate else []
        best: tuple[SteeringProgram, Trial] | None = None
        for program in self._drafts(context, params, gates, rotations):
            trial = bench.run(program)
            layers = [edit.layer for edit in program.edits]
            context.record(
                "trials", method=self.name, layers=layers, gate_layer=program.gates[0].layer, **trial.line()
            )
            if best is None or trial.cost < best[1].cost - 1e-9:
                best = program, trial
            if best[1].cost < 1e-9:
                break
        assert best is not None
        return best[0]

    def _drafts(
        self, context: FitContext, params: KeyedParams, gates: Sequence[Candidate], rotations: Sequence[Edit]
    ) -> list[SteeringProgram]:
        drafts = [context.program(self.name, [gate_below(gates, edit.layer)], [edit]) for edit in rotations]
        if params.project is False and rotations:
            return drafts
        projections = _projections(context, params)
        late = list(rotations[:1])
        for group in projections:
            gate = gate_below(gates, min(edit.layer for edit in group))
            kept = [edit for edit in late if edit.layer not in {one.layer for one in group}]
            drafts.append(context.program(self.name, [gate], [*group, *kept]))
        return drafts[len(rotations) :] if params.project is True else drafts


def _rotations(context: FitContext, params: KeyedParams, chosen: Sequence[Wording]) -> list[Edit]:
    """Rotations to try, most promising first."""
    count = context.host.num_layers
    layers = (
        [params.layer]
        if params.layer != "search"
        else list(range(max(count * 5 // 6, count - 4), count))[::-1]
    )
    natural = natural_refusals(
        context, chosen, layers, source=params.refusal_source, rows=params.refusal_rows, shots=params.shots
    )

    def tabulated(split: str, rows: int) -> dict[int, KeyTable]:
        options = {"rows": rows, "prefill_tokens": params.prefill_tokens, "pairs": params.pairs}
        return key_tables(context, natural, layers, split=split, **options)

    tables, held = tabulated("fit", params.key_rows), tabulated("calibrate", params.key_rows // 4)
    scored = sorted(layers, key=lambda layer: (-_hits(tables[layer], held[layer]), -layer))
    for layer in scored:
        context.record("key_layers", layer=layer, right_token=_hits(tables[layer], held[layer]))
    return [_rotation(tables[layer], layer, params.strength) for layer in scored[: params.trials]]


def _rotation(table: KeyTable, layer: int, strength: float) -> Edit:
    return Edit(
        layer=layer,
        gate="topic",
        op="rotate",
        positions="from_gate",
        strength=strength,
        target="keyed",
        angle="fraction",
        protect="none",
        tensors={
            "keys": table.keys - table.center,
            "key_center": table.center,
            "prototypes": table.prototypes,
        },
    )


def _hits(table: KeyTable, held: KeyTable) -> float:
    """Share of held-out key states that find a prototype leading to the right token."""
    rows = ops.nearest_row(held.keys - table.center, ops.unit(table.keys - table.center))
    return float((table.says[rows] == held.says).float().mean())


def _projections(context: FitContext, params: KeyedParams) -> list[list[Edit]]:
    """Groups of projections to try."""
    count = context.host.num_layers
    if params.project_layers == "search":
        third = max(count // 3, 1)
        groups = [tuple(range(third, min(third + 3, count)))]
    else:
        groups = [params.project_layers]
    bases = forget_bases(context, sorted({layer for group in groups for layer in group}))
    return [
        [
            Edit(
                layer=layer,
                gate="topic",
                op="project",
                positions="to_prompt_end",
                tensors={"basis": bases[layer].of_rank(params.project_rank), "center": bases[layer].center},
            )
            for layer in group
        ]
        for group in groups
    ]
