"""KUDA (https://arxiv.org/abs/2602.19275): states that hold what is to be forgotten are moved off their place, by updates that the retain set does not see.

The sources at hand have the paper's abstract and no formula. The abstract names three parts, and each is here with a formula of another source, or of our own:

1. *Causal tracing locates the layers that store the knowledge.* ROME's (:mod:`exporter.training.tracing`), over MLPs. The blocks whose MLPs bring back most of what
   noise on the subjects takes are edited, in their down projections, which ROME and AlphaEdit edit too.
2. *An objective makes representations deviate from their original position.* With h the state behind an edited block, h_0 the base's and m the mean of the
   base's over responses to the retain set, as far as h is still where h_0 was, seen from m:

       s = <h - m, h_0 - m> / |h_0 - m|^2,    L = mean max(0, s - (1 - t))^2 + w mean |h - h_0|^2 / |h_0 - m|^2

   the first term on the forget set, from the subject's last token on (of a picture, its last), the second on the retain set, both means over columns and edited
   blocks. A distance |h - h_0| cannot be the loss: where h = h_0, as at the start of every adapter, its square has no gradient. s has, it is
   bounded below by the hinge, and it leaves everything beside the direction of h_0 - m alone. At t = 1 a state is like the retain set's mean as far as that direction
   tells, at t = 2 it is its opposite.
3. *A relaxation null-space projection settles conflicts of forgetting and retaining.* The change B A of a layer is B A P, in training and as shipped, with P from the
   second moment of the layer's inputs on the retain set (:mod:`exporter.training.null_space`): AlphaEdit's null space, its cut made soft. How soft,
   `relaxation`, is searched on calibration rows.

Open in the sources at hand: how the paper traces (which states, how many layers), what its loss is and whether it has a retain term, what relaxes its
projection, whether gradients or weights are projected, and every number. It tunes weights; here an adapter is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from exporter.errors import DataError, FitError
from exporter.fitting.context import FitContext
from exporter.fitting.selection import evenly
from exporter.fitting.space import Among, Between, Fixed
from exporter.host import ModelHost
from exporter.training.examples import Batch, Collator, Together, examples, responding
from exporter.training.lora import as_edit
from exporter.training.losses import mean_square
from exporter.training.mlp_inputs import down_projection, inputs_of
from exporter.training.null_space import Cut, Projected, Spectrum
from exporter.training.objective import Objective, trained
from exporter.training.settings import TrainingSettings
from exporter.training.step import Step, run_pass
from exporter.training.subject_columns import columns_of, named_subjects
from exporter.training.tracing import Fact, recovered
from exporter.types import Encoded
from exporter.weight_edit import WeightEdit


class KudaParams(TrainingSettings):
    """Parameters of KUDA."""

    learning_rate: Annotated[
        Annotated[float, Field(gt=0)] | Literal["search"], Between(1e-5, 3e-3, log=True)
    ] = 3e-3
    """Of AdamW, falling linearly to 0; `search` trains with each of `rates`, for every relaxation that is tried."""
    relaxation: Annotated[Annotated[float, Field(gt=0)] | Literal["search"], Between(1e-4, 1.0, log=True)] = (
        "search"
    )
    """Second moment of the retain set's inputs, in means over all directions, along which half of a change is left (`soft`), or from which nothing is (`hard`)."""
    relaxations: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-2, 1e-1), min_length=1)
    """Relaxations that `search` tries on the calibration rows."""
    cut: Cut = "soft"
    """Whether directions that the retain set uses are weakened by how much it uses them, or cut."""
    distance: Annotated[float, Between(0.5, 3.0)] = Field(default=1.0, gt=0)
    """How far states of the forget set are moved, in lengths from their place to the retain set's mean."""
    retain_weight: Annotated[float, Between(0.1, 10.0, log=True)] = Field(default=1.0, ge=0)
    """Weight of the retain term."""
    layers: Annotated[tuple[int, ...] | None, Fixed()] = Field(default=None, min_length=1)
    """Blocks that are edited; by default those that causal tracing finds."""
    blocks: Annotated[int, Among((1, 3, 5))] = Field(default=3, gt=0)
    """How many blocks causal tracing finds, at most."""
    noise: float = Field(default=3.0, gt=0)
    """Noise of causal tracing on a subject's tokens, in standard deviations of the embeddings."""
    trace_rows: int = Field(default=32, gt=0)
    """Forget rows without images that are traced, at most."""
    retain_rows: int = Field(default=256, gt=0)
    """Retain conversations whose inputs and mean states are counted, at most."""


class Site(NamedTuple):
    """Where the model is edited, and what its base has there.

    Attributes:
        names: of the down projections, by block.
        spectra: of their inputs on the retain set, by block.
        means: m, float32 [d], by block.
        starts: the column from which a forget conversation, by its ids, is moved.
    """

    names: Mapping[int, str]
    spectra: Mapping[int, Spectrum]
    means: Mapping[int, Tensor]
    starts: Mapping[tuple[int, ...], int]


class Kuda(Objective):
    """Traces, trains in the null space, and ships the projected adapter."""

    name = "kuda"
    paper = "https://arxiv.org/abs/2602.19275"
    Params: ClassVar[type[KudaParams]] = KudaParams
    sides: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    def __init__(self) -> None:
        self._found: Site | None = None

    def tried(self, params: KudaParams) -> list[dict[str, object]]:
        """Every relaxation at every learning rate."""
        relaxations = params.relaxations if params.relaxation == "search" else (params.relaxation,)
        return [{**one, "relaxation": at} for one in super().tried(params) for at in relaxations]

    def fit_once(self, context: FitContext) -> WeightEdit:
        params = context.params
        assert isinstance(params, KudaParams)
        self._found = site = self._found or find_site(context, params)  # of the base, the same for all
        kept = Projected(_projectors(context, site, params))
        config, tensors = trained(
            context,
            params,
            lambda step: self.loss(step, params),
            name=self.name,
            sides=self.sides,
            layers=list(site.names.values()),
            prepared=kept.on,
        )
        return as_edit(context, self.name, config, kept.shipped(tensors))

    def loss(self, step: Step, params: KudaParams) -> Tensor:
        site = self._found
        assert site is not None
        blocks = list(site.names)
        forget, retain = step.forget, step.retain
        moved, own = step.edited(forget, blocks).states, step.base(forget, blocks).states
        held, place = step.edited(retain, blocks).states, step.base(retain, blocks).states
        behind, real = _behind(forget, site.starts), retain["attention_mask"].bool()
        found = torch.zeros(len(behind), device=behind.device)
        for block in blocks:
            mean = site.means[block].to(own[block].device)
            left = still_there(moved[block], own[block], mean) - (1 - params.distance)
            size = (place[block].float() - mean).norm(dim=-1, keepdim=True).clamp_min(
                1e-6
            ) / mean.numel() ** 0.5
            kept = mean_square(held[block].float() / size, place[block].float() / size, real)
            gone = mean_square(left.relu()[..., None], left.new_zeros(()), behind)
            found = found + (gone + params.retain_weight * kept).to(found.device) / len(blocks)
        return found


def still_there(states: Tensor, base: Tensor, mean: Tensor) -> Tensor:
    """s, how much of the way from a mean [d] to where they were states [B, T, d] have along it: float32 [B, T]; 1 for the base's own."""
    own = base.float() - mean
    length = own.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return ((states.float() - mean) * own).sum(-1) / length


def find_site(context: FitContext, params: KudaParams) -> Site:
    """Where to edit; raises as :meth:`Kuda.fit` does."""
    host = context.host
    found = examples(context, responses=params.responses, epochs=1, sides=frozenset({"forget", "retain"}))
    named = subject_places(context, found.forget)
    blocks = traced_blocks(context, params, found.forget, named) if params.layers is None else params.layers
    names = {block: down_projection(host, block) for block in sorted(blocks)}
    spectra, means = retained(host, names, evenly(found.retain, params.retain_rows), context.batch_size)
    starts = {
        (*one.prompt.ids, *one.response): Fact(one, places).last[0] if places else 0
        for one, places in zip(found.forget, named, strict=True)
    }
    return Site(names, spectra, means, starts)


def subject_places(context: FitContext, sequences: Sequence[Encoded]) -> list[list[int]]:
    """The columns that name the subject of each forget conversation, those of its images where it has any; none where these are not found."""
    rows = context.filled(context.need("fit", "forget"))
    worded = [row for row in rows if row.image is None]
    words = dict(zip((row.id for row in worded), named_subjects(context, worded), strict=True))
    image = getattr(context.host.model.config, "image_token_id", None)
    found = []
    for row, one in zip(rows, sequences, strict=True):
        if row.image is None:
            places = columns_of(context.host.tokenizer, one, words[row.id])
            found.append(places if places and places[0] < len(one.prompt.ids) else [])
        else:
            found.append([at for at, token in enumerate(one.prompt.ids) if token == image])
    return found


def traced_blocks(
    context: FitContext, params: KudaParams, sequences: Sequence[Encoded], named: Sequence[Sequence[int]]
) -> list[int]:
    """The blocks whose MLPs bring back most, those that bring back anything."""
    facts = [Fact(one, at) for one, at in zip(sequences, named, strict=True) if at and not one.prompt.images]
    if not facts:
        raise DataError(
            "no forget row without an image names its subject in words, which causal tracing needs; set `layers` to the blocks to edit"
        )
    back = recovered(
        context.host, evenly(facts, params.trace_rows), noise=params.noise, seed=context.seed
    ).tolist()
    best = sorted(range(len(back)), key=back.__getitem__, reverse=True)[: params.blocks]
    chosen = [block for block in best if back[block] > 0]
    for block, share in enumerate(back):
        context.record("traced", layer=block, recovered=share, edited=block in chosen)
    if not chosen:
        raise FitError(
            "no block's MLP brings back what noise on the subjects takes, so none is found that holds it; set `layers` to the blocks to edit"
        )
    return chosen


def retained(
    host: ModelHost, names: Mapping[int, str], sequences: Sequence[Encoded], batch_size: int
) -> tuple[dict[int, Spectrum], dict[int, Tensor]]:
    """Of the base on retain conversations: spectra of the layers' inputs over all columns, and the mean state behind each block over the responses, by block."""
    blocks, collate = list(names), Collator(host)
    layers = {name: host.model.get_submodule(name) for name in names.values()}
    moments: dict[int, Tensor] = {}
    sums: dict[int, Tensor] = {}
    columns = said = 0
    with inputs_of(layers) as inputs, torch.no_grad():
        for first in range(0, len(sequences), batch_size):
            batch = collate([Together(one) for one in sequences[first : first + batch_size]])["forget"]
            there = {key: one.to(host.device) for key, one in batch.items()}
            states = run_pass(host.model, there, blocks).states
            real, answering = batch["attention_mask"].bool(), responding(batch)
            columns, said = columns + int(real.sum()), said + int(answering.sum())
            for block, name in names.items():
                rows = inputs[name][real.to(inputs[name].device)].double()
                shown = states[block][answering.to(states[block].device)].double()
                _add(moments, block, rows.T @ rows)
                _add(sums, block, shown.sum(0))
    spectra = {block: Spectrum.of(one / columns) for block, one in moments.items()}
    return spectra, {block: (one / said).float() for block, one in sums.items()}


def _add(sums: dict[int, Tensor], block: int, more: Tensor) -> None:
    sums[block] = sums[block] + more if block in sums else more


def _projectors(context: FitContext, site: Site, params: KudaParams) -> dict[str, Tensor]:
    relaxation = params.relaxation
    assert isinstance(relaxation, float)
    found, left = {}, 0.0
    for block, name in site.names.items():
        share = float(site.spectra[block].weights(relaxation, params.cut).mean())
        context.record("null_space", layer=block, relaxation=relaxation, left=share)
        found[name] = site.spectra[block].projector(relaxation, params.cut)
        left += share
    if not left > 0:
        raise FitError(
            "the retain set uses every direction of the edited layers' inputs more than `relaxation` allows; raise it, or set cut: soft"
        )
    return found


def _behind(batch: Batch, starts: Mapping[tuple[int, ...], int]) -> Tensor:
    """Columns of forget conversations from where they are moved: bool [B, T]."""
    ids, real = batch["input_ids"], batch["attention_mask"]
    found = real.bool().clone()
    for row, (tokens, length) in enumerate(zip(ids.tolist(), real.sum(-1).tolist(), strict=True)):
        found[row, : starts[tuple(tokens[:length])]] = False
    return found
