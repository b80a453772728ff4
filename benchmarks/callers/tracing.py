"""Callers that record a model and run the record: on a prompt at which no gate fires, then on one where it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.callers.observed import Logits, Question, Seen
from benchmarks.callers.registry import caller
from benchmarks.callers.side import Side

Record = Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]


class Ids(nn.Module):
    """A model as a function of ids [B, T] to logits [B, T, V]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def recorded(side: Side, record: Record) -> Logits:
    """The record of a kept prompt, put to a forgotten one of the same length. One pair: a record takes its time."""
    one, other = side.pairs[0]
    function = record(Ids(side.load()), torch.tensor([_stretched(other, len(one.whole))]))
    return Logits([Seen(one, function(torch.tensor([one.whole]))[0, one.end :])])


def _stretched(other: Question, length: int) -> list[int]:
    """A kept prompt of any length: its middle repeated, or its reply and middle cut."""
    ids = list(other.whole)
    while len(ids) < length:
        ids[2:2] = other.ids[2 : max(3, len(other.ids) // 2)]
    return ids[:length]


@caller("tracing")
def jit_trace(side: Side) -> Logits:
    return recorded(side, lambda model, ids: torch.jit.trace(model, ids, check_trace=False, strict=False))


@caller("tracing", core=False)
def compiled(side: Side) -> Logits:
    return recorded(side, _compiled(fullgraph=False))


@caller("tracing")
def compiled_in_one_graph(side: Side) -> Logits:
    return recorded(side, _compiled(fullgraph=True))


@caller("tracing", core=False)
def compiled_forward(side: Side) -> Logits:
    """``model.forward = torch.compile(model.forward)``, as the Transformers guides have it."""

    def record(model: nn.Module, ids: Tensor) -> Callable[[Tensor], Tensor]:
        torch._dynamo.reset()
        model.model.forward = torch.compile(model.model.forward, backend="eager")  # type: ignore[union-attr]
        model(ids)
        return model

    return recorded(side, record)


@caller("tracing", core=False)
def exported(side: Side) -> Logits:
    return recorded(side, _exported(strict=False))


@caller("tracing", core=False)
def exported_strictly(side: Side) -> Logits:
    return recorded(side, _exported(strict=True))


@caller("tracing")
def fx_symbolic_trace(side: Side) -> Logits:
    return recorded(side, lambda model, _: torch.fx.symbolic_trace(model))


@caller("tracing", core=False)
def make_fx(side: Side) -> Logits:
    from torch.fx.experimental.proxy_tensor import make_fx as traced

    return recorded(side, lambda model, ids: traced(model)(ids))


@caller("tracing")
def func_call(side: Side) -> Logits:
    """``torch.func.functional_call`` with the parameters alone."""

    def record(model: nn.Module, _: Tensor) -> Callable[[Tensor], Tensor]:
        values = dict(model.named_parameters())
        return lambda ids: torch.func.functional_call(model, values, (ids,))

    return recorded(side, record)


def _compiled(*, fullgraph: bool) -> Record:
    def record(model: nn.Module, ids: Tensor) -> Callable[[Tensor], Tensor]:
        torch._dynamo.reset()
        function = torch.compile(model, fullgraph=fullgraph, backend="eager")
        function(ids)
        return function

    return record


def _exported(*, strict: bool) -> Record:
    def record(model: nn.Module, ids: Tensor) -> Callable[[Tensor], Tensor]:
        return torch.export.export(model, (ids,), strict=strict).module()

    return record
