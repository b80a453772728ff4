"""The law: logits and gates at a column are the same, however a sequence is cut into calls (docs/format.md)."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, StaticCache

from steer_modules.attach import attach
from steer_modules.positions import reach_of
from steer_modules.program import Gate

LONG = 14
EXAMPLES = settings(max_examples=6, deadline=None, derandomize=True)
"""Sequences tried for each family and way of cutting; each is one of 2**LONG chunkings of random tokens."""


def gates(model) -> list[Gate]:
    """One gate of each pool, whose thresholds lie between the scores that random sequences give."""
    draw = torch.Generator().manual_seed(5)
    states = [tiny.block_states(model, text(seed), 1)[0].float() for seed in range(8)]
    found = []
    for name, pool, pooled in (
        ("end", "prompt_end", torch.stack([one[-1] for one in states])),
        ("mean", "prompt_mean", torch.stack([one.mean(0) for one in states])),
        ("token", "token", torch.cat(states)),
    ):
        weight = torch.randn(tiny.D, generator=draw)
        quantile = 0.97 if pool == "token" else 0.6
        bias = -(pooled @ weight).quantile(quantile).reshape(1)
        found.append(Gate(name, 1, pool, "linear", 0.0, "above", {"weight": weight, "bias": bias}))
    return found


def text(seed: int, length: int = LONG) -> dict[str, torch.Tensor]:
    """Random tokens with a header at a random place or none, and a second one at the end of every other sequence."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 80, (1, length), generator=draw)
    place = int(torch.randint(-2, length - 1, (1,), generator=draw))
    if place >= 0:
        ids[0, place : place + 2] = torch.tensor(tiny.HEADER)
    if seed % 2:
        ids[0, -2:] = torch.tensor(tiny.HEADER)
    if seed % 5 == 0:  # half a header, and one that begins twice
        ids[0, 3:6] = torch.tensor([tiny.HEADER[0], *tiny.HEADER])
    return {"input_ids": ids}


@pytest.fixture(scope="module", params=tuple(tiny.CONFIGS))
def steered(request):
    model = tiny.build(request.param)
    edits = [tiny.turn(2, gate=("end", "token")), tiny.turn(3, gate="mean", seed=9)]
    return attach(model, tiny.program(model, gates(model), edits))


def run(model, **inputs):
    with torch.no_grad():
        out = model(**inputs)
    return out.logits, out.steering_gate, next((v for v in dict(out).values() if hasattr(v, "layers")), None)


def same(found, expected, columns=slice(None)) -> None:
    logits, gate = found
    assert torch.equal(gate, expected[1][:, columns])
    torch.testing.assert_close(logits, expected[0][:, columns], rtol=1e-4, atol=1e-4)


def in_passes(model, ids, cuts, cache=None, embed=()):
    """Logits and gates of a sequence in passes that end before ``cuts``; passes of ``embed`` are given as embeddings."""
    parts, start = [], 0
    for number, stop in enumerate(cuts):
        tokens = {"input_ids": ids[:, start:stop]}
        if number in embed:
            tokens = {"inputs_embeds": model.get_input_embeddings()(ids[:, start:stop]).detach()}
        logits, gate, cache = run(model, **tokens, past_key_values=cache, use_cache=True)
        parts.append((logits, gate))
        start = stop
    return torch.cat([a for a, _ in parts], 1), torch.cat([b for _, b in parts], 1), cache


def test_the_control_gates_fire_and_do_not(steered):
    """Among the sequences are ones with each gate on from some column on, and ones without; what is on changes logits."""
    found = torch.cat([run(steered, **text(seed))[1] for seed in range(24)])
    ever = found.amax(1)
    assert bool((ever.amin(0) == 0).all())
    assert bool((ever.amax(0) == 1).all())
    assert bool((found.diff(dim=1) >= 0).all())
    off = torch.zeros(1, 3)
    changed = [
        (run(steered, **text(s))[0] - run(steered, **text(s), steering_gate=off)[0]).abs().amax(-1)[0]
        for s in range(24)
    ]
    for seed, apart in enumerate(changed):
        on = found[seed].any(-1)
        assert bool((apart[~on] == 0).all())
        assert not on.any() or float(apart[on].max()) > 1e-2


@EXAMPLES
@given(seed=st.integers(0, 999), data=st.data())
def test_any_chunking(steered, seed, data):
    cuts = [*sorted(data.draw(st.sets(st.integers(1, LONG - 1)))), LONG]
    embed = data.draw(st.sets(st.integers(0, len(cuts) - 1), max_size=3))
    ids = text(seed)["input_ids"]
    expected = run(steered, input_ids=ids)
    same(in_passes(steered, ids, cuts, embed=embed)[:2], expected)


@EXAMPLES
@given(seed=st.integers(0, 999), side=st.sampled_from(["left", "right"]), wide=st.booleans())
def test_padding_and_masks(steered, seed, side, wide):
    rows = [text(seed, LONG - seed % 5), text(seed + 1), text(seed + 2, 6)]
    for row in rows:
        row["attention_mask"] = torch.ones_like(row["input_ids"])
    batch = tiny.batch(rows, side)
    mask = batch["attention_mask"]
    window = reach_of(steered.config).window
    if wide and side == "right" and (window is None or window >= LONG):  # the same as a 4-D mask
        causal = torch.ones(LONG, LONG).tril().bool() & mask[:, None, :].bool()
        batch["attention_mask"] = (causal | torch.eye(LONG).bool())[:, None]
    logits, gate, _ = run(steered, **batch)
    for index, row in enumerate(rows):
        kept = mask[index].bool()
        same(
            (logits[index : index + 1, kept], gate[index : index + 1, kept]),
            run(steered, input_ids=row["input_ids"]),
        )


@EXAMPLES
@given(seed=st.integers(0, 999))
def test_two_sequences_in_one_row(steered, seed):
    first, second = text(seed, 6)["input_ids"], text(seed + 1, 9)["input_ids"]
    both = torch.cat([first, second], 1)
    positions = torch.cat([torch.arange(6), torch.arange(9)])[None]
    expected = run(steered, input_ids=first)[:2], run(steered, input_ids=second)[:2]
    ways = [{"position_ids": positions}]
    block = torch.block_diag(torch.ones(6, 6).tril(), torch.ones(9, 9).tril()).bool()[None, None]
    ways.append({"position_ids": positions, "attention_mask": block})
    refusals: list[str] = []
    for way in ways:
        try:
            logits, gate, _ = run(steered, input_ids=both, **way)
        except ValueError as error:  # what cannot obey raises
            refusals.append(str(error))
            continue
        same((logits[:, :6], gate[:, :6]), expected[0])
        same((logits[:, 6:], gate[:, 6:]), expected[1])
    assert all("restart within a row" in one or "sliding window" in one for one in refusals)
    assert len(refusals) < 2 or reach_of(steered.config).window is not None


@EXAMPLES
@given(seed=st.integers(0, 999), cut=st.integers(1, LONG - 1), back=st.integers(1, 4))
def test_rows_of_a_cache_moved_and_columns_cropped(steered, seed, cut, back):
    rows = [text(seed + index)["input_ids"] for index in range(3)]
    ids = torch.cat(rows)
    expected = (
        torch.cat([run(steered, input_ids=row)[0] for row in rows]),
        torch.cat([run(steered, input_ids=row)[1] for row in rows]),
    )
    order = torch.tensor([2, 0, 0])
    for move in ("reorder_cache", "batch_select_indices"):
        cache = in_passes(steered, ids, [cut])[2]
        getattr(cache, move)(order)
        found = run(steered, input_ids=ids[order, cut:], past_key_values=copy.deepcopy(cache))
        same(found[:2], (expected[0][order], expected[1][order]), slice(cut, None))
    cache = in_passes(steered, ids[:1], [cut])[2]
    cache.batch_repeat_interleave(3)
    found = run(steered, input_ids=ids[[0, 0, 0], cut:], past_key_values=cache)
    same(found[:2], (expected[0][[0, 0, 0]], expected[1][[0, 0, 0]]), slice(cut, None))
    cache = in_passes(steered, ids, [LONG])[2]
    back = min(back, LONG - 1)
    if not cache.is_croppable or any(cache.is_sliding):
        return
    cache.crop(-back)
    found = run(steered, input_ids=ids[:, LONG - back :], past_key_values=cache)
    same(found[:2], expected, slice(LONG - back, None))


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_caches_that_a_caller_makes(steered, kind):
    for seed in range(4):
        ids = text(seed)["input_ids"]
        options = {"config": steered.config} | ({"max_cache_len": 32} if kind is StaticCache else {})
        expected = run(steered, input_ids=ids)
        cache = kind(**options)
        same(in_passes(steered, ids, [5, 6, 7, LONG], cache)[:2], expected)
        cache.reset()
        same(in_passes(steered, ids, [LONG], cache)[:2], expected)


def test_positions_counted_over_padding_are_no_past(steered):
    """Left padding with one position a column: distances are what they are without padding."""
    if reach_of(steered.config).window is not None or steered.config.model_type == "gpt2":
        return
    row = text(3, 9)["input_ids"]
    padded = torch.nn.functional.pad(row, (4, 0))
    mask = torch.nn.functional.pad(torch.ones_like(row), (4, 0))
    logits, gate, _ = run(steered, input_ids=padded, attention_mask=mask, position_ids=torch.arange(13)[None])
    same((logits[:, 4:], gate[:, 4:]), run(steered, input_ids=row))


@pytest.mark.parametrize("change", ["bfloat16", "noise"])
def test_headers_are_recognised_in_embeddings_that_were_rounded_or_shaken(steered, change):
    table = steered.get_input_embeddings()
    for seed in range(6):
        ids = text(seed)["input_ids"]
        embeds = table(ids).detach()
        if change == "noise":
            shake = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(seed))
            embeds = embeds + 0.05 * embeds.norm(dim=-1, keepdim=True) * shake / shake.norm(
                dim=-1, keepdim=True
            )
        else:
            embeds = embeds.bfloat16().float()
        found = steered.steering.headers.in_embeddings(embeds, table)
        assert torch.equal(found, steered.steering.headers.in_ids(ids))


@pytest.mark.parametrize("supplied", [False, True])
def test_padding_between_columns(steered, supplied):
    """A row that is padded on the right and goes on, in one pass and in two; what cannot keep the law raises."""
    row, more = text(4, 7)["input_ids"], text(9, 5)["input_ids"]
    expected = run(steered, input_ids=torch.cat([row, more], 1))
    padded = torch.nn.functional.pad(row, (0, 3))
    mask = torch.nn.functional.pad(torch.ones_like(row), (0, 3))
    whole = torch.cat([mask, torch.ones_like(more)], 1)
    counted = (whole.cumsum(1) - 1).clamp_min(0)
    refused = None
    first, both = ({"position_ids": counted[:, :10]}, {"position_ids": counted}) if supplied else ({}, {})
    try:
        logits, gate, _ = run(steered, input_ids=torch.cat([padded, more], 1), attention_mask=whole, **both)
        same((logits[:, 10:], gate[:, 10:]), expected, slice(7, None))
        cache = run(steered, input_ids=padded, attention_mask=mask, use_cache=True, **first)[2]
        then = {"position_ids": counted[:, 10:]} if supplied else {}
        found = run(steered, input_ids=more, attention_mask=whole, past_key_values=cache, **then)
        same(found[:2], expected, slice(7, None))
    except ValueError as error:
        refused = str(error)
    reach = reach_of(steered.config)
    assert refused is None or ("padding between" in refused and (reach.spatial or reach.window is not None))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_conversations_with_pictures_do_not_take_each_others_positions(family):
    """Positions in space are noted on a module of the stock class; they go on from the cache's own conversation."""
    model = tiny.build(family)
    edits = [tiny.turn(2, gate=("end", "token")), tiny.turn(3, gate="mean", seed=9)]
    model = attach(model, tiny.program(model, gates(model), edits))
    mine, other = tiny.prompt(family, 1, 12), tiny.prompt(family, 2, 9)
    more = text(6, 5)["input_ids"]
    alone, _, _ = run(model, input_ids=more, past_key_values=run(model, **mine, use_cache=True)[2])
    cache = run(model, **mine, use_cache=True)[2]
    run(model, **tiny.batch([other, other, other], "left"), use_cache=True)
    found, _, _ = run(model, input_ids=more, past_key_values=copy.deepcopy(cache))
    assert torch.equal(found, alone)
    cache.crop(-10)  # into the picture
    with pytest.raises(ValueError, match="prompt with images"):
        run(model, input_ids=more, past_key_values=cache)


def test_a_cache_of_another_steering_raises(steered):
    """Two programs on one base: what the one computed says nothing of the other's gates."""
    model = tiny.build(steered.config.model_type)
    other = attach(
        model, tiny.program(model, gates(model), [tiny.turn(2, gate=("end", "token", "mean"), seed=3)])
    )
    cache = run(other, **text(1), use_cache=True)[2]
    with pytest.raises(ValueError, match="another steering"):
        run(steered, **text(2), past_key_values=cache)


def test_positions_that_are_computed_anew_behind_a_limit_raise_there():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = tiny.build("llama", text={"rope_parameters": rope, "max_position_embeddings": 16})
    model = attach(model, tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2)]))
    run(model, **text(1, 16))
    with pytest.raises(ValueError, match="16 columns"):
        run(model, **text(1, 17))
