"""Pre-flight checks: what has to hold, on calibration states and the very weights that are written, before anything is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.targets.stock.attention import GAP, SINK_GAP
from exporter.targets.stock.calibration import Calibration
from exporter.targets.stock.edit import OFF
from exporter.targets.stock.gate_classifier import Decisions
from exporter.targets.stock.layers import Construction
from exporter.targets.stock.solvers import normalised

EXACT = 40.0
"""Logits apart by this much are told apart to the last bit: exp(-40) is lost in any float32 sum with 1."""
LEAST_RECALL = 0.9
MOST_ALARMS = 0.1
MOST_UNSURE = 0.01
LEAST_OFF = 0.8 * OFF
MOST_VARIATION = 0.02
LEAST_IDENTICAL = 0.98
MORE_ROWS = "add fit rows of the kind that is missed to the recipe (near misses, later turns, answers)"


@dataclass(frozen=True)
class Check:
    """One bound: ``measured`` has to be at least, or at most, ``bound``; ``fix`` says what to do where it is not."""

    name: str
    measured: float
    bound: float
    at_least: bool
    fix: str

    @property
    def holds(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def sentence(self) -> str:
        sign = "at least" if self.at_least else "at most"
        return f"{self.name} is {self.measured:.4g}, but must be {sign} {self.bound:.4g}: {self.fix}"


def held_out_estimate(decided: Decisions) -> list[Check]:
    """What evidence that was solved on fit rows alone does on calibrate rows: what users are to expect of new prompts."""
    return [
        Check(
            "held-out recall of the gate classifier on calibrate rows",
            decided.recall,
            LEAST_RECALL,
            True,
            MORE_ROWS,
        ),
        Check(
            "held-out share of retain calibrate rows on which the gate classifier fires",
            decided.alarms,
            MOST_ALARMS,
            False,
            MORE_ROWS,
        ),
    ]


def preflight(
    made: Construction, states: Mapping[int, Calibration], edited: int, eps: float, rotation: float
) -> list[Check]:
    """Every check that needs no model.

    Args:
        states: of fit and held conversations, behind the edited layer and behind the marking one.
        rotation: the least cosine of the rotary pairs in use, over the whole context.
    """
    here = states[edited]
    s = made.steer.broadcast.evidence
    on = made.fired @ s * GAP * rotation
    quiet = _loudest(here, lambda x: normalised(x, eps) @ s * GAP * rotation)
    touched = torch.full_like(quiet, -torch.inf)
    if made.mark is not None:
        mark = made.mark
        touched = _loudest(states[mark.layer], lambda x: mark.loudest(x, eps))
    off = [normalised(part.states, eps) for part in (here.off, here.others)]
    gates = made.steer.units.gate[made.steer.units.gate.any(1)]  # the others are all zero, and add nothing
    open_gate = made.raised @ gates[0]
    witness = max(float((x @ made.steer.broadcast.sink).max()) for x in off)
    return [
        Check("logit gap of the witness", SINK_GAP * (rotation - max(witness, 0.0)), EXACT, True,
              "the first token is too similar to others; prompts need a distinct first token"),
        Check("share of forget conversations that raise the flag", _share(on > EXACT), LEAST_RECALL, True, MORE_ROWS),
        Check("share of retain conversations on which the gate classifier fires", _share((quiet > -EXACT) | (touched > -EXACT)),
              MOST_UNSURE, False, MORE_ROWS),
        Check("share of forget conversations within the soft band", _share(on.abs() < EXACT), MOST_UNSURE, False,
              MORE_ROWS),
        Check("highest gate where the flag is down", max(float((x @ gates.T).max()) for x in off), LEAST_OFF, False,
              "no functional is positive at all states of this layer; edit another layer"),
        Check("variation of the open gate", float(open_gate.std() / open_gate.mean()), MOST_VARIATION, False,
              "the norms of the flagged states differ too much; edit another layer"),
    ]  # fmt: skip


def _loudest(part: Calibration, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The highest value anywhere in each kept conversation."""
    peaks = torch.full((len(part.kinds),), -torch.inf, dtype=torch.float64)
    for chosen in (part.off, part.others):
        peaks = peaks.scatter_reduce(0, chosen.owner, value(chosen.states), "amax")
    return peaks[part.off.owner]


def _share(hits: Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else 0.0
