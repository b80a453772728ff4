"""ECO (arXiv 2406.07933), embedding-corrupted prompts: a classifier flags prompts about the forget set, and noise spoils them.

The paper adds Gaussian noise, e' = e + sigma z, to the token embeddings of a flagged prompt; the classifier is a model of its own, and sigma
is found by zeroth-order optimisation of an unlearning objective. Here the classifier is a gate, as early as one tells prompts apart
about as well as the best does, and the noise is added to the output of the block that it reads:

    h' = h + s A B h,   A [d,k] and B [k,d] seeded Gaussian, scaled so that |A B h| is |h| on average

an affine edit whose noise differs from token to token as the states do, and is the same each time, as the format has no random numbers.

Deviations. Embeddings lie before the first block and a prompt is classified at its end, when its columns are computed and must
not change any more (docs/format.md, the law): what is spoiled is the end of the prompt and the reply, not the prompt. With `subject`, a
gate that reads every column, that is everything behind the subject's name. Noise is of rank k. s is chosen by trials. Replies
are not refusals, nor are they in the paper: the least noise under which no secret is said costs least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.fitting.calibrate import Candidate
from exporter.fitting.context import FitContext
from exporter.fitting.gates import GatePlan, behind, choose_gates
from exporter.fitting.refusals import wordings
from exporter.fitting.search import cheapest
from exporter.fitting.space import Among, Between, Fixed
from exporter.fitting.token_gates import TokenGatePlan, choose_token_gates
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, Gate, SteeringProgram


class EcoParams(BaseModel):
    """Parameters; of the strengths, the one whose trial costs least is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gate: GatePlan = GatePlan()
    """The classifier, searched at prompts' ends."""
    slack: Annotated[float, Among((0.0, 0.02, 0.1))] = Field(default=0.02, ge=0)
    """By how much an earlier gate may do worse on the calibration rows than the best: its missed share, twice, and its false alarms."""
    subject: Annotated[TokenGatePlan | None, Fixed()] = None
    """A gate that reads every column, in place of the other; None for none."""
    noise_rank: Annotated[int, Among((2, 4, 8, 16, 32))] = Field(default=8, gt=0)
    """k, the dimensions that the noise has."""
    strengths: Annotated[tuple[float, ...], Between(0.25, 16.0, log=True)] = Field(
        default=(0.5, 1.0, 2.0, 4.0, 8.0), min_length=1
    )
    """Lengths of the noise that are tried, in units of the state's."""
    trial_rows: int = Field(default=32, gt=0)


class Eco:
    """Fits a classifier and the strength of the noise behind it."""

    name: ClassVar[str] = "eco"
    Params: ClassVar[type[BaseModel]] = EcoParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2406.07933"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """The gate, and a trial of every strength; see the module's docstring.

        Raises:
            FitError: there is nothing to compare prompts with.
        """
        params = context.params
        assert isinstance(params, EcoParams)
        chosen = wordings(context)
        if params.subject is not None:
            gate = choose_token_gates(context, params.subject, chosen)[0].gate
        else:
            gate = earliest(choose_gates(context, params.gate, chosen), params.slack)
        tensors = noise(context.host.hidden_size, params.noise_rank, context.seed)
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        edits = (
            behind([gate], Edit(gate.layer, None, "affine", "all", strength, tensors=tensors))
            for strength in params.strengths
        )
        return cheapest(
            bench,
            ((context.program(self.name, [gate], [edit]), {"strength": edit.strength}) for edit in edits),
        )


def earliest(found: Sequence[Candidate], slack: float) -> Gate:
    """Of ranked gates, best first, the best one of the first layer that costs at most ``slack`` more than the best."""
    good = [candidate for candidate in found if candidate.cost <= found[0].cost + slack + 1e-9]
    first = min(candidate.gate.layer for candidate in good)
    return next(candidate.gate for candidate in good if candidate.gate.layer == first)


def noise(width: int, rank: int, seed: int) -> dict[str, Tensor]:
    """Tensors of an affine edit whose shift is as long as the state, on average over the draw, in directions drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(width, rank, generator=generator) / rank**0.5
    right = torch.randn(rank, width, generator=generator) / width**0.5
    return {"left": left, "right": right, "bias": torch.zeros(width)}
