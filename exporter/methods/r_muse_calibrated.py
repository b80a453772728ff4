"""R-MUSE (arXiv 2512.17911) with what its formulas leave open settled so that the model goes on speaking.

The three ideas stay: a direction of both spans of a reply, a retain subspace that it is kept out of, an angle calibrated by refusal
prototypes. Four things are changed:

- Prototypes are natural refusals position by position (:mod:`exporter.fitting.refusals`), not means over a reply. A state from which the
  model already goes on with a refusal has a prototype beside it, so its calibrated angle is small and the sentence is left alone.
- Positives are refusals that the model says by itself, and a span stands for the state that it begins from, where the model decides what to say
  (:data:`exporter.fitting.contrast.Pooling`).
- The z-score divides by the deviation but keeps the mean, which is the very shift from memory to refusal; the direction points along it.
- The gate is searched and its threshold set (:mod:`exporter.fitting.calibrate`).

Layer and spans are those whose trial with the really steered model costs least without protection; then protection and energy, which only cost
where a gate leaves the retain set alone, those that cost least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.fitting.contrast import (
    Contrast,
    Negatives,
    Pooling,
    Spans,
    forget_contrast,
    retain_contrast,
)
from exporter.fitting.gates import GatePlan, behind, choose_gates, gate_below
from exporter.fitting.refusals import (
    Source,
    Wording,
    natural_refusals,
    natural_replies,
    said_states,
    wordings,
)
from exporter.fitting.search import Attempt, cheapest
from exporter.fitting.selection import plain, spread
from exporter.fitting.space import Blocks, Fixed
from exporter.fitting.subspaces import energy_basis, orient, right_singular
from exporter.fitting.token_gates import TokenGatePlan, choose_token_gates
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram

Protection = Literal["none", "direction", "exact"]


@dataclass(frozen=True)
class Way:
    """What is chosen of a rotation by trials."""

    layer: int
    spans: Spans
    protect: Protection = "none"
    energy: float = 1.0


class RMuseCalibratedParams(BaseModel):
    """Parameters; layers, spans and protections given are those that are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | None, Blocks()] = Field(default=None, min_length=1)
    """Blocks to try; by default at a third, a half and two thirds of the depth, and the last."""
    spans: tuple[Spans, ...] = Field(default=("both",), min_length=1)
    """Spans to try; the paper has both. The reasoning alone is left out where replies have none."""
    protections: tuple[Protection, ...] = Field(default=("direction", "exact"), min_length=1)
    """Protections to try at the cheapest layer and spans; `none` leaves the retain subspace out."""
    energies: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Fixed()] = Field(
        default=(0.8, 0.5, 0.3), min_length=1
    )
    """Energies of the retain subspace to try; the paper has 0.8. A small one spares only what kept reasoning moves along most."""
    pooling: Pooling = "openings"
    """What stands for a span: the state that it begins from, or the mean over it, as in the paper."""
    negatives: Negatives = "own"
    refusal_source: Annotated[Source, Fixed()] = "auto"
    refusal_rows: int = Field(default=64, gt=0)
    shots: int = Field(default=4, gt=0)
    rows: int = Field(default=192, gt=0)
    trial_rows: int = Field(default=32, gt=0)
    gate: GatePlan | None = GatePlan()
    """The gate at the end of each prompt, as the paper has one; None for none."""
    subject: Annotated[TokenGatePlan | None, Fixed()] = None
    """The gate of `keyed`, which reads every column; beside `gate`, the edit applies if either fires."""


class RMuseCalibrated:
    """Fits calibrated R-MUSE."""

    name: ClassVar[str] = "r_muse_calibrated"
    Params: ClassVar[type[BaseModel]] = RMuseCalibratedParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2512.17911"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """Gate, directions and trials; see the module's docstring.

        Raises:
            FitError: nothing to compare, no reply with an answer, or no natural refusal.
        """
        params = context.params
        assert isinstance(params, RMuseCalibratedParams)
        chosen = wordings(context)
        gates = _gates(context, params, chosen)
        directions = Directions.fitted(context, params, chosen)
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)

        def best(ways: Iterable[Way]) -> tuple[SteeringProgram, Way]:
            attempts = [(way, self._attempt(context, directions, gates(way.layer), way)) for way in ways]
            program = cheapest(bench, (one for _, one in attempts))
            return program, next(way for way, (tried, _) in attempts if tried is program)

        free, found = best(Way(layer, spans) for layer in directions.layers for spans in directions.spans)
        if params.protections == ("none",):
            return free
        return best(
            replace(found, protect=protect, energy=energy)
            for protect in params.protections
            for energy in params.energies
        )[0]

    def _attempt(
        self, context: FitContext, directions: Directions, gates: Sequence[Gate], way: Way
    ) -> Attempt:
        program = context.program(self.name, gates, [behind(gates, directions.edit(way))])
        return program, {"spans": way.spans, "protect": way.protect, "energy": way.energy}

    def settled(self, params: BaseModel, program: SteeringProgram) -> BaseModel:
        """Parameters with which another fit looks for nothing that ``program`` has found: layer and protection stay as they are."""
        assert isinstance(params, RMuseCalibratedParams)
        (edit,) = program.edits
        read = tuple(gate.layer for gate in program.gates if gate.pool == "token")
        subject = params.subject and params.subject.model_copy(update={"layers": read})
        found = {"subject": subject, "layers": (edit.layer,), "protections": (edit.protect,)}
        return params.model_copy(update=found)

    @staticmethod
    def objections(params: RMuseCalibratedParams, layers: int) -> Iterator[str]:
        """What can be known to be wrong with parameters before a model of so many layers is loaded; a line begins with its key."""
        read: list[Sequence[int]] = [params.subject.blocks(layers)] if params.subject is not None else []
        read += [params.gate.layers or (0,)] if params.gate is not None else []
        if not read:
            yield "gate: r_muse_calibrated needs a gate; set its parameter `gate` or `subject`"
            return
        lowest, edited = max(map(min, read)), min(_layers(params, layers))
        if lowest > edited:
            yield f"layers: {edited} is below every layer that a gate reads (from {lowest}); set later layers, or earlier ones for the gate"


@dataclass(frozen=True)
class Directions:
    """What rotations are made from, by layer: contrasts of the forget set and the retain set, and states of natural refusals [m,d]."""

    forget: Mapping[int, Contrast]
    retain: Mapping[int, Contrast]
    said: Mapping[int, Tensor]
    params: RMuseCalibratedParams

    @classmethod
    def fitted(
        cls, context: FitContext, params: RMuseCalibratedParams, chosen: Sequence[Wording]
    ) -> Directions:
        """Contrasts and natural refusals of the fit rows."""
        layers = _layers(params, context.host.num_layers)
        asked = {"rows": params.refusal_rows, "shots": params.shots}
        natural = natural_refusals(context, chosen, layers, source=params.refusal_source, **asked)
        forget = forget_contrast(
            context,
            spread(plain(context.need("fit", "forget")), params.rows),
            chosen,
            layers,
            positives=natural_replies(context, natural, **asked),
            negatives=params.negatives,
            pooling=params.pooling,
        )
        kept = spread(plain(context.need("fit", "retain", "reasoning")), params.rows)
        said = {layer: said_states(natural, layer) for layer in layers}
        return cls(forget, retain_contrast(context, kept, layers), said, params)

    @property
    def layers(self) -> list[int]:
        """Latest first: what an edit changes there is read by the fewest blocks."""
        return sorted(self.forget, reverse=True)

    @property
    def spans(self) -> list[Spans]:
        """Those to try; without a reasoning there is one to choose from."""
        thinks = all(one.reasoning is not None for one in self.forget.values())
        return [one for one in self.params.spans if thinks or one != "reasoning"] or ["both"]

    def edit(self, way: Way) -> Edit:
        """A rotation without its gate."""
        hybrid = self.forget[way.layer].hybrid(centred=False, spans=way.spans)
        tensors = {
            "direction": orient(right_singular(hybrid)[1][:, 0], hybrid.mean(0)).contiguous(),
            "prototypes": self.said[way.layer],
        }
        if way.protect != "none":
            tensors["retain_basis"] = energy_basis(self.retain[way.layer].hybrid(centred=False), way.energy)
        return Edit(
            layer=way.layer,
            gate=None,
            op="rotate",
            positions="all",
            target="direction",
            angle="calibrated",
            protect=way.protect,
            tensors=tensors,
        )


def _layers(params: RMuseCalibratedParams, count: int) -> tuple[int, ...]:
    return params.layers or tuple(sorted({count // 3, count // 2, 2 * count // 3, count - 1}))


def _gates(
    context: FitContext, params: RMuseCalibratedParams, chosen: Sequence[Wording]
) -> Callable[[int], list[Gate]]:
    """From an edited layer to the best gate of each kind that is read at or before it; the kinds are fitted once.

    Raises:
        FitError: no kind is asked for.
    """
    found = {}
    if params.gate is not None:
        found["topic"] = choose_gates(context, params.gate, chosen)
    if params.subject is not None:
        found["subject" if found else "topic"] = choose_token_gates(context, params.subject, chosen)
    if not found:
        raise FitError("r_muse_calibrated needs a gate; give its parameters `gate` or `subject`")
    return lambda layer: [replace(gate_below(ranked, layer), name=name) for name, ranked in found.items()]
