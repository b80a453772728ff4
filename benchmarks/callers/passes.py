"""Callers that run one pass over prompt and reply: likelihoods, perplexity, training, packed rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.callers.observed import Logits, Question, Seen
from benchmarks.callers.registry import caller
from benchmarks.callers.side import Side


def over(model: Any, question: Question, **further: Any) -> Tensor:
    """Logits [1 + R, V] of one pass, from the prompt's end on."""
    return model(**{**question.forced, **further}).logits[0, question.end :]


def whole(model: Any, side: Side) -> Logits:
    """One pass a question, as lm-evaluation-harness makes it."""
    return Logits([Seen(one, over(model, one)) for one in side.questions])


@caller("whole pass")
def no_labels(side: Side) -> Logits:
    return whole(side.model, side)


@caller("whole pass")
def labels_are_input_ids(side: Side) -> Logits:
    return Logits(
        [Seen(one, over(side.model, one, labels=one.forced["input_ids"])) for one in side.questions]
    )


@caller("whole pass")
def labels_on_the_reply(side: Side) -> Logits:
    def labels(one: Question) -> Tensor:
        ids = one.forced["input_ids"]
        ids[:, : len(one.ids)] = -100
        return ids

    return Logits([Seen(one, over(side.model, one, labels=labels(one))) for one in side.questions])


@caller("whole pass")
def no_mask_at_all(side: Side) -> Logits:
    return Logits([Seen(one, over(side.model, one, attention_mask=None)) for one in side.questions])


@caller("whole pass")
def positional_ids(side: Side) -> Logits:
    """``model(ids)``."""
    some = [*side.forgotten, *side.kept]
    return Logits([Seen(one, side.model(one.forced["input_ids"]).logits[0, one.end :]) for one in some])


@caller("whole pass")
def return_dict_false(side: Side) -> Logits:
    some = [*side.forgotten, *side.kept]
    return Logits([Seen(one, side.model(**one.forced, return_dict=False)[0][0, one.end :]) for one in some])


@caller("whole pass")
def last_logits_only(side: Side) -> Logits:
    """``logits_to_keep``, as prefills ask for them."""
    return Logits([Seen(one, over_last(side.model, one)) for one in side.questions])


def over_last(model: Any, one: Question) -> Tensor:
    return model(**one.forced, logits_to_keep=len(one.reply) + 1).logits[0]


@caller("whole pass")
def mask_4d(side: Side) -> Logits:
    return Logits([Seen(one, _masked(side.model, one, _causal(len(one.whole)))) for one in _texts(side)])


@caller("whole pass")
def additive_mask_4d(side: Side) -> Logits:
    def mask(one: Question) -> Tensor:
        allowed = _causal(len(one.whole))
        return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)

    return Logits([Seen(one, _masked(side.model, one, mask(one))) for one in _texts(side)])


@caller("whole pass")
def right_padding_4d(side: Side) -> Logits:
    """Four columns of padding behind, marked by the mask alone."""
    rows = []
    for one in _texts(side):
        length = len(one.whole)
        mask = _causal(length + 4)
        mask[..., length:] = False
        mask[..., range(length + 4), range(length + 4)] = True
        ids = torch.tensor([[*one.whole, *[0] * 4]])
        logits = side.model(input_ids=ids, attention_mask=mask).logits
        rows.append(Seen(one, logits[0, one.end : length]))
    return Logits(rows)


@caller("whole pass")
def right_padding(side: Side) -> Logits:
    return _padded(side, left=False)


@caller("whole pass")
def left_padding(side: Side) -> Logits:
    return _padded(side, left=True)


def _padded(side: Side, *, left: bool) -> Logits:
    some = _texts(side)
    width = max(len(one.whole) for one in some) + 3
    ids, mask = (
        torch.zeros(len(some), width, dtype=torch.long),
        torch.zeros(len(some), width, dtype=torch.long),
    )
    starts = [width - len(one.whole) if left else 0 for one in some]
    for row, (one, start) in enumerate(zip(some, starts, strict=True)):
        ids[row, start : start + len(one.whole)] = torch.tensor(one.whole)
        mask[row, start : start + len(one.whole)] = 1
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = side.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    return Logits(
        [
            Seen(one, logits[row, start + one.end : start + len(one.whole)])
            for row, (one, start) in enumerate(zip(some, starts, strict=True))
        ]
    )


@caller("whole pass")
def packed_by_positions(side: Side) -> Logits:
    """Two conversations in one row, distinguished by ``position_ids`` that start anew."""
    return _packed(side, mask=False, positions=True)


@caller("whole pass")
def packed_4d(side: Side) -> Logits:
    """The same, distinguished by a block-diagonal mask too."""
    return _packed(side, mask=True, positions=True)


@caller("whole pass")
def packed_4d_alone(side: Side) -> Logits:
    """A block-diagonal mask without ``position_ids``: rotary positions are relative."""
    return _packed(side, mask=True, positions=False)


def _packed(side: Side, *, mask: bool, positions: bool) -> Logits:
    rows = []
    for pair in side.pairs:
        for some in (pair, pair[::-1]):
            lengths = [len(one.whole) for one in some]
            given: dict[str, Any] = {}
            if positions:
                given["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
            if mask:
                blocks = [torch.ones(length, length).tril().bool() for length in lengths]
                given["attention_mask"] = torch.block_diag(*blocks).bool()[None, None]
            ids = torch.tensor([[*some[0].whole, *some[1].whole]])
            logits = side.model(input_ids=ids, use_cache=False, **given).logits[0]
            parts = (logits[: lengths[0]], logits[lengths[0] :])
            rows += [Seen(one, part[one.end :]) for one, part in zip(some, parts, strict=True)]
    return Logits(rows)


@caller("whole pass")
def packed_by_cumulative_lengths(side: Side) -> Logits:
    """``cu_seq_lens``, as DataCollatorWithFlattening gives them beside positions."""
    rows = []
    for first, second in side.pairs:
        lengths = [len(one.whole) for one in (first, second)]
        ends = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32)
        logits = side.model(
            input_ids=torch.tensor([[*first.whole, *second.whole]]),
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            cu_seq_lens_q=ends,
            cu_seq_lens_k=ends,
            max_length_q=max(lengths),
            max_length_k=max(lengths),
            use_cache=False,
        ).logits[0]
        rows += [
            Seen(first, logits[first.end : lengths[0]]),
            Seen(second, logits[lengths[0] + second.end :]),
        ]
    return Logits(rows)


@caller("whole pass")
def inputs_embeds(side: Side) -> Logits:
    rows = []
    for one in _texts(side):
        states = side.model.get_input_embeddings()(one.forced["input_ids"])
        rows.append(Seen(one, side.model(inputs_embeds=states).logits[0, one.end :]))
    return Logits(rows)


@caller("whole pass")
def inputs_embeds_in_bfloat16(side: Side) -> Logits:
    """Embeddings that were kept in half precision on their way."""
    return _embedded(side, lambda states: states.to(torch.bfloat16).float())


@caller("whole pass")
def inputs_embeds_with_noise(side: Side) -> Logits:
    """A hundredth of each embedding's length, as NEFTune and learned prompts put it there."""
    noise = torch.Generator().manual_seed(0)

    def nudged(states: Tensor) -> Tensor:
        away = torch.randn(states.shape, generator=noise)
        return states + 0.01 * away * states.norm(dim=-1, keepdim=True) / away.norm(dim=-1, keepdim=True)

    return _embedded(side, nudged)


def _embedded(side: Side, change: Callable[[Tensor], Tensor]) -> Logits:
    rows = []
    for one in _texts(side):
        states = change(side.model.get_input_embeddings()(one.forced["input_ids"]))
        rows.append(Seen(one, side.model(inputs_embeds=states).logits[0, one.end :]))
    return Logits(rows, lawful=False)


@caller("whole pass")
def inference_mode(side: Side) -> Logits:
    with torch.inference_mode():
        return Logits([Seen(one, over(side.model, one).clone()) for one in side.questions])


@caller("whole pass")
def autocast(side: Side) -> Logits:
    """Matrix products in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return Logits([Seen(one, over(side.model, one).float()) for one in side.questions], lawful=False)


@caller("whole pass")
def more_rows_of_embeddings(side: Side) -> Logits:
    """``resize_token_embeddings``, as whoever adds tokens does it."""
    model = side.load()
    size = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size + 8)
    return Logits([Seen(one, over(model, one)[:, :size]) for one in _texts(side)])


@caller("whole pass")
def positions_from_the_middle(side: Side) -> Logits:
    """No cache, and positions that begin at 7: rotary positions are relative, so the base answers as ever."""
    return Logits(
        [
            Seen(one, over(side.model, one, position_ids=torch.arange(7, 7 + len(one.whole))[None]))
            for one in _texts(side)
        ]
    )


@caller("whole pass")
def hidden_states_through_the_head(side: Side) -> Logits:
    """The last of ``output_hidden_states``, put through the head by hand."""
    rows = []
    for one in _texts(side):
        states = side.model(**one.forced, output_hidden_states=True).hidden_states[-1]
        rows.append(Seen(one, side.head(states)[0, one.end :]))
    return Logits(rows)


@caller("whole pass")
def training_mode(side: Side) -> Logits:
    """``model.train()`` with gradient checkpointing, as a fine-tune runs it."""
    side.model.train()
    side.model.gradient_checkpointing_enable()
    try:
        with torch.enable_grad():
            rows = [Seen(one, over(side.model, one, use_cache=False).detach()) for one in _texts(side)]
    finally:
        side.model.gradient_checkpointing_disable()
        side.model.eval()
    return Logits(rows)


def _texts(side: Side) -> list[Question]:
    return [*side.forgotten, *side.kept]


def _causal(length: int) -> Tensor:
    return torch.ones(length, length).tril().bool()[None, None]


def _masked(model: Any, one: Question, mask: Tensor) -> Tensor:
    return model(input_ids=one.forced["input_ids"], attention_mask=mask).logits[0, one.end :]
