"""The inserted layers, from functionals to tensors: one that broadcasts and edits, and where needed one that marks prompt ends.

Between solving and writing stands rounding: the weights are those that are stored, and what has to be zero at the first token
is zero in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.errors import CompileError
from exporter.targets.stock.attention import Broadcast
from exporter.targets.stock.calibration import Calibration, Positions
from exporter.targets.stock.decoder import DecoderShape
from exporter.targets.stock.edit import Units, solve_units
from exporter.targets.stock.gate_classifier import Found, GateClassifier, constant_functional, sink_functional
from exporter.targets.stock.solvers import normalised
from steer_modules.program import Edit

FLAG = 16.0
"""Size of the flag, in lengths of a state: the square of its inverse is how far the MLP is from linear."""
MARK = 4.0
FAR_MARK = 1.0
"""Sizes of a mark: one that is read at once, and one that blocks of the base read before, and should not mind."""
LEAST_MARK = 0.1
"""What part of a mark is one."""
SHARP, RAMP = 2000.0, 500.0
"""Steepness of a marking unit, and the width of its ramp: from evidence 0 to RAMP / SHARP."""
REST = 0.5
"""Evidence at the first token, below 0, in a marking layer."""
CONSTANT_ROUNDS = 8
MOST_MOVED = 0.02
"""Of the largest weight, how far rounding may move another one to make up for a rest."""


@dataclass(frozen=True)
class Mark:
    """A layer without attention, behind ``layer`` of the base, whose MLP marks positions of evidence along one coordinate."""

    layer: int
    classifier: GateClassifier
    coordinate: int
    size: float
    sink: Tensor

    @property
    def resting(self) -> Tensor:
        """The half-spaces [K, d], below 0 at the first token as well."""
        return self.classifier.weights - REST * self.sink

    def weights(self, shape: DecoderShape) -> dict[str, Tensor]:
        """MLP tensors: two units per half-space, a step from 0 to ``size``."""
        w, c = self.resting, self.classifier.constant
        gate = torch.cat([SHARP * w, SHARP * w - RAMP * c])
        down = torch.zeros(shape.width, shape.inner, dtype=torch.float64)
        down[self.coordinate, : len(w)] = self.size / RAMP
        down[self.coordinate, len(w) : 2 * len(w)] = -self.size / RAMP
        return mlp_tensors(gate, c.expand(2 * len(w), -1), down, shape)

    def loudest(self, states: Tensor, eps: float) -> Tensor:
        """What opens the units the widest [n], at states [n, d]: nothing is added below -40."""
        return SHARP * (normalised(states, eps) @ self.resting.T).amax(-1)

    def of(self, states: Tensor, eps: float) -> Tensor:
        """States [n, d] behind this layer, float64."""
        x = normalised(states, eps)
        s = SHARP * x @ self.resting.T
        c = (x @ self.classifier.constant)[:, None]
        rise = torch.nn.functional.silu(s) - torch.nn.functional.silu(s - RAMP * c)
        out = states.double().clone()
        out[:, self.coordinate] += (rise * c).sum(-1) * self.size / RAMP
        return out


@dataclass(frozen=True)
class Steer:
    """The layer that broadcasts the flag and edits."""

    broadcast: Broadcast
    units: Units

    def weights(self, shape: DecoderShape) -> dict[str, Tensor]:
        found = mlp_tensors(self.units.gate, self.units.up, self.units.down, shape)
        return found | self.broadcast.weights(shape)


@dataclass(frozen=True)
class Construction:
    """The layers, and what the checks look at.

    Attributes:
        constant: c, above 0 wherever a unit has to be off.
        sink: normalised state [d] of the first token at the broadcasting layer.
        fired: normalised states [n, d] of the forgotten prompts' ends there.
        raised: normalised states [m, d] that the MLP edits, with the flag that arrives.
    """

    mark: Mark | None
    steer: Steer
    constant: Tensor
    sink: Tensor
    fired: Tensor
    raised: Tensor

    def tensors(self, edited: int, shape: DecoderShape) -> dict[int, list[dict[str, Tensor]]]:
        """Tensors of the inserted layers by suffix, in the dtype of the base; by the layer that they stand behind."""
        behind: dict[int, list[dict[str, Tensor]]] = {}
        if self.mark is not None:
            behind.setdefault(self.mark.layer, []).append(complete(self.mark.weights(shape), shape))
        behind.setdefault(edited, []).append(complete(self.steer.weights(shape), shape))
        return behind


def marking(found: Found, edited: int, states: Mapping[int, Calibration], eps: float) -> Mark | None:
    """The layer that marks prompt ends; None where the edited layer's own attention can read the evidence.

    Args:
        states: of fit and held conversations, behind the layer of the evidence and behind the edited one.
    """
    if len(found.classifier.weights) == 1 and found.layer == edited:
        return None
    here = states[found.layer]
    off = [normalised(part.states, eps) for part in (here.off, here.others)]
    length = float(here.on.states.norm(dim=-1).median())
    coordinate = _quiet_coordinates([here, states[edited]], eps)[1]
    size = (MARK if found.layer == edited else FAR_MARK) * length
    return Mark(
        found.layer, found.classifier, coordinate, size, sink_functional(normalised(here.sink, eps), off)
    )


def construct(
    edit: Edit,
    fit: Calibration,
    classifier: GateClassifier,
    mark: Mark | None,
    behind: tuple[Positions, Positions],
    shape: DecoderShape,
) -> Construction:
    """Solve everything that follows from the evidence.

    Args:
        fit: states behind the edited layer.
        classifier: one half-space for these states, unless they are marked.
        behind: ``steered`` and ``on`` of ``fit`` as they are where prompt ends are marked.
    """
    eps = shape.eps
    steered, on = behind
    length = float(fit.steered.states.norm(dim=-1).median())
    flag_at = next(at for at in _quiet_coordinates([fit], eps) if mark is None or at != mark.coordinate)
    sink = normalised(fit.sink, eps)
    off = [normalised(part.states, eps) for part in (fit.off, fit.others)]
    plain = normalised(fit.steered.states, eps)
    constant = constant_functional(sink, [*off, plain], rounds=CONSTANT_ROUNDS)
    query = constant
    if mark is None:
        raw = classifier.weights[0]
        fired = normalised(on.states, eps)
        seen = fired @ raw > 0
    else:
        along = _along(mark.coordinate, shape.width)
        raw, seen = _read_mark(normalised(on.states, eps), [*off, sink[None]], along, constant)
        fired, query = normalised(on.states, eps), constant + along / shape.width**0.5
    u = rounded(sink_functional(sink, [*off, fired[seen]]), shape.dtype)
    broadcast = Broadcast(
        evidence=balanced(raw - float(raw @ sink) * u, sink, shape.dtype),
        query=query,
        sink=u,
        coordinate=flag_at,
        size=_power_of_two(FLAG * length),
    )
    # The witness reads the first token, the listener the prompt ends that fired.
    arriving = broadcast.size * float((sink - fired[seen].mean(0)) @ u)
    flagged = steered.states.double().clone()
    flagged[:, flag_at] += arriving
    units = solve_units(
        edit, fit.steered.states, flagged, [*off, sink[None]], constant, flag_at, shape.inner, eps
    )
    return Construction(mark, Steer(broadcast, units), constant, sink, fired, normalised(flagged, eps))


def _read_mark(ends: Tensor, off: Sequence[Tensor], along: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    """The functional [d] above 0 at marked prompt ends among ``ends`` [n, d], and which of them are marked [n].

    A tenth of a mark is read: evidence on the ramp, above 0 by little, is evidence.
    """
    highest = max(float((x @ along).max()) for x in off)
    values = ends @ along
    level = highest + LEAST_MARK * (float(values.median()) - highest)
    marked = values > level
    if level <= highest or not marked.any():
        raise CompileError(
            "the marking layer marks too few ends of forget prompts; add fit rows to the recipe"
        )
    return along / level - constant, marked


def complete(found: dict[str, Tensor], shape: DecoderShape) -> dict[str, Tensor]:
    """All tensors that a layer of this base has: what is not given is zero, but a norm's weight is one."""
    tensors = {}
    for name, size in shape.suffixes.items():
        fill = 1.0 if name.endswith("norm.weight") else 0.0
        tensor = found[name] if name in found else torch.full(size, fill, dtype=torch.float64)
        assert tuple(tensor.shape) == tuple(size), (name, tensor.shape, size)
        tensors[name] = tensor.to(shape.dtype).contiguous()
    return tensors


def mlp_tensors(gate: Tensor, up: Tensor, down: Tensor, shape: DecoderShape) -> dict[str, Tensor]:
    """Gate and up rows [k, d] filled up to the MLP's units, which do nothing."""
    missing = (0, 0, 0, shape.inner - len(gate))
    return {
        "mlp.gate_proj.weight": torch.nn.functional.pad(gate, missing),
        "mlp.up_proj.weight": torch.nn.functional.pad(up, missing),
        "mlp.down_proj.weight": down,
    }


def rounded(w: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 values that are exact in ``dtype``."""
    return w.to(dtype).double()


def balanced(w: Tensor, sink: Tensor, dtype: torch.dtype) -> Tensor:
    """``w`` [d] rounded so that w.x0 is zero as nearly as the dtype allows.

    Rounding leaves a rest at the first token, whose state can be a hundred times a common one along a few coordinates; it is
    moved to ever smaller coordinates, which can hold it ever more finely. One that would have to move by much is passed over:
    the functional has to stay what it is.
    """
    w = rounded(w, dtype)
    most = MOST_MOVED * float(w.abs().max())
    for coordinate in sink.abs().argsort(descending=True).tolist():
        rest = float(w @ sink)
        step = rest / float(sink[coordinate]) if sink[coordinate] else torch.inf
        if abs(step) > most:
            continue
        trial = w.clone()
        trial[coordinate] = rounded(w[coordinate] - step, dtype)
        if abs(float(trial @ sink)) < abs(rest):
            w = trial
    return w


def _quiet_coordinates(states: Sequence[Calibration], eps: float) -> tuple[int, int]:
    """The two coordinates of the residual stream that are least used, in the normalised states of every position."""
    parts = [
        part
        for some in states
        for part in (
            some.sink[None],
            some.on.states,
            some.off.states,
            some.others.states,
            some.steered.states,
        )
    ]
    loudest = torch.stack([normalised(part, eps).abs().amax(0) for part in parts]).amax(0)
    first, second = loudest.argsort()[:2].tolist()
    return first, second


def _along(coordinate: int, width: int) -> Tensor:
    row = torch.zeros(width, dtype=torch.float64)
    row[coordinate] = 1
    return row


def _power_of_two(value: float) -> float:
    return float(2 ** round(torch.log2(torch.tensor(value)).item()))
