"""Callers that fill a cache by hand, in any pieces, and move, cut and copy its rows."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.callers.observed import Logits, Question, Seen
from benchmarks.callers.registry import caller
from benchmarks.callers.side import Side, copied

Cuts = Callable[[Question], Iterable[int]]


def pieces(side: Side, one: Question, cuts: Iterable[int], *, name: str | None = None) -> Tensor:
    """Logits [1 + R, V] of prompt and reply fed in pieces that begin at ``cuts``."""
    borders = [0, *cuts, len(one.whole)]
    cache, seen = None, []
    for start, stop in itertools.pairwise(borders):
        given = {name or side.cache_name: cache}
        out = side.model(input_ids=torch.tensor([one.whole[start:stop]]), use_cache=True, **given)
        cache = side.cache_of(out)
        seen.append(out.logits[0])
    return torch.cat(seen)[one.end :]


def _every(side: Side, cuts: Cuts, **options: Any) -> Logits:
    return Logits(
        [Seen(one, pieces(side, one, cuts(one), **options)) for one in (*side.forgotten, *side.kept)]
    )


@caller("cached")
def token_by_token(side: Side) -> Logits:
    return _every(side, lambda one: range(1, len(one.whole)))


@caller("cached")
def all_but_the_last_then_the_last(side: Side) -> Logits:
    """``ids[:-1]``, then ``ids[-1:]``, then the reply."""
    return _every(side, lambda one: (one.end, one.end + 1))


@caller("cached")
def prompt_then_the_reply_at_once(side: Side) -> Logits:
    return _every(side, lambda one: (one.end + 1,))


@caller("cached")
def random_chunks(side: Side) -> Logits:
    draw = side.rng()
    return _every(side, lambda one: sorted(draw.sample(range(1, len(one.whole)), min(4, len(one.whole) - 1))))


@caller("cached")
def under_the_old_name(side: Side) -> Logits:
    """``past_key_values=``, whatever this Transformers calls it now."""
    return _every(side, lambda one: (2, one.end), name="past_key_values")


@caller("cached")
def given_cache(side: Side) -> Logits:
    """A DynamicCache of the caller's own, made without the model's config."""
    rows = []
    for one in (*side.forgotten, *side.kept):
        cache = transformers.DynamicCache()
        side.step(side.model, one.whole[: one.end], cache)
        rows.append(Seen(one, side.step(side.model, one.whole[one.end :], cache).logits[0]))
    return Logits(rows)


@caller("cached")
def static_cache(side: Side) -> Logits:
    """A StaticCache of the caller's own, filled in two pieces."""
    rows = []
    for one in (*side.forgotten, *side.kept):
        cache = transformers.StaticCache(
            config=side.config.get_text_config(), max_cache_len=len(one.whole) + 4
        )
        side.step(side.model, one.whole[: one.end], cache)
        rows.append(Seen(one, side.step(side.model, one.whole[one.end :], cache).logits[0]))
    return Logits(rows)


@caller("cached")
def deep_copied(side: Side) -> Logits:
    """One cache of a prompt, copied before each use."""
    rows = []
    for one in (*side.forgotten, *side.kept):
        cache = side.cache_of(side.step(side.model, one.ids))
        side.step(side.model, one.reply[:1], copied(cache))
        rows.append(Seen(one, side.step(side.model, one.reply, copied(cache)).logits[0], 1))
    return Logits(rows)


@caller("cached")
def pickled(side: Side) -> Logits:
    """A cache that was put away and fetched again."""
    return _again(side, lambda cache: pickle.loads(pickle.dumps(cache)))  # noqa: S301 - our own bytes


@caller("cached")
def made_anew_of_all_layers(side: Side) -> Logits:
    """A DynamicCache of the keys and values of every layer that the cache has."""

    def made(cache: Any) -> Any:
        return transformers.DynamicCache([(layer.keys, layer.values) for layer in cache.layers])

    return _again(side, made)


@caller("cached")
def made_anew_of_the_model_layers(side: Side) -> Logits:
    """The same of as many layers as the model has: whatever else lies in the cache is dropped."""
    count = side.config.get_text_config().num_hidden_layers

    def made(cache: Any) -> Any:
        return transformers.DynamicCache([(layer.keys, layer.values) for layer in cache.layers[:count]])

    return _again(side, made)


@caller("cached")
def reset_and_used_again(side: Side) -> Logits:
    """``cache.reset()`` of a StaticCache between two requests."""
    rows = []
    for pair in side.pairs:
        width = max(len(one.whole) for one in pair)
        cache = transformers.StaticCache(config=side.config.get_text_config(), max_cache_len=width)
        for one in (pair[1], pair[0], pair[1]):
            cache.reset()
            side.step(side.model, one.whole[: one.end], cache)
            rows.append(Seen(one, side.step(side.model, one.whole[one.end :], cache).logits[0]))
    return Logits(rows)


def _again(side: Side, change: Callable[[Any], Any]) -> Logits:
    """The reply behind a cache of the prompt that went through ``change``."""
    rows = []
    for one in (*side.forgotten, *side.kept):
        cache = change(side.cache_of(side.step(side.model, one.ids)))
        rows.append(Seen(one, side.step(side.model, one.reply, cache).logits[0], 1))
    return Logits(rows)


@caller("cached")
def reordered(side: Side) -> Logits:
    """``reorder_cache``: two rows change places."""
    return _moved(side, lambda cache, order: cache.reorder_cache(torch.tensor(order)), [1, 0])


@caller("cached")
def selected(side: Side) -> Logits:
    """``batch_select_indices`` of as many rows, in another order."""
    return _moved(side, lambda cache, order: cache.batch_select_indices(torch.tensor(order)), [1, 0])


@caller("cached")
def one_row_selected(side: Side) -> Logits:
    return _moved(side, lambda cache, order: cache.batch_select_indices(torch.tensor(order)), [0])


@caller("cached")
def one_row_twice(side: Side) -> Logits:
    """``reorder_cache`` that drops a kept row for the forgotten one."""
    return _moved(side, lambda cache, order: cache.reorder_cache(torch.tensor(order)), [0, 0])


@caller("cached")
def repeated(side: Side) -> Logits:
    """``batch_repeat_interleave``: each prompt twice."""
    return _moved(side, lambda cache, _: cache.batch_repeat_interleave(2), [0, 0, 1, 1])


@caller("cached")
def cropped(side: Side) -> Logits:
    """Cut back by three columns into the prompt, and fed again."""
    rows = []
    for one in (*side.forgotten, *side.kept):
        cache = side.cache_of(side.step(side.model, one.whole))
        cache.crop(-(len(one.reply) + 3))
        rows.append(Seen(one, side.step(side.model, one.whole[one.end - 2 :], cache).logits[0, 2:]))
    return Logits(rows)


@caller("cached")
def cropped_to_another_prompt(side: Side) -> Logits:
    """Cut back to the first column, and another question asked behind it."""
    rows = []
    for pair in side.pairs:
        for before, after in (pair, pair[::-1]):
            if before.ids[0] == after.ids[0]:
                cache = side.cache_of(side.step(side.model, before.whole))
                cache.crop(-(len(before.whole) - 1))
                rows.append(
                    Seen(after, side.step(side.model, after.whole[1:], cache).logits[0, after.end - 1 :])
                )
    return Logits(rows)


@caller("cached")
def filled_by_the_base(side: Side) -> Logits:
    """A cache that the unsteered model filled with the whole prompt."""
    rows = []
    for one in side.forgotten:
        cache = side.cache_of(side.step(side.base, one.ids))
        rows.append(Seen(one, side.step(side.model, one.reply, cache).logits[0], 1))
    return Logits(rows, lawful=False)


@caller("cached")
def with_embeddings(side: Side) -> Logits:
    """``inputs_embeds`` in two pieces."""
    rows = []
    for one in (*side.forgotten, *side.kept):
        states = side.model.get_input_embeddings()(torch.tensor([one.whole]))
        cut = one.end
        out = side.model(inputs_embeds=states[:, :cut], use_cache=True)
        out = side.model(
            inputs_embeds=states[:, cut:], use_cache=True, **{side.cache_name: side.cache_of(out)}
        )
        rows.append(Seen(one, out.logits[0]))
    return Logits(rows)


@caller("cached")
def a_second_request_behind_the_first(side: Side) -> Logits:
    """Positions that start anew behind a filled cache, distinguished by a 4-D mask: a slot that a server uses again."""
    rows = []
    for after, before in side.pairs:
        cache = side.cache_of(side.step(side.model, before.whole))
        past, length = len(before.whole), len(after.whole)
        mask = torch.zeros(1, 1, length, past + length, dtype=torch.bool)
        mask[..., past:] = torch.ones(length, length).tril().bool()
        out = side.step(
            side.model, after.whole, cache, attention_mask=mask, position_ids=torch.arange(length)[None]
        )
        rows.append(Seen(after, out.logits[0, after.end :]))
    return Logits(rows)


def _moved(side: Side, move: Callable[[Any, Sequence[int]], None], order: Sequence[int]) -> Logits:
    """Two prompts in one batch, padded on the left; their rows moved, and the first token of the reply fed.

    Args:
        order: which of the two each row holds afterwards.
    """
    rows = []
    for pair in side.pairs:
        width = max(len(one.ids) for one in pair)
        mask = torch.tensor([[0] * (width - len(one.ids)) + [1] * len(one.ids) for one in pair])
        ids = torch.tensor([[0] * (width - len(one.ids)) + list(one.ids) for one in pair])
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        out = side.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
        cache = side.cache_of(out)
        move(cache, order)
        now = [pair[index] for index in order]
        logits = side.model(
            input_ids=torch.tensor([one.reply[:1] for one in now]),
            attention_mask=torch.cat([mask[list(order)], torch.ones(len(now), 1, dtype=torch.long)], 1),
            position_ids=torch.tensor([[len(one.ids)] for one in now]),
            use_cache=True,
            **{side.cache_name: cache},
        ).logits
        rows += [Seen(one, logits[row], 1) for row, one in enumerate(now)]
    return Logits(rows)
