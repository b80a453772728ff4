"""The tensors of every part at every layer, fitted once on fit rows; a combination of them becomes a steering program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from benchmarks.r_muse_parts.combination import Combination
from benchmarks.r_muse_parts.resumed import resumed_states
from exporter.errors import FitError
from exporter.fitting.calibrate import spread_rows
from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Contrast, Pooling, Spans, forget_contrast, retain_contrast
from exporter.fitting.keys import key_tables
from exporter.fitting.refusals import (
    NaturalRefusal,
    natural_refusals,
    natural_replies,
    said_states,
    wordings,
)
from exporter.fitting.selection import plain, spread
from exporter.fitting.subspaces import energy_basis, orient, right_singular, unit
from steer_modules.program import Edit, Gate, SteeringProgram

ROWS, PROTOTYPES = 192, 64
"""Rows that contrasts are made from, and pooled prototypes, as `r_muse` has them."""


class Parts:
    """What is fitted once and shared between combinations.

    Args:
        layers: every block that a combination may edit.
        tables: ``prefill_tokens`` and ``pairs`` of the key tables (:func:`exporter.fitting.keys.key_tables`).
    """

    def __init__(self, context: FitContext, layers: tuple[int, ...], tables: Mapping[str, int]) -> None:
        self.context = context
        self.wordings = wordings(context)
        self.natural = natural_refusals(context, self.wordings, layers)
        forget = spread(plain(context.need("fit", "forget")), ROWS)
        kept = spread(plain(context.need("fit", "retain", "reasoning")), ROWS)
        self.forget: dict[tuple[str, str], dict[int, Contrast]] = {}
        for name, positives in (("forced", []), ("natural", natural_replies(context, self.natural))):
            for pooling in ("means", "openings"):
                self.forget[name, pooling] = forget_contrast(
                    context,
                    forget,
                    self.wordings,
                    layers,
                    positives=positives,
                    pooling=cast("Pooling", pooling),
                )
        self.retain = retain_contrast(context, kept, layers)
        self.resumed = resumed_states(context, self.wordings, layers)
        self.tables = key_tables(context, self.natural, layers, **tables)
        self.begun = [_begun(context, one) for one in self.natural]

    def program(self, one: Combination, gate: Gate | None) -> SteeringProgram:
        """The combination behind a gate; it edits its layer and those behind it."""
        layers = range(one.layer, min(one.layer + one.depth, self.context.host.num_layers))
        edits = [self._edit(one, layer, gate, len(layers)) for layer in layers]
        return self.context.program("r_muse_parts", [] if gate is None else [gate], edits)

    def retain_basis(self, layer: int, energy: float, *, centred: bool) -> Tensor:
        """[d,r]: the retain subspace."""
        return energy_basis(self.retain[layer].hybrid(centred=centred), energy)

    def _edit(self, one: Combination, layer: int, gate: Gate | None, shared_by: int) -> Edit:
        name, positions = (None, "all") if gate is None else (gate.name, "from_gate")
        given = None if one.angle == "calibrated" else float(one.angle) / shared_by
        if one.target == "add":
            tensors = {"vector": self._direction(replace(one, target="mean"), layer)}
            return Edit(layer, name, "add", positions, given, tensors=tensors)
        return Edit(
            layer,
            name,
            "rotate",
            positions,
            given,
            target=one.target if one.target in ("nearest", "keyed") else "direction",
            angle="calibrated" if given is None else "fraction",
            protect=one.protect,
            sign="state" if one.target == "svd" else None,
            tensors=self._tensors(one, layer),
        )

    def _tensors(self, one: Combination, layer: int) -> dict[str, Tensor]:
        tensors = {}
        if one.protect != "none":
            tensors["retain_basis"] = self.retain_basis(layer, one.energy, centred=one.target == "svd")
        if one.target == "keyed":
            keys, tensors["prototypes"] = self._table(one, layer)
            center = self.tables[layer].center
            return {**tensors, "keys": keys - center, "key_center": center}
        if one.target == "nearest" or one.angle == "calibrated":
            tensors["prototypes"] = self._prototypes(one, layer)
        if one.target != "nearest":
            tensors["direction"] = self._direction(one, layer)
        return tensors

    def _direction(self, one: Combination, layer: int) -> Tensor:
        """[d]: from memory to refusal, but for the paper's, whose sign is the state's."""
        found = self.forget[one.positives, one.pooling][layer]
        if one.target == "mean":
            return _mean(found, one.spans)
        hybrid = found.hybrid(centred=one.target == "svd", spans=cast("Spans", one.spans))
        first = right_singular(hybrid)[1][:, 0]
        return (first if one.target == "svd" else orient(first, hybrid.mean(0))).contiguous()

    def _prototypes(self, one: Combination, layer: int) -> Tensor:
        if one.prototypes not in ("positions", "resumed"):
            positives = self.forget["natural" if one.prototypes == "natural-pooled" else "forced", "means"]
            return unit(spread_rows(positives[layer].positive, PROTOTYPES))
        said = said_states(self.natural, layer)
        return torch.cat([said, self.resumed[layer]]) if one.prototypes == "resumed" else said

    def _table(self, one: Combination, layer: int) -> tuple[Tensor, Tensor]:
        """Keys [m,d] and prototypes [m,d]; pooled: one of each for a span of a wording, single: one prototype for every key."""
        table = self.tables[layer]
        thinks = table.position < torch.tensor(self.begun)[table.wording]
        used = {"both": thinks | ~thinks, "reasoning": thinks, "answer": ~thinks}[one.spans]
        if not bool(used.any()):
            raise FitError("the refusals have no reasoning, so `spans` cannot be reasoning")
        keys, prototypes = table.keys[used], table.prototypes[used]
        if one.prototypes == "positions":
            return keys, prototypes
        if one.prototypes == "single":
            return keys, prototypes.mean(0, keepdim=True).expand_as(keys).contiguous()
        kinds = (2 * table.wording + thinks.long())[used]
        members = [kinds == kind for kind in kinds.unique()]
        return torch.stack([keys[own].mean(0) for own in members]), torch.stack(
            [prototypes[own].mean(0) for own in members]
        )


def _mean(contrast: Contrast, spans: str) -> Tensor:
    parts = {"answer": contrast.answer, "reasoning": contrast.reasoning}
    chosen = [one.mean(0) for name, one in parts.items() if spans in ("both", name) and one is not None]
    if not chosen:
        raise FitError("the replies have no reasoning, so `spans` cannot be reasoning")
    return torch.stack(chosen).sum(0)


def _begun(context: FitContext, refusal: NaturalRefusal) -> int:
    """How many tokens of a refusal stand before its answer."""
    row = plain(context.need("fit", "forget"))[0]
    said = refusal.wording
    encoded = context.chat.encode(row, answer=said.answer, reasoning=said.reasoning or "")
    assert encoded.answer is not None
    return encoded.answer.start - encoded.prompt_end - 1
