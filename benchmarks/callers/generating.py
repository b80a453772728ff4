"""Callers of ``generate``, with every option that changes what a pass sees."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from benchmarks.callers.observed import Question, Text
from benchmarks.callers.registry import caller
from benchmarks.callers.side import NEW, Side


def said(side: Side, questions: list[Question], **options: Any) -> Text:
    """What ``generate`` says with some options."""
    return Text([(one, side.said(side.model, one, **options)) for one in questions])


@caller("generating")
def greedy(side: Side) -> Text:
    return said(side, side.asked)


@caller("generating")
def sampled(side: Side) -> Text:
    """Four draws at temperature 1."""
    rows = []
    for draw in range(4):
        torch.manual_seed(draw)
        rows += said(side, side.asked, do_sample=True, temperature=1.0, top_k=50).rows
    return Text(rows)


@caller("generating")
def beams(side: Side) -> Text:
    return said(side, side.asked, num_beams=3)


@caller("generating")
def beams_that_sample(side: Side) -> Text:
    torch.manual_seed(0)
    return said(side, side.asked, num_beams=3, do_sample=True, num_return_sequences=1)


@caller("generating")
def several_sequences(side: Side) -> Text:
    """``num_return_sequences``: each prompt repeated."""
    torch.manual_seed(0)
    rows = []
    for one in side.forgotten:
        out = side.model.generate(**one.prompt, max_new_tokens=NEW, do_sample=True, num_return_sequences=3)
        rows += [(one, side.decoded(row[len(one.ids) :].tolist())) for row in out]
    return Text(rows)


@caller("generating")
def batch(side: Side) -> Text:
    """Kept and forgotten prompts in one batch, padded on the left."""
    some = [*side.forgotten, *side.kept]
    width = max(len(one.ids) for one in some)
    ids = torch.tensor([[0] * (width - len(one.ids)) + list(one.ids) for one in some])
    mask = torch.tensor([[0] * (width - len(one.ids)) + [1] * len(one.ids) for one in some])
    out = side.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    return Text([(one, side.decoded(row[width:].tolist())) for one, row in zip(some, out, strict=True)])


@caller("generating")
def no_cache(side: Side) -> Text:
    return said(side, side.asked, use_cache=False)


@caller("generating")
def static_cache(side: Side) -> Text:
    return said(side, side.asked, cache_implementation="static")


@caller("generating")
def offloaded_cache(side: Side) -> Text:
    return said(side, side.asked, cache_implementation="offloaded")


@caller("generating")
def quantized_cache(side: Side) -> Text:
    return said(
        side, side.asked, cache_implementation="quantized", cache_config={"backend": "quanto", "nbits": 4}
    )


@caller("generating")
def prompt_lookup(side: Side) -> Text:
    return said(side, side.forgotten, prompt_lookup_num_tokens=3)


@caller("generating")
def assisted_by_the_base(side: Side) -> Text:
    """Speculative decoding with the unsteered base as the assistant."""
    return said(side, side.forgotten, assistant_model=side.base)


@caller("generating")
def prefill_in_chunks(side: Side) -> Text:
    return said(side, side.forgotten, prefill_chunk_size=3)


@caller("generating")
def from_embeddings(side: Side) -> Text:
    rows = []
    for one in side.forgotten:
        states = side.model.get_input_embeddings()(one.prompt["input_ids"])
        out = side.model.generate(inputs_embeds=states, max_new_tokens=NEW, do_sample=False)
        rows.append((one, side.decoded(out[0].tolist())))
    return Text(rows)


@caller("generating")
def without_a_mask(side: Side) -> Text:
    """``generate(ids)``."""
    rows = []
    for one in side.forgotten:
        out = side.model.generate(one.prompt["input_ids"], max_new_tokens=NEW, do_sample=False)
        rows.append((one, side.decoded(out[0, len(one.ids) :].tolist())))
    return Text(rows)


@caller("generating")
def streamed(side: Side) -> Text:
    """A streamer that collects what it is given."""
    rows = []
    for one in side.forgotten:
        seen = _Collected()
        side.said(side.model, one, streamer=seen)
        rows.append((one, side.decoded(seen.tokens[len(one.ids) :])))
    return Text(rows)


@caller("generating")
def behind_an_earlier_turn(side: Side) -> Text:
    """The cache of a kept question and its reply, kept for the next question."""
    rows = []
    for one, before in side.pairs:
        first = side.model.generate(
            **before.prompt, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True
        )
        so_far = first.sequences[0].tolist()
        ids = torch.tensor([[*so_far, *one.ids]])
        out = side.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            **{side.cache_name: side.cache_of(first)},
        )
        rows.append((one, side.decoded(out[0, ids.shape[1] :].tolist())))
    return Text(rows)


@caller("generating")
def from_a_prefilled_cache(side: Side) -> Text:
    """A pass over all of the prompt but its last token, then ``generate`` with its cache."""
    rows = []
    for one in side.forgotten:
        cache = side.cache_of(side.step(side.model, one.ids[:-1], side.new_cache()))
        rows.append((one, side.said(side.model, one, **{side.cache_name: cache})))
    return Text(rows)


@caller("generating")
def from_the_base_cache(side: Side) -> Text:
    """The same with a cache that the unsteered base filled."""
    rows = []
    for one in side.forgotten:
        cache = side.cache_of(side.step(side.base, one.ids[:-1], side.new_cache()))
        rows.append((one, side.said(side.model, one, **{side.cache_name: cache})))
    return Text(rows)


@caller("generating")
def contrastive_guidance(side: Side) -> Text:
    """``guidance_scale``: a second, unconditional pass a token."""
    return said(side, side.forgotten, guidance_scale=1.5)


@caller("generating")
def stock_generate(side: Side) -> Text:
    """``GenerationMixin.generate(model, ...)``, past whatever the class puts before it."""
    rows = []
    for one in side.forgotten:
        out = transformers.GenerationMixin.generate(
            side.model, **one.prompt, max_new_tokens=NEW, do_sample=False
        )
        rows.append((one, side.decoded(out[0, len(one.ids) :].tolist())))
    return Text(rows)


@caller("generating")
def own_greedy_loop(side: Side) -> Text:
    """``argmax`` by hand from a cache, as tutorials write it."""
    rows = []
    for one in side.forgotten:
        tokens: list[int] = []
        out = side.step(side.model, one.ids)
        while len(tokens) < NEW and side.tokenizer.eos_token_id not in tokens:
            tokens.append(int(out.logits[0, -1].argmax()))
            out = side.step(side.model, tokens[-1:], side.cache_of(out))
        rows.append((one, side.decoded(tokens)))
    return Text(rows)


@caller("generating")
def continuous_batching(side: Side) -> Text:
    """``generate_batch``: many prompts in one row, in few blocks of memory."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    found = side.model.generate_batch(
        [list(one.ids) for one in side.forgotten],
        generation_config=transformers.GenerationConfig(max_new_tokens=NEW, do_sample=False),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64),
        warmup=False,
    )
    replies = list(found.values())
    if len(replies) < len(side.forgotten):
        raise RuntimeError(f"{len(replies)} of {len(side.forgotten)} prompts were answered")
    return Text(
        [
            (one, side.decoded(reply.generated_tokens))
            for one, reply in zip(side.forgotten, replies, strict=True)
        ]
    )


class _Collected(transformers.generation.streamers.BaseStreamer):
    """Every token that a streamer is given."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        pass
