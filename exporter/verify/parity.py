"""Whether another target computes what a steered checkpoint computes: logits, gates and greedy tokens, step by step.

The checkpoint runs first and says its greedy tokens; the other side is led along the same tokens, so that one early difference does
not hide the rest. Gates are left to decide, forced off, forced on, and forced differently for the rows of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import DynamicCache

from exporter.host import ModelHost
from exporter.types import Encoded, Prompt, Trace

STEPS = 32
BATCHES = (1, 2, 5)
GATES = ("decided", "off", "on", "mixed")
TOLERANCE = {"fp32": (1e-4, 1e-5), "fp16": (1e-4, 2e-2)}
"""Largest difference of a logit: absolute, or as a share of the largest logit, whichever is more. Two right computations in float32
differ by some 3e-6 of the largest logit, so a model with logits of 40 passes 1e-4 without a fault (docs/onnx.md has the figures).
Quantised variants have no tolerance: what they lose is counted in replies."""


class Replays(Protocol):
    """What is needed of the other side."""

    def replay(self, prompts: Sequence[Prompt], reference: Trace, gates: np.ndarray | None) -> Trace: ...


@dataclass(frozen=True)
class Comparison:
    """One batch under one setting of the gates.

    Attributes:
        logits: largest absolute difference of a logit over prompt and steps; ``scale`` the largest logit.
        steps: compared; ``tokens`` of them whose most likely token is the same.
        gates: values compared, one for each gate at each column; ``gates_equal`` of them the same.
        missed: gates that are on in the checkpoint and not in the other, at the last column of a prompt and at the very last.
    """

    kind: str
    batch: int
    gate: str
    logits: float
    scale: float
    steps: int
    tokens: int
    gates: int
    gates_equal: int
    missed: int


def compare(
    host: ModelHost, others: Mapping[str, Replays], prompts: Mapping[str, Sequence[Prompt]], forced: bool
) -> dict[str, list[Comparison]]:
    """Every batch and gate setting, for each of the other sides by name.

    Args:
        host: the checkpoint, steered or with an edit in its weights, in float32.
        prompts: by kind, "text" or "image"; as many as the largest batch.
        forced: the other sides take gates from outside; where they do not, gates are only left to decide.
    """
    found: dict[str, list[Comparison]] = {name: [] for name in others}
    count = len(host.model.steering.gate_names) if hasattr(host.model, "steering") else 0
    for kind, gate, batch in _settings(prompts, forced and count > 0):
        gates = _gates(gate, len(batch), count)
        reference = trace(host, batch, gates)
        for name, other in others.items():
            found[name].append(_compared(kind, gate, reference, other.replay(batch, reference, gates)))
    return found


def trace(host: ModelHost, prompts: Sequence[Prompt], gates: np.ndarray | None) -> Trace:
    """What the checkpoint computes: one pass over the prompts, then greedy steps from its cache."""
    inputs = host.batch([Encoded(prompt) for prompt in prompts], "left")
    mask = inputs["attention_mask"]
    cache = DynamicCache(config=host.model.config)
    given = {} if gates is None else {"steering_gate": torch.from_numpy(gates)}
    if "image_grid_thw" not in inputs and "mm_token_type_ids" not in inputs:
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        out = host.model(**inputs, **given, past_key_values=cache, use_cache=True)
        prefill, logits, gate_values = (
            out.logits.float(),
            [out.logits[:, -1].float()],
            [_gates_of(out, out.logits)],
        )
        for _ in range(STEPS):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            following = {**given, "attention_mask": mask}
            if "position_ids" in given:
                following["position_ids"] = mask.sum(-1, keepdim=True) - 1
            token = logits[-1].argmax(-1, keepdim=True)
            out = host.model(input_ids=token, **following, past_key_values=cache, use_cache=True)
            logits.append(out.logits[:, -1].float())
            gate_values.append(_gates_of(out, out.logits))
    stacked = torch.stack(logits, dim=1).numpy()
    real = inputs["attention_mask"].bool().numpy()
    at_columns = torch.cat(gate_values, dim=1).float().numpy()
    return Trace(prefill.numpy(), real, stacked, stacked.argmax(-1), at_columns)


def _gates_of(out: object, logits: torch.Tensor) -> torch.Tensor:
    """Gates [B, T, G] of a pass; G is 0 of a model that was not steered, whose weights were edited."""
    gates: torch.Tensor | None = getattr(out, "steering_gate", None)
    return logits.new_zeros(*logits.shape[:2], 0) if gates is None else gates


def table(found: Sequence[Comparison], dtype: str) -> dict[str, object]:
    """Sums over all settings, and what is wrong with them.

    Returns:
        ``logits`` (largest difference), ``relative`` (of the largest logit), ``tokens`` and ``gates`` (equal, of how many),
        ``failures``: one line each, none where the side is as good as its dtype must be.
    """
    steps, gates = sum(one.steps for one in found), sum(one.gates for one in found)
    tokens, gates_equal = sum(one.tokens for one in found), sum(one.gates_equal for one in found)
    missed = sum(one.missed for one in found)
    worst = max(one.logits for one in found)
    relative = max(one.logits / one.scale for one in found)
    failures = []
    if dtype in TOLERANCE:
        absolute, share = TOLERANCE[dtype]
        over = [one for one in found if not one.logits <= max(absolute, share * one.scale)]
        if over:
            failures.append(
                f"logits differ by {worst:.3g} ({relative:.3g} of the largest), more than {absolute:g} and {share:g}"
            )
        if gates_equal < gates:
            failures.append(f"gates differ at {gates - gates_equal} of {gates} columns")
    if dtype == "fp32" and tokens < steps:
        failures.append(f"{steps - tokens} of {steps} greedy tokens differ")
    if missed:
        failures.append(f"{missed} gates that are on in the checkpoint are off")
    return {
        "logits": worst,
        "relative": relative,
        "tokens": [tokens, steps],
        "gates": [gates_equal, gates],
        "missed_gates": missed,
        "settings": len(found),
        "failures": failures,
    }


def _settings(
    prompts: Mapping[str, Sequence[Prompt]], forced: bool
) -> Iterator[tuple[str, str, Sequence[Prompt]]]:
    for kind, some in prompts.items():
        for size in BATCHES:
            for gate in GATES if forced else GATES[:1]:
                if len(some) >= size and not (gate == "mixed" and size == 1):
                    yield kind, gate, some[:size]


def _gates(setting: str, batch: int, count: int) -> np.ndarray | None:
    if setting == "decided":
        return None
    rows = np.arange(batch)[:, None] % 2 if setting == "mixed" else np.full((batch, 1), setting == "on")
    return np.broadcast_to(rows, (batch, count)).astype(np.float32).copy()


def _compared(kind: str, gate: str, reference: Trace, found: Trace) -> Comparison:
    over_prompt = np.abs(found.prefill - reference.prefill)[reference.real]
    over_steps = np.abs(found.logits - reference.logits)
    differences = float(max(over_prompt.max(), over_steps.max()))
    steps = reference.tokens.shape[1] - 1
    real = np.concatenate([reference.real, np.ones((len(reference.real), steps), bool)], axis=1)
    wanted, gates = reference.gates[real], found.gates[real]
    same = wanted == gates
    return Comparison(
        kind=kind,
        batch=len(reference.tokens),
        gate=gate,
        logits=differences if np.isfinite(differences) else float("inf"),
        scale=max(1.0, float(np.abs(reference.logits).max())),
        steps=reference.tokens.size,
        tokens=int((reference.tokens == found.tokens).sum()),
        gates=same.size,
        gates_equal=int(same.sum()),
        missed=int(((reference.gates > 0) & (found.gates <= 0))[:, [-1 - steps, -1]].sum()),
    )
