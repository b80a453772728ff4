"""The edit as MLP units: d units that are linear in the flagged state, and a step for each row of a table.

Behind the flag the normalised state is sqrt(d) (h + C e) / |h + C e|: its length says nothing any more, so a unit whose gate the
flag opens wide is linear in h, at its absolute scale. A table of prototypes is looked up by steps: silu(a (s + b)) -
silu(a (s - b)) is 0 below -b and constant above b, s a separator of the states whose row it is from all others. The way down
is solved by ridge on the exact edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.errors import CompileError
from exporter.targets.stock.solvers import normalised, one_against_rest, ridge, whitening
from steer_modules import ops
from steer_modules.program import Edit

OFF = -100.0
"""What every gate has to stay under where the flag is down: silu of it is 0 to the last bit of anything it is added to."""
OPEN = 1000.0
STEEP = 80.0
HALF = 0.25
SAFETY = 1.5
SEPARATOR_PENALTY = 0.003
SHRINK = 0.03
LINEAR_PENALTY, STEP_PENALTY = 0.3, 1e-3
SAME = 0.9995
"""Rows of a table whose prototypes have at least this cosine are one."""


@dataclass(frozen=True)
class Table:
    """Rows of an edit's table that calibration states use: class of each state [n], and how many classes there are."""

    classes: Tensor
    count: int
    rows: int


@dataclass(frozen=True)
class Units:
    """MLP weights, float64: gate and up [units, d], down [d, units], with how well they do on the flagged states.

    Attributes:
        error: |made - exact| / |exact - unedited| over the calibration states.
        agreement: share of the states whose row of the table is found; 1 without a table.
        norm_ratio: least and largest |made| / |exact|.
    """

    gate: Tensor
    up: Tensor
    down: Tensor
    error: float
    agreement: float
    norm_ratio: tuple[float, float]


def exact_edit(edit: Edit, states: Tensor) -> Tensor:
    """What the program makes of states [n, d], float64."""
    options = {k: v for k, v in edit.section().items() if k not in ("layer", "gate", "op", "positions")}
    tensors = ops.prepare(edit.op, options | {"protect": edit.protect or "none"}, dict(edit.tensors))
    return ops.EDITS[edit.op](states.float(), **options, **tensors).double()


def table_of(edit: Edit, states: Tensor, capacity: int) -> Table | None:
    """Which row each state [n, d] is turned to; None for an edit without a table.

    Rows that point the same way are one class; where they still are more than ``capacity``, the closest are joined.
    """
    if edit.op != "rotate" or edit.target not in ("keyed", "nearest"):
        return None
    ready = ops.prepare_rotate(edit.protect or "none", **edit.tensors)
    if edit.target == "keyed":
        center = ready.get("key_center")
        found = ops.nearest_row(states if center is None else states - center, ready["keys"])
    else:
        basis = ready.get("retain_basis") if edit.protect == "exact" else None
        found = ops.nearest_row(
            states if basis is None else states - states @ basis @ basis.T, ready["prototypes"]
        )
    used, local = found.unique(return_inverse=True)
    groups = _joined(ready["prototypes"][used].double(), capacity)
    return Table(groups[local], int(groups.max()) + 1, len(used))


def _joined(prototypes: Tensor, capacity: int) -> Tensor:
    """Class of each prototype [m]: those closer than SAME are one, and more are joined until at most ``capacity`` are left."""
    same = SAME
    while True:
        groups = torch.full((len(prototypes),), -1)
        count = 0
        for row in range(len(prototypes)):
            if groups[row] < 0:
                close = (prototypes @ prototypes[row] >= same) & (groups < 0)
                groups[close] = count
                count += 1
        if count <= capacity:
            return groups
        same = 1 - (1 - same) * 1.5


def solve_units(
    edit: Edit,
    plain: Tensor,
    flagged: Tensor,
    unflagged: Sequence[Tensor],
    constant: Tensor,
    coordinate: int,
    inner: int,
    eps: float,
) -> Units:
    """MLP units for an edit.

    Args:
        plain: [n, d] states that the exact model edits.
        flagged: [n, d] the same as this layer's MLP meets them, with the flag on.
        unflagged: normalised states [m, d] at which every unit has to be off.
        constant: functional [d], above 0 at all unflagged states.
        coordinate: of the flag.
        inner: units there are.

    Raises:
        CompileError: the MLP has fewer units than the edit needs.
    """
    width = plain.shape[1]
    table = table_of(edit, plain, max((inner - width) // 2, 1))
    if width + (0 if table is None else 2 * table.count) > inner:
        raise CompileError(
            f"the MLP has {inner} units and the state {width} dimensions: no unit is left for the edit"
        )
    exact = exact_edit(edit, plain)
    x = normalised(flagged, eps)
    brake = _Brake.of(constant, x, unflagged, coordinate)
    gate = [brake.held(torch.zeros(1, width, dtype=torch.float64), OPEN).expand(width, -1)]
    up = [torch.eye(width, dtype=torch.float64) / 16]
    agreement = 1.0
    if table is not None:
        separators, agreement = _separators(x, table, brake)
        gate += [brake.held(separators, STEEP * HALF), brake.held(separators, -STEEP * HALF)]
        up += [brake.flat.expand(2 * table.count, -1)]
    gates, ups = torch.cat(gate), torch.cat(up)
    down = _way_down(edit, run_units(x, gates, ups), flagged.double(), exact, coordinate, table)
    gates, ups, down = _padded(gates, inner, 0), _padded(ups, inner, 0), _padded(down, inner, 1)
    made = flagged.double() + run_units(x, gates, ups) @ down.T
    ratio = made.norm(dim=-1) / exact.norm(dim=-1)
    moved = (exact - plain.double()).norm().clamp_min(1e-9)
    error = float((made - exact).norm() / moved)
    return Units(gates, ups, down, error, agreement, (float(ratio.min()), float(ratio.max())))


@dataclass(frozen=True)
class _Brake:
    """Holds functionals down where there is no flag: by a multiple of the constant, which the flag makes up for.

    Attributes:
        constant: [d], without the flag's coordinate.
        flat: [1, d], 1 at flagged states.
        lost: what the constant is at flagged states, in the mean.
    """

    constant: Tensor
    flat: Tensor
    lost: float
    unflagged: Sequence[Tensor]

    @classmethod
    def of(cls, constant: Tensor, x: Tensor, unflagged: Sequence[Tensor], coordinate: int) -> _Brake:
        held = constant.clone()
        held[coordinate] = 0
        flat = torch.zeros(1, x.shape[1], dtype=torch.float64)
        flat[0, coordinate] = 1 / float(x[:, coordinate].mean())
        return cls(held, flat, float((x @ held).mean()), unflagged)

    def held(self, rows: Tensor, level: float) -> Tensor:
        """``rows`` [k, d] with ``level`` added at flagged states, and at most OFF, with SAFETY, at unflagged ones."""
        raised = rows + level * self.flat
        need = torch.zeros(len(rows), dtype=torch.float64)
        for states in self.unflagged:
            floor = (states @ self.constant).clamp_min(0.05)
            need = torch.maximum(need, ((states @ raised.T - SAFETY * OFF) / floor[:, None]).amax(0))
        return raised - need[:, None] * (self.constant - self.lost * self.flat)


def run_units(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """Hidden values [n, units] at normalised states x [n, d]."""
    return torch.nn.functional.silu(x @ gate.T) * (x @ up.T)


def _separators(x: Tensor, table: Table, brake: _Brake) -> tuple[Tensor, float]:
    """A functional [count, d] per class, above 0 at its states, times STEEP; and how often the right one alone is."""
    free = x * (brake.flat[0] == 0)
    middle = free.mean(0)
    white = whitening(free, SHRINK)
    features = torch.cat([(free - middle) @ white, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    stiff = torch.full((features.shape[1],), SEPARATOR_PENALTY, dtype=torch.float64)
    stiff[-1] = 1e-6
    w = one_against_rest(features, table.classes, table.count, stiff)
    wanted = torch.nn.functional.one_hot(table.classes, table.count).bool()
    right = ((features @ w > 0) == wanted).all(1).double().mean()
    rows = (white @ w[:-1]).T * (brake.flat[0] == 0)
    bias = w[-1] - middle @ white @ w[:-1]
    return STEEP * (rows + bias[:, None] * brake.flat), float(right)


def _way_down(
    edit: Edit, hidden: Tensor, flagged: Tensor, exact: Tensor, coordinate: int, table: Table | None
) -> Tensor:
    """The down projection [d, units]: it begins as what is linear in the edit, without the flag; the rest is solved."""
    width = flagged.shape[1]
    linear, steps = hidden[:, :width], hidden[:, width:]
    scale = (linear * flagged).sum(0) / linear.pow(2).sum(0).clamp_min(1e-9)
    known = linear_part(edit, width)
    known[:, coordinate] = 0
    known[coordinate] = 0
    known[coordinate, coordinate] = -1
    known = known * scale
    left = exact - flagged - linear @ known.T
    sizes = linear.pow(2).mean(0).sqrt().clamp_min(1e-9)
    rows, stiff = linear / sizes, torch.full((width,), LINEAR_PENALTY, dtype=torch.float64)
    if table is not None:
        rows = torch.cat(
            [rows, (steps[:, : table.count] - steps[:, table.count :]) / (2 * STEEP * HALF)], dim=1
        )
        stiff = torch.cat([stiff, torch.full((table.count,), STEP_PENALTY, dtype=torch.float64)])
    weights = torch.full((len(rows),), 1000.0 / len(rows), dtype=torch.float64)
    found = ridge(rows, left, weights, stiff).T
    step = found[:, width:] / (2 * STEEP * HALF)
    return torch.cat([known + found[:, :width] / sizes, step, -step], dim=1)


def linear_part(edit: Edit, width: int) -> Tensor:
    """What an edit adds to a state as far as it is linear in it, [d, d]; a whole rotation takes the state away."""
    strength = 1.0 if edit.strength is None else edit.strength
    tensors = {name: tensor.double() for name, tensor in edit.tensors.items()}
    if edit.op == "affine":
        return strength * tensors["left"] @ tensors["right"]
    if edit.op == "project":
        return -strength * tensors["basis"] @ tensors["basis"].T
    whole = edit.op == "rotate" and edit.angle == "fraction" and strength == 1
    return -torch.eye(width, dtype=torch.float64) * (1.0 if whole else 0.0)


def _padded(tensor: Tensor, size: int, dim: int) -> Tensor:
    missing = [0, 0, 0, 0]
    missing[1 if dim == 1 else 3] = size - tensor.shape[dim]
    return torch.nn.functional.pad(tensor, missing)
