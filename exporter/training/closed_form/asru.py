"""ASRU (https://arxiv.org/abs/2605.15687): one linear layer moves states of the forget set towards refusal, in closed form; then rewards.

v = mean h_l(unknown) - mean h_l(forget), of block l's outputs at the prompts' last tokens. H_f and H_r are the inputs of the block's down
projection there, and its weights change by the minimum of

    |H_f dW^T - lambda 1 v^T|^2 + |H_r dW^T|^2 + gamma |dW|^2,    dW = lambda v a^T,    a = (H^T H + gamma I)^-1 H_f^T 1

with H the rows of both. A matrix of rank 1, so the adapter is exact: A = a^T, B = lambda v.

With `stage2`, what the paper does next: GRPO (:mod:`exporter.training.policy`, by TRL) on rewards for refusing the forget set and answering the
retain set (:mod:`exporter.training.rewards`), from the model of the first stage, which is also the reference of its KL term. The edit is the sum
of both adapters, exactly. It reads single questions and conversations without images; rows with images are left to the first stage.

Not in the sources at hand: lambda, gamma, and why the paper edits its layer 17, about half the depth. Here gamma is a share of the mean squared
length of an input, which makes it the same for every model. The edit acts on every token, and is solved for the last of a prompt alone; where a
norm stands between the layer and the residual stream (Gemma), states move along v as far as the norm lets them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exporter.digests import digest_of
from exporter.errors import DataError, FitError
from exporter.fitting.activations import model_digest
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.refusals import wordings
from exporter.fitting.space import Between, Blocks, Fixed
from exporter.methods.base import Yields
from exporter.splits import digest_of_rows
from exporter.training.factors import Factors, edit_of, factors_of
from exporter.training.mlp_inputs import batches_of_inputs, down_projection
from exporter.training.policy import PolicyPlan, improved
from exporter.training.rewards import Asked, Rewards
from exporter.training.search import cheapest_edit
from exporter.types import Encoded, Role, Row
from exporter.weight_edit import WeightEdit


class AsruParams(BaseModel):
    """Parameters of ASRU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[int | None, Blocks()] = Field(default=None, ge=0)
    """Block whose down projection is edited; by default the one at half the depth."""
    strength: Annotated[Annotated[float, Field(gt=0)] | Literal["search"], Between(0.25, 8.0, log=True)] = (
        "search"
    )
    """The paper's lambda: how far states of the forget set move, in lengths of v; 1 is to the mean of unknown subjects. `search` tries each of `strengths`."""
    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.5, 1.0, 2.0, 4.0), min_length=1)
    """Strengths that `search` tries on the calibration rows."""
    trial_rows: int = Field(default=48, gt=0)
    """Calibration rows of the forget set, and as many to keep, on which `search` judges."""
    ridge: Annotated[float, Between(1e-5, 1.0, log=True)] = Field(default=1e-3, gt=0)
    """The paper's gamma, in mean squared lengths of an input; larger values move states less, and other states less too."""
    stage2: Annotated[PolicyPlan | None, Fixed()] = None
    """The second stage, which samples replies and takes minutes to hours; None for none, `{}` for its defaults."""


class Asru:
    """Computes the edit."""

    name: ClassVar[str] = "asru"
    Params: ClassVar[type[BaseModel]] = AsruParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2605.15687"
    yields: ClassVar[Yields] = "edit"
    needs: ClassVar = {
        "fit": (("forget",), ("retain", "reasoning"), ("unknown",)),
        "calibrate": (("forget",),),
    }

    def fit(self, context: FitContext) -> WeightEdit:
        """The edit: of rank 1, or with the second stage of one rank more than that has.

        Raises:
            DataError: the rows lack a role, or all rows of a side that the second stage reads have images.
            FitError: the block has no down projection, or its neurons do not see the forget set.
        """
        params = context.params
        assert isinstance(params, AsruParams)
        layer = context.host.num_layers // 2 if params.layer is None else params.layer
        name = down_projection(context.host, layer)
        forget, retain, unknown = (
            _prompts(context, *roles) for roles in (("forget",), ("retain", "reasoning"), ("unknown",))
        )
        v = _mean_state(context, unknown, layer) - _mean_state(context, forget, layer)
        inputs = [_last_inputs(context, name, side) for side in (forget, retain)]
        a = ridge_solution(inputs[0], inputs[1], params.ridge)
        moved = [side @ a for side in inputs]
        if not float(moved[0].abs().max()) > 0:
            raise FitError(
                f"the neurons of block {layer} are silent at the end of the forget set's prompts; set another `layer`"
            )
        context.record(
            "asru",
            layer=layer,
            length=float(v.norm()),
            forget_moved=float(moved[0].mean()),
            retain_moved=float(moved[1].abs().mean()),
        )
        first = self._first(context, params, name, Factors(a[None].float(), v[:, None].float()))
        if params.stage2 is None:
            return first
        factors = factors_of(first.config, first.tensors)[name]
        asked = [*_asked(context, "forget"), *_asked(context, "retain", "reasoning")]
        with moved_by(context.host.model, name, factors):
            trained = second_stage(context, asked, params.stage2, params)
        return edit_of(context, self.name, summed(trained, {name: factors}))

    def _first(self, context: FitContext, params: AsruParams, name: str, unit: Factors) -> WeightEdit:
        """The edit of the first stage, of the strength that does best; ``unit`` has strength 1."""
        tried = params.strengths if params.strength == "search" else (params.strength,)
        attempts = [
            (partial(edit_of, context, self.name, {name: Factors(unit.a, one * unit.b)}), {"strength": one})
            for one in tried
        ]
        return cheapest_edit(context, "trials", attempts, rows=params.trial_rows)


def second_stage(
    context: FitContext, asked: Sequence[Asked], plan: PolicyPlan, params: AsruParams
) -> dict[str, Factors]:
    """What rewards add, by layer; the model of the context is that of the first stage."""
    rewards = Rewards(
        [context.host.tokenizer.decode(one.response, skip_special_tokens=True) for one in wordings(context)],
        plan.fluency,
    )
    rows = digest_of([context.seed, digest_of_rows(context.fit), model_digest(context.host.model)])
    work = context.work / "training" / digest_of(["asru", params.model_dump(), rows])[:32]
    return factors_of(*improved(context, asked, rewards.of, plan, work=work))


def _asked(context: FitContext, *roles: Role) -> list[Asked]:
    """Rows without images, with the base's own replies."""
    rows = context.filled([row for row in context.need("fit", *roles) if not _has_image(row)])
    if not rows:
        raise DataError(
            f"all fit rows of role {' or '.join(roles)} have images, which the second stage cannot sample replies to; leave stage2 out"
        )
    prompts = [context.chat.prompt(row) for row in rows]
    decode = context.host.tokenizer.decode
    return [
        Asked(row, prompt, decode(said.tokens, skip_special_tokens=True))
        for row, prompt, said in zip(rows, prompts, context.own(prompts), strict=True)
    ]


def _has_image(row: Row) -> bool:
    return row.image is not None or any(turn.image is not None for turn in row.history)


@contextmanager
def moved_by(model: Any, name: str, factors: Factors) -> Iterator[None]:
    """One layer changed by its factors; its weights are what they were, to the bit, after the block."""
    from transformers.pytorch_utils import Conv1D

    layer = model.get_submodule(name)
    kept = layer.weight.detach().clone()
    delta = factors.delta.T if isinstance(layer, Conv1D) else factors.delta
    with torch.no_grad():
        layer.weight.add_(delta.to(kept))
    try:
        yield
    finally:
        with torch.no_grad():
            layer.weight.copy_(kept)


def summed(one: Mapping[str, Factors], other: Mapping[str, Factors]) -> dict[str, Factors]:
    """Changes that add up, by layer: the ranks of both side by side."""
    found = dict(one)
    for name, more in other.items():
        if (known := found.get(name)) is None:
            found[name] = more
            continue
        found[name] = Factors(
            torch.cat([known.a.cpu(), more.a.cpu()]), torch.cat([known.b.cpu(), more.b.cpu()], dim=1)
        )
    return found


def ridge_solution(forget: Tensor, retain: Tensor, ridge: float) -> Tensor:
    """a [in] with H_f a near 1 and H_r a near 0.

    Solved among rows, (H^T H + gamma I)^-1 H^T = H^T (H H^T + gamma I)^-1, of which there are fewer than neurons.

    Args:
        forget, retain: float64 [n, in] and [m, in].
        ridge: gamma in mean squared lengths of a row.
    """
    rows = torch.cat([forget, retain])
    wanted = torch.cat([forget.new_ones(len(forget)), forget.new_zeros(len(retain))])
    gram = rows @ rows.T
    gamma = ridge * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    return rows.T @ torch.linalg.solve(gram + gamma * torch.eye(len(rows), dtype=gram.dtype), wanted)


def _prompts(context: FitContext, *roles: Role) -> list[Encoded]:
    rows = context.filled(context.need("fit", *roles))
    return [Encoded(context.chat.prompt(row)) for row in rows]


def _mean_state(context: FitContext, items: list[Encoded], layer: int) -> Tensor:
    """Mean output of a block at the prompts' last tokens: float64 [d]."""
    pooled = [PooledSequence(one, ((one.prompt_end,),)) for one in items]
    return context.collect(pooled, [layer], "states at the end of prompts").at(layer).double().mean(0)


def _last_inputs(context: FitContext, name: str, items: list[Encoded]) -> Tensor:
    """Inputs of a layer at the prompts' last tokens: float64 [n, in], on the CPU."""
    found = [
        inputs[name][row, one.prompt_end]
        for chosen, inputs in batches_of_inputs(context.host, [name], items, context.batch_size)
        for row, one in enumerate(chosen)
    ]
    return torch.stack(found).double().cpu()
