"""Turns the arguments of one forward pass into its SteeringCall, and writes what was decided onto the cache.

A gate value is, in this order: what ``steering_gate`` says, what the cache bears, what the prompt's state says now.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .call import GateState, SteeringCall, shares

_STATE = "steering_state"


def resolve_call(
    steering: Any,
    arguments: dict[str, Any],
    steering_gate: Tensor | None,
    steering_prompt_end: Tensor | None,
    steering_mask: Tensor | None,
) -> SteeringCall:
    """The call of a forward pass with these named ``arguments`` of the stock model.

    Raises:
        ValueError: a mask, gate or prompt end of the wrong shape; a cache that was not filled by a steered model; a
            prompt end outside the columns at hand; packed sequences.
    """
    tracing = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    tokens = arguments.get("input_ids")
    tokens = arguments.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        raise ValueError("a steered model needs input_ids or inputs_embeds")
    if arguments.get("cu_seq_lens_q") is not None:
        raise ValueError(
            "packed sequences (cu_seq_lens) hide where each prompt ends; give a steered model one prompt per row"
        )
    batch, length, device = tokens.shape[0], tokens.shape[1], tokens.device
    cache = arguments.get("past_key_values")
    past = _past_length(cache, tracing)
    state, ours = _state_on(cache, past, batch, tracing)
    if state is not None and length == 1 and (steering_gate is None or steering_gate is state.gate):
        return _next_token(steering.pooled_gates, past, state, tracing)
    mask = _padding(arguments.get("attention_mask"), steering_mask, past, length)
    end = _prompt_end(steering_prompt_end, arguments.get("labels"), mask, past, length, batch, device)

    call = SteeringCall(steering.pooled_gates, past, end, end, mask, tracing=tracing)
    if state is not None:
        call.first_end, call.behind_prompt = state.first_end.to(device), True
    _give_gates(call, steering_gate, state, batch)
    if state is None and call.given is not None and call.settled and not _is_empty(past):
        call.first_end, call.behind_prompt = torch.full_like(end, past - 1), True
    if not tracing and state is None and not _is_empty(past) and steering_gate is None and not ours:
        raise ValueError(
            "the past_key_values given were not filled by this steered model, so its gates are unknown; start from an "
            "empty cache, or pass steering_gate"
        )
    if call.behind_prompt and length == 1:
        call.mask = None
    if (
        not call.settled
        and call.names
        and not tracing
        and bool(((end < past) | (end >= past + length)).any())
    ):
        raise ValueError(
            f"steering_prompt_end {end.tolist()} is outside the columns {past} to {past + length - 1} of this pass"
        )
    call.take_given()
    return call


def _next_token(names: tuple[str, ...], past: Any, state: GateState, tracing: bool) -> SteeringCall:
    """One new token behind a prompt whose gates are known: nothing is to be decided."""
    call = SteeringCall(names, past, state.first_end, state.first_end, None, state.gate, tracing=tracing)
    call.settled, call.on, call.behind_prompt = True, state.on, True
    call.take_given()
    return call


def remember(cache: Any, call: SteeringCall, gate: Tensor) -> Tensor:
    """Writes the gates onto the cache; returns the tensor that stands there, so that it is known again."""
    if cache is None:
        return gate
    state = getattr(cache, _STATE, None)
    if call.settled and isinstance(state, GateState) and call.given is state.gate:
        return state.gate
    on = None if call.tracing else shares(gate)
    last_end = None if call.tracing else int(call.first_end.max())
    setattr(cache, _STATE, GateState(gate, call.first_end, on, last_end))
    return gate


def _is_empty(past: Any) -> bool:
    return isinstance(past, int) and past == 0


def _past_length(cache: Any, tracing: bool) -> Any:
    if cache is None:
        return 0
    length = cache.get_seq_length()
    return length if tracing else int(length)


def _state_on(cache: Any, past: Any, batch: int, tracing: bool) -> tuple[GateState | None, bool]:
    """What a non-empty cache bears, and whether a steered model filled it.

    A cache cut back into its first prompt bears nothing any more, though a steered model filled what is left.
    """
    state = getattr(cache, _STATE, None) if not _is_empty(past) else None
    if not isinstance(state, GateState):
        return None, False
    if not tracing and state.last_end is not None and past <= state.last_end:
        return None, True
    if state.gate.shape[0] != batch:
        raise ValueError(
            f"the cache bears gates of {state.gate.shape[0]} rows, but this batch has {batch}; repeat or select rows of a "
            "cache only before its first use"
        )
    return state, True


def _padding(attention_mask: Any, steering_mask: Tensor | None, past: Any, length: int) -> Tensor | None:
    """Non-padding columns [B, T] of this pass, or None where nothing says."""
    mask = (
        attention_mask if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 else steering_mask
    )
    if mask is None:
        return None
    if not torch.compiler.is_compiling() and mask.shape[1] != past + length:
        raise ValueError(
            f"attention_mask has {mask.shape[1]} columns, but the cache holds {past} and {length} are given; it covers them all"
        )
    return mask[:, -length:].bool()


def _prompt_end(
    given: Tensor | None,
    labels: Any,
    mask: Tensor | None,
    past: Any,
    length: int,
    batch: int,
    device: torch.device,
) -> Tensor:
    """Absolute column [B] of the prompt's last token."""
    if given is not None:
        if given.shape != (batch,):
            raise ValueError(
                f"steering_prompt_end has shape {list(given.shape)}; expected [{batch}], one column per row"
            )
        return given.to(device)
    columns = torch.arange(length, device=device)
    last = torch.full((batch,), length - 1, device=device) if mask is None else (columns * mask).amax(-1)
    if isinstance(labels, Tensor):
        answered = labels != -100
        before = (answered.long().argmax(-1) - 1).clamp_min(0).to(device)
        last = torch.where(answered.any(-1).to(device), before, last)
    return last + past


def _give_gates(call: SteeringCall, gate: Tensor | None, state: GateState | None, batch: int) -> None:
    """Fills in given, earlier, settled and on."""
    call.earlier = None if state is None else state.gate
    if gate is not None:
        if gate.shape != (batch, len(call.names)):
            raise ValueError(
                f"steering_gate has shape {list(gate.shape)}; expected [{batch}, {len(call.names)}] for gates {list(call.names)}"
            )
        call.given = gate
        if state is not None and gate is state.gate:
            call.settled, call.on = True, state.on
        elif not call.tracing:
            if not bool(((gate == -1) | (gate == 0) | (gate == 1)).all()):
                raise ValueError(
                    f"steering_gate holds {gate.tolist()}; each value is 1 (steer), 0 (do not) or -1 (decide now)"
                )
            call.settled = bool((gate >= 0).all())
            call.on = shares(gate) if call.settled else None
