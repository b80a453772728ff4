"""MLLMEraser (arXiv 2510.04217) as one rank-1 affine edit a layer.

With H_r and H_f the states of retain and forget rows, the paper's direction-determining function is W = P (X^T X + gamma P)^+ X^T 1 r^T,
X = H_f P, P = Q Q^T, Q the trailing right singular vectors of H_r, and r = mean h(recall) - mean h(erasure). W is u r^T with

    u = Q (Z^T Z + gamma I)^-1 Z^T 1,  Z = H_f Q,    h' = h + lambda (u . h) r,   lambda about -0.3

so u . h is near 1 where a state is like those to forget, near 0 where it is like those to keep, and two vectors a layer are stored.

Deviations. The paper adds lambda (u . h_last) r, h_last the state of the prompt's last token, at all positions of the prompt, in the prefill
alone: what a column is moved by would hang on a later one, which the format's law forbids. Here each column, of prompts and replies,
is moved by what its own state says. So H_r are columns of whole retain sequences and H_f columns from forget prompts' ends on,
where the paper takes last prompt tokens. Its recall comes from an adversarial image; here recall is the end of a forget
prompt, erasure the end of a prompt that the model refuses by itself. Open in the paper's notes: layers, and gamma's scale.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.fitting.column_states import column_states
from exporter.fitting.context import FitContext
from exporter.fitting.gates import GatePlan, behind, choose_gates, gate_below
from exporter.fitting.prompt_states import prompt_states
from exporter.fitting.refusals import Source, Wording, natural_refusals, wordings
from exporter.fitting.search import cheapest
from exporter.fitting.selection import plain, spread
from exporter.fitting.space import Among, Between, Blocks, Fixed
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, SteeringProgram


class MllmEraserParams(BaseModel):
    """Parameters; of the strengths, the one whose trial costs least is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[tuple[int, ...] | None, Blocks()] = Field(default=None, min_length=1)
    """Blocks whose outputs are edited, all of them; by default the middle one."""
    ratio: Annotated[float, Between(0.1, 0.6)] = Field(default=0.35, gt=0, le=1)
    """Share of the hidden size that the retain set is taken not to use (the paper: 0.3 to 0.4)."""
    ridge: Annotated[float, Between(1e-3, 1.0, log=True)] = Field(default=0.01, gt=0)
    """gamma, in units of the mean square of a coordinate of the forget states, summed over these."""
    strengths: Annotated[tuple[float, ...], Between(-10.0, -0.1)] = Field(
        default=(-0.3, -0.6, -1.0, -3.0, -10.0), min_length=1
    )
    """Values of lambda that are tried; negative ones lead from recall to erasure."""
    rows: int = Field(default=192, gt=0)
    """Most rows of each role."""
    columns: int = Field(default=16, gt=0)
    """Most columns of each row, spread evenly."""
    refusal_source: Annotated[Source, Fixed()] = "auto"
    refusal_rows: int = Field(default=64, gt=0)
    shots: int = Field(default=4, gt=0)
    gate: Annotated[GatePlan | None, Among((None, {}))] = None
    """A gate searched at prompts' ends; None for none, as in the paper, whose u is all that tells the two sets apart."""
    trial_rows: int = Field(default=32, gt=0)


class MllmEraser:
    """Fits u and r of every layer, and one strength."""

    name: ClassVar[str] = "mllmeraser"
    Params: ClassVar[type[BaseModel]] = MllmEraserParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.04217"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """One affine edit a layer, and a trial of every strength; see the module's docstring.

        Raises:
            FitError: the model refuses in none of the wordings.
        """
        params = context.params
        assert isinstance(params, MllmEraserParams)
        layers = params.layers or (context.host.num_layers // 2,)
        chosen = wordings(context)
        gates = []
        if params.gate is not None:
            gates = [gate_below(choose_gates(context, params.gate, chosen), min(layers))]
        edits = [behind(gates, edit) for edit in _edits(context, params, chosen, layers)]
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        programs = (
            (
                context.program(self.name, gates, [replace(edit, strength=s) for edit in edits]),
                {"strength": s},
            )
            for s in params.strengths
        )
        return cheapest(bench, programs)


def _edits(
    context: FitContext, params: MllmEraserParams, chosen: list[Wording], layers: tuple[int, ...]
) -> list[Edit]:
    """One edit a layer, without strength and gate; with a line of the report on what u tells apart."""
    asked = spread(plain(context.need("fit", "forget")), params.rows)
    kept = spread(plain(context.need("fit", "retain", "reasoning")), params.rows)
    erasure = _erasure(context, params, chosen, layers)
    recall = prompt_states(context, asked, layers, "recall")
    forget = column_states(context, asked, layers, "forget columns", part="reply", most=params.columns)
    retain = column_states(context, kept, layers, "retain columns", part="whole", most=params.columns)
    edits = []
    for layer in layers:
        shift = recall[layer].mean(0) - erasure[layer]
        u = null_space_reader(forget[layer], retain[layer], params.ratio, params.ridge)
        context.record("readings", layer=layer, **_readings(u, forget[layer], retain[layer]))
        tensors = {"left": shift[:, None], "right": u[None], "bias": torch.zeros_like(shift)}
        edits.append(Edit(layer, None, "affine", "all", tensors=tensors))
    return edits


def _erasure(
    context: FitContext, params: MllmEraserParams, chosen: list[Wording], layers: tuple[int, ...]
) -> dict[int, Tensor]:
    """By layer, the mean state [d] at the ends of prompts that the model refuses by itself, over the wordings it refuses in."""
    found = natural_refusals(
        context, chosen, layers, source=params.refusal_source, rows=params.refusal_rows, shots=params.shots
    )
    whole = [refusal for refusal in found if refusal.whole]
    return {layer: torch.stack([one.states[layer][0] for one in whole]).mean(0) for layer in layers}


def null_space_reader(forget: Tensor, retain: Tensor, ratio: float, ridge: float) -> Tensor:
    """u [d]: near 1 on forget states [n,d], within the directions that retain states [m,d] use least, a share ``ratio`` of all.

    Args:
        ridge: gamma in units of the mean square of a coordinate of the forget states, summed over them: where these have
            no part in the unused directions, u is near 0 rather than noise.
    """
    wide = retain.double()
    _, vectors = torch.linalg.eigh(wide.T @ wide)  # rising, so the trailing right singular vectors come first
    unused = vectors[:, : max(round(ratio * retain.shape[1]), 1)]
    z = forget.double() @ unused
    gram = z.T @ z
    gamma = ridge * forget.double().square().sum() / forget.shape[1]
    damped = gram + gamma * torch.eye(len(gram), dtype=torch.float64)
    return (unused @ torch.linalg.solve(damped, z.sum(0))).float()


def _readings(u: Tensor, forget: Tensor, retain: Tensor) -> dict[str, float]:
    """How far u keeps what it promises: 1 on the forget set, 0 on the retain set."""
    return {
        "forget_mean": round(float((forget @ u).mean()), 4),
        "retain_mean_size": round(float((retain @ u).abs().mean()), 4),
    }
