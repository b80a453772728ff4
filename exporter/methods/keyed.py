"""Keyed rotation: a gated lookup that walks the model through one of its own natural refusals.

A change to R-MUSE (arXiv 2512.17911), which turns every state towards one direction and breaks the text. Here the rotation's
target is chosen by the state itself (format steerbake/2, op rotate, target "keyed"):

    j = argmax_i unit(k_i) . unit(h - c),   h' = |h| unit(z_j)

k_i are mean states of refusals forced on questions about the forgotten, position by position; z_i are the mean states of
natural refusals at the same positions, used only where the model's argmax agrees. The gate reads every column and stays on
(:mod:`exporter.fitting.token_gates`). At the last block, the default, an edit changes no state that the model still reads: what
is said before the gate fires is the base's, and what is said after it is a refusal's, whatever has been said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.fitting.gates import GatePlan, choose_gates, gate_below
from exporter.fitting.keys import KeyTable, key_tables
from exporter.fitting.refusals import Source, Wording, natural_refusals, wordings
from exporter.fitting.search import cheapest
from exporter.fitting.space import Among, Between, Blocks, Fixed
from exporter.fitting.token_gates import TokenGatePlan, choose_token_gates
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules import ops
from steer_modules.program import Edit, Gate, SteeringProgram


class KeyedParams(BaseModel):
    """Parameters; a value "search" is chosen on the calibration rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[int | Literal["last", "search"], Blocks(2 / 3, most=4)] = "last"
    """Block whose output is rotated; "search" tries the last ones. An edit before the last block also changes later blocks."""
    subject: TokenGatePlan | None = TokenGatePlan()
    """The gate that reads every column; None for none."""
    gate: Annotated[GatePlan | None, Fixed()] = None
    """A second gate at the end of each prompt; the edit applies if either fires."""
    prefill_tokens: Annotated[int, Among((0, 4, 8, 12))] = Field(default=8, ge=0)
    """Longest prefill of an answer, in tokens, after which the refusal is continued."""
    pairs: int = Field(default=24, ge=0)
    """Two-turn conversations, made from the fit rows, for which keys are computed."""
    refusal_source: Annotated[Source, Fixed()] = "auto"
    refusal_rows: int = Field(default=64, gt=0)
    shots: int = Field(default=4, gt=0)
    key_rows: int = Field(default=48, gt=0)
    strength: Annotated[float, Between(0.6, 1.0)] = Field(default=1.0, gt=0, le=1)
    trials: int = Field(default=3, gt=0)
    """Layers that are tried on the steered model."""
    trial_rows: int = Field(default=48, gt=0)


class Keyed:
    """Fits keyed rotation behind a gate that reads every column."""

    name: ClassVar[str] = "keyed"
    Params: ClassVar[type[BaseModel]] = KeyedParams
    paper: ClassVar[str] = "docs/methods.md"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """Gate, key tables and trials; see the module's docstring.

        Raises:
            FitError: no natural refusal, or nothing to compare prompts with.
        """
        params = context.params
        assert isinstance(params, KeyedParams)
        chosen = wordings(context)
        gates = self._gates(context, params, chosen)
        edits = _rotations(context, params, chosen)
        programs = [self._program(context, gates, edit) for edit in edits]
        if len(programs) == 1:  # nothing to choose, so nothing to try
            return programs[0]
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        return cheapest(bench, ((program, {}) for program in programs))

    def settled(self, params: BaseModel, program: SteeringProgram) -> BaseModel:
        """Parameters with which another fit looks for nothing that ``program`` has found: layers stay as they are."""
        assert isinstance(params, KeyedParams)
        layers = tuple(gate.layer for gate in program.gates if gate.pool == "token")
        subject = params.subject and params.subject.model_copy(update={"layers": layers})
        return params.model_copy(update={"subject": subject, "layer": program.edits[0].layer})

    def _program(self, context: FitContext, gates: Sequence[Gate], edit: Edit) -> SteeringProgram:
        read = [gate for gate in gates if gate.layer <= edit.layer]
        return context.program(self.name, read, [replace(edit, gate=_named(read))])

    @staticmethod
    def objections(params: KeyedParams, layers: int) -> Iterator[str]:
        """What can be known to be wrong with parameters before a model of so many layers is loaded; a line begins with its key."""
        if params.subject is None and params.gate is None:
            yield "subject: keyed needs a gate; set its parameter `subject` or `gate`"
        elif params.subject is not None and params.gate is None and isinstance(params.layer, int):
            read = params.subject.blocks(layers)
            if min(read) > params.layer:
                yield (
                    f"layer: {params.layer} is below every layer that the gate reads ({read}); set a later layer, or earlier layers for "
                    "the gate"
                )

    def _gates(self, context: FitContext, params: KeyedParams, chosen: Sequence[Wording]) -> list[Gate]:
        """The best gate of each kind that is asked for."""
        found = []
        if params.subject is not None:
            found.append(choose_token_gates(context, params.subject, chosen)[0].gate)
        if params.gate is not None:
            top = context.host.num_layers - 1
            named = "ending" if found else "topic"
            found.append(replace(gate_below(choose_gates(context, params.gate, chosen), top), name=named))
        if not found:
            raise FitError("keyed needs a gate; give its parameters `subject` or `gate`")
        return found


def _named(gates: Sequence[Gate]) -> str | tuple[str, ...]:
    """What an edit calls its gates; a layer below all of them has none, and is refused."""
    if not gates:
        raise FitError(
            "every gate is above the edited layer; set `layer` to a later block, or earlier layers for the gate"
        )
    return gates[0].name if len(gates) == 1 else tuple(gate.name for gate in gates)


def _rotations(context: FitContext, params: KeyedParams, chosen: Sequence[Wording]) -> list[Edit]:
    """Rotations to try, most promising first."""
    count = context.host.num_layers
    searched = list(range(max(count * 5 // 6, count - 4), count))[::-1]
    layers = {"search": searched, "last": [count - 1]}.get(str(params.layer)) or [int(params.layer)]
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
