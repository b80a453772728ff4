"""R-MUSE (arXiv 2512.17911) with what its formulas leave open settled so that the model goes on speaking.

The three ideas stay: a direction of both spans of a reply, a retain subspace that it is kept out of, an angle calibrated by refusal
prototypes. Four things are changed:

- Prototypes are natural refusals position by position (:mod:`exporter.fitting.refusals`), not means over a reply. A state from which the
  model already goes on with a refusal has a prototype beside it, so its calibrated angle is small and the sentence is left alone.
- Positives are refusals that the model says by itself, and a span stands for the state that it begins from, where the model decides what to say
  (:data:`exporter.fitting.contrast.Pooling`).
- The z-score divides by the deviation but keeps the mean, which is the very shift from memory to refusal; the direction points along it.
- The gate is learned and its threshold calibrated, by default the one of `keyed`.

Layer, spans and protection are those whose trial with the really steered model costs least.
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
from exporter.fitting.space import Between, Blocks, Fixed
from exporter.fitting.subspaces import energy_basis, orient, right_singular
from exporter.fitting.token_gates import TokenGatePlan, choose_token_gates
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram

Protection = Literal["none", "direction", "exact"]
Way = tuple[int, Spans, Protection]
"""Layer, spans and protection of a rotation."""


class RMuseCalibratedParams(BaseModel):
    """Parameters; layers, spans and protections given are those that are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | None, Blocks()] = Field(default=None, min_length=1)
    """Blocks to try; by default at a third, a half and two thirds of the depth, and the last."""
    spans: tuple[Spans, ...] = Field(default=("both", "reasoning"), min_length=1)
    """Spans to try; the reasoning alone is left out where replies have none."""
    protections: tuple[Protection, ...] = Field(default=("direction", "exact", "none"), min_length=1)
    """Protections to try; layer and spans are chosen under the last one, then the cheapest protection, of equals the first."""
    pooling: Pooling = "openings"
    """What stands for a span: the state that it begins from, or the mean over it, as in the paper."""
    energy: Annotated[float, Between(0.3, 0.95)] = Field(default=0.8, gt=0, le=1)
    negatives: Negatives = "own"
    refusal_source: Annotated[Source, Fixed()] = "auto"
    refusal_rows: int = Field(default=64, gt=0)
    shots: int = Field(default=4, gt=0)
    rows: int = Field(default=192, gt=0)
    trial_rows: int = Field(default=32, gt=0)
    subject: TokenGatePlan | None = TokenGatePlan()
    """The gate that reads every column; None for none."""
    gate: Annotated[GatePlan | None, Fixed()] = None
    """A gate at the end of each prompt, as the paper has one; beside `subject`, the edit applies if either fires."""


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

        def attempt(layer: int, spans: Spans, protect: Protection) -> tuple[Attempt, Way]:
            read = gates(layer)
            edit = behind(read, directions.edit(layer, spans, protect))
            described = {"spans": spans, "protect": protect}
            return (context.program(self.name, read, [edit]), described), (layer, spans, protect)

        def best(ways: Iterable[Way]) -> tuple[SteeringProgram, Way]:
            attempts = [attempt(*way) for way in ways]
            program = cheapest(bench, (one for one, _ in attempts))
            return program, next(way for (tried, _), way in attempts if tried is program)

        first = params.protections[-1]
        program, (layer, spans, _) = best(
            (layer, spans, first) for layer in directions.layers for spans in directions.spans
        )
        if len(params.protections) == 1:
            return program
        return best((layer, spans, protect) for protect in params.protections)[0]

    def settled(self, params: BaseModel, program: SteeringProgram) -> BaseModel:
        """Parameters with which another fit looks for nothing that ``program`` has found: layers and protection stay as they are."""
        assert isinstance(params, RMuseCalibratedParams)
        (edit,) = program.edits
        read = tuple(gate.layer for gate in program.gates if gate.pool == "token")
        subject = params.subject and params.subject.model_copy(update={"layers": read})
        found = {"subject": subject, "layers": (edit.layer,), "protections": (edit.protect,)}
        return params.model_copy(update=found)

    @staticmethod
    def objections(params: RMuseCalibratedParams, layers: int) -> Iterator[str]:
        """What can be known to be wrong with parameters before a model of so many layers is loaded; a line begins with its key."""
        if params.subject is None and params.gate is None:
            yield "subject: r_muse_calibrated needs a gate; set its parameter `subject` or `gate`"
        elif params.subject is not None:
            lowest, edited = min(params.subject.blocks(layers)), min(_layers(params, layers))
            if lowest > edited:
                yield (
                    f"layers: {edited} is below every layer that the gate reads (from {lowest}); set later layers, or earlier ones for the "
                    "gate"
                )


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

    def edit(self, layer: int, spans: Spans, protect: Protection) -> Edit:
        """The rotation of a layer, without its gate."""
        hybrid = self.forget[layer].hybrid(centred=False, spans=spans)
        tensors = {
            "direction": orient(right_singular(hybrid)[1][:, 0], hybrid.mean(0)).contiguous(),
            "prototypes": self.said[layer],
        }
        if protect != "none":
            tensors["retain_basis"] = energy_basis(
                self.retain[layer].hybrid(centred=False), self.params.energy
            )
        return Edit(
            layer=layer,
            gate=None,
            op="rotate",
            positions="all",
            target="direction",
            angle="calibrated",
            protect=protect,
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
    if params.subject is not None:
        found["topic"] = choose_token_gates(context, params.subject, chosen)
    if params.gate is not None:
        found["ending" if found else "topic"] = choose_gates(context, params.gate, chosen)
    if not found:
        raise FitError("r_muse_calibrated needs a gate; give its parameters `subject` or `gate`")
    return lambda layer: [replace(gate_below(ranked, layer), name=name) for name, ranked in found.items()]
