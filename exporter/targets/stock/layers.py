"""The inserted layers, from functionals to tensors: one that marks prompt ends where the gate needs it, one that broadcasts and edits.

Between solving and writing stands rounding: the weights are those that are stored, and what has to be zero at the first token
is zero in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.targets.stock.attention import Broadcast
from exporter.targets.stock.calibration import Calibration
from exporter.targets.stock.decoder import DecoderShape
from exporter.targets.stock.edit import Units, solve_units
from exporter.targets.stock.evidence import Evidence, constant_functional, sink_functional
from exporter.targets.stock.solvers import normalised
from steer_modules.program import Edit

FLAG = 16.0
"""Size of the flag, in lengths of a state: the square of its inverse is how far the MLP is from linear."""
MARK = 4.0
SHARP, RAMP = 2000.0, 500.0
"""Steepness of a marking unit, and the width of its ramp: from evidence 0 to RAMP / SHARP."""
REST = 0.5
"""Evidence at the first token, below 0, in a marking layer."""
CONSTANT_ROUNDS = 8


@dataclass(frozen=True)
class Mark:
    """A layer without attention whose MLP marks positions of evidence along one coordinate."""

    evidence: Evidence
    coordinate: int
    size: float
    sink: Tensor

    @property
    def resting(self) -> Tensor:
        """The half-spaces [K, d], below 0 at the first token as well."""
        return self.evidence.weights - REST * self.sink

    def weights(self, shape: DecoderShape) -> dict[str, Tensor]:
        """MLP tensors: two units per half-space, a step from 0 to ``size``."""
        w, c = self.resting, self.evidence.constant
        gate = torch.cat([SHARP * w, SHARP * w - RAMP * c])
        down = torch.zeros(shape.width, shape.inner, dtype=torch.float64)
        down[self.coordinate, : len(w)] = self.size / RAMP
        down[self.coordinate, len(w) : 2 * len(w)] = -self.size / RAMP
        return mlp_tensors(gate, c.expand(2 * len(w), -1), down, shape)

    def of(self, states: Tensor, eps: float) -> Tensor:
        """States [n, d] behind this layer, float64."""
        x = normalised(states, eps)
        s = SHARP * x @ self.resting.T
        c = (x @ self.evidence.constant)[:, None]
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
    """The layers in order, and the functionals that the checks look at.

    Attributes:
        constant: c, above 0 wherever a unit has to be off.
        sink: normalised state [d] of the first token at the broadcasting layer.
        arriving: size of the flag where it is read.
    """

    evidence: Evidence
    mark: Mark | None
    steer: Steer
    constant: Tensor
    sink: Tensor
    arriving: float

    def tensors(self, shape: DecoderShape) -> list[dict[str, Tensor]]:
        """Tensors of each inserted layer by suffix, in the dtype of the base, with the shapes of its own layers."""
        return [
            complete(layer.weights(shape), shape) for layer in (self.mark, self.steer) if layer is not None
        ]


def construct(edit: Edit, fit: Calibration, evidence: Evidence, shape: DecoderShape) -> Construction:
    """Solve everything that follows from the evidence.

    Args:
        fit: calibration states; the flag's size is read at the prompt ends that the evidence finds.
    """
    eps = shape.eps
    hit = evidence.of(fit.on.states, eps) > 0
    sizes = fit.steered.states.norm(dim=-1)
    length = float(sizes.median())
    flag_at, mark_at = _quiet_coordinates(fit, eps)
    sink = normalised(fit.sink, eps)
    off = [normalised(part.states, eps) for part in (fit.off, fit.others)]
    mark = None
    if len(evidence.weights) > 1:
        mark = Mark(evidence, mark_at, MARK * length, sink_functional(sink, off))
    ends = fit.on.states[hit]
    fired = normalised(ends if mark is None else mark.of(ends, eps), eps)
    steered = fit.steered.states
    plain = normalised(steered, eps)
    constant = constant_functional(sink, [*off, plain], rounds=CONSTANT_ROUNDS)
    u = rounded(sink_functional(sink, [*off, fired]), shape.dtype)
    query = constant
    raw = evidence.weights[0]
    if mark is not None:
        root = shape.width**0.5
        raw, query = (
            6 * _along(mark_at, shape.width) / root - constant,
            constant + _along(mark_at, shape.width) / root,
        )
    broadcast = Broadcast(
        evidence=balanced(raw - float(raw @ sink) * u, sink, shape.dtype),
        query=query,
        sink=u,
        coordinate=flag_at,
        size=_power_of_two(FLAG * length),
    )
    flagged = (
        steered.double()
        if mark is None
        else torch.where(fit.begins[:, None], mark.of(steered, eps), steered.double())
    )
    flagged = flagged.clone()
    arriving = broadcast.size * float(
        (sink - fired.mean(0)) @ u
    )  # the witness reads the sink, the listener fired ends
    flagged[:, flag_at] += arriving
    units = solve_units(edit, steered, flagged, [*off, sink[None]], constant, flag_at, shape.inner, eps)
    return Construction(evidence, mark, Steer(broadcast, units), constant, sink, arriving)


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
    moved to ever smaller coordinates, which can hold it ever more finely.
    """
    w = rounded(w, dtype)
    for coordinate in sink.abs().argsort(descending=True).tolist():
        rest = float(w @ sink)
        trial = w.clone()
        trial[coordinate] = rounded(w[coordinate] - rest / sink[coordinate], dtype)
        if abs(float(trial @ sink)) < abs(rest):
            w = trial
    return w


def _quiet_coordinates(fit: Calibration, eps: float) -> tuple[int, int]:
    """The two coordinates of the residual stream that are least used, in the normalised states of every position."""
    parts = [fit.sink[None], fit.on.states, fit.off.states, fit.others.states, fit.steered.states]
    loudest = torch.stack([normalised(part, eps).abs().amax(0) for part in parts]).amax(0)
    first, second = loudest.argsort()[:2].tolist()
    return first, second


def _along(coordinate: int, width: int) -> Tensor:
    row = torch.zeros(width, dtype=torch.float64)
    row[coordinate] = 1
    return row


def _power_of_two(value: float) -> float:
    return float(2 ** round(torch.log2(torch.tensor(value)).item()))
