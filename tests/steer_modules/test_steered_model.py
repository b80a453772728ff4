"""Gates are decided at generation headers, per row, and stay on; every way to decode says the same."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import NEW, answer, logits
from transformers import DynamicCache, StaticCache

from steer_modules.attach import attach, detach, steered
from steer_modules.state import gates_on


def test_the_control_could_have_failed(bed):
    """Steering changes the answer to one prompt and not to the other; without a gate it would change both."""
    model, fires, stays, program = bed
    base = [answer(model, p) for p in (fires, stays)]
    with steered(model, program):
        gated = [answer(model, p) for p in (fires, stays)]
    always = tiny.program(model, [], [tiny.turn(2, gate=None)])
    with steered(model, always):
        ungated = [answer(model, p) for p in (fires, stays)]
    assert [torch.equal(a, b) for a, b in zip(base, gated, strict=True)] == [False, True]
    assert [torch.equal(a, b) for a, b in zip(base, ungated, strict=True)] == [False, False]


def test_gate_off_is_the_identity_to_the_bit(bed):
    model, fires, stays, program = bed
    batch = tiny.batch([fires, stays], "left")
    base, base_batch = logits(model, **stays), logits(model, **batch)
    with steered(model, program):
        assert torch.equal(logits(model, **stays), base)
        mixed = logits(model, **batch)
    assert torch.equal(mixed[1], base_batch[1])
    assert not torch.equal(mixed[0], base_batch[0])


def test_detaching_gives_the_base_back(bed):
    model, fires, _, program = bed
    before, names, kind = logits(model, **fires), set(model.state_dict()), type(model)
    attach(model, program)
    with pytest.raises(RuntimeError, match="already"):
        attach(model, program)
    detach(model)
    assert type(model) is kind
    assert set(model.state_dict()) == names
    assert torch.equal(logits(model, **fires), before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_equal_single_rows(bed, side):
    model, fires, stays, program = bed
    rows = [stays, fires, tiny.prompt("llama", 3, 5)]
    with steered(model, program):
        batch = tiny.batch(rows, side)
        with torch.no_grad():
            together = model(**batch)
        for index, row in enumerate(rows):
            with torch.no_grad():
                alone = model(**row)
            kept = batch["attention_mask"][index].bool()
            assert torch.equal(together.steering_gate[index][kept], alone.steering_gate[0])
            torch.testing.assert_close(together.logits[index][kept], alone.logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}]
)
def test_every_way_to_decode_says_the_same(bed, options):
    model, fires, stays, program = bed
    with steered(model, program):
        for row in (fires, stays):
            assert torch.equal(answer(model, row, **options), answer(model, row))


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_mixed_gates_in_a_padded_batch(bed, options):
    model, fires, stays, program = bed
    with steered(model, program):
        alone = torch.cat([answer(model, row) for row in (fires, stays, fires)])
        batch = tiny.batch([fires, stays, fires], "left")
        assert torch.equal(answer(model, batch), alone)
        assert torch.equal(answer(model, batch, **options), alone)


def test_static_caches_used_again_forget_the_last_prompt(bed):
    model, fires, stays, program = bed
    base = answer(model, stays)
    with steered(model, program):
        answer(model, fires, cache_implementation="static")
        assert torch.equal(answer(model, stays, cache_implementation="static"), base)


def test_beams_and_sampling(bed):
    model, fires, stays, program = bed
    batch = tiny.batch([fires, stays], "left")
    sampled = {"do_sample": True, "temperature": 1.0}
    torch.manual_seed(3)
    base = answer(model, stays, **sampled)
    base_beams = answer(model, stays, num_beams=3)
    with steered(model, program):
        torch.manual_seed(3)
        assert torch.equal(answer(model, stays, **sampled), base)
        torch.manual_seed(4)
        first = answer(model, fires, **sampled)
        torch.manual_seed(4)
        assert torch.equal(answer(model, fires, **sampled), first)
        beams = answer(model, batch, num_beams=3)
        assert torch.equal(beams[1:], base_beams)
        assert torch.equal(beams[:1], answer(model, fires, num_beams=3))
        assert answer(model, fires, num_beams=3, num_return_sequences=3).shape[0] == 3


def test_assisted_decoding_with_an_unsteered_assistant(bed):
    model, fires, stays, program = bed
    assistant = tiny.build("llama", seed=5)
    with steered(model, program):
        for row in (fires, stays):
            assert torch.equal(answer(model, row, assistant_model=assistant), answer(model, row))


def test_four_threads_at_once(bed):
    model, fires, stays, program = bed
    wrong: list[int] = []
    with steered(model, program):
        expected = [answer(model, row) for row in (fires, stays)]

        def work(index: int) -> None:
            for turn in range(6):
                which = (index + turn) % 2
                if not torch.equal(answer(model, (fires, stays)[which]), expected[which]):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_cached_steps_equal_one_pass(bed):
    """Token by token through the cache, the states are those of one teacher-forced pass."""
    model, fires, stays, program = bed
    with steered(model, program):
        for row in (fires, stays):
            full = model.generate(**row, max_new_tokens=NEW, do_sample=False)
            length = row["input_ids"].shape[1]
            whole = logits(model, input_ids=full)
            cache = DynamicCache(config=model.config)
            steps = [logits(model, input_ids=full[:, :length], past_key_values=cache)]
            steps += [
                logits(model, input_ids=full[:, i : i + 1], past_key_values=cache)
                for i in range(length, full.shape[1])
            ]
            torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)


def test_a_cache_that_is_built_anew_keeps_its_gates_or_is_refused(bed):
    model, fires, _, program = bed
    ids = fires["input_ids"]
    with steered(model, program):
        wanted = logits(model, input_ids=ids)[:, 4:]
        cache = DynamicCache(config=model.config)
        logits(model, input_ids=ids[:, :4], past_key_values=cache)
        pairs = [(layer.keys, layer.values) for layer in cache.layers]
        beside = DynamicCache(pairs[:-1], config=model.config)
        beside.layers.append(copy.deepcopy(cache.layers[-1]))
        for anew in (DynamicCache(pairs), copy.deepcopy(cache), beside):
            found = logits(model, input_ids=ids[:, 4:], past_key_values=anew)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        for without in (DynamicCache(pairs[:-1]), DynamicCache(pairs[:-1], config=model.config)):
            with pytest.raises(ValueError, match="its gates are unknown"):
                logits(model, input_ids=ids[:, 4:], past_key_values=without)
        with pytest.raises(IndexError):  # raised by Transformers: the config has no layer for the last pair
            DynamicCache(pairs, config=model.config)


def test_labels_change_nothing(bed):
    model, fires, _, program = bed
    with steered(model, program):
        full = model.generate(**fires, max_new_tokens=NEW, do_sample=False)
        labels = full.clone()
        labels[:, :4] = -100
        with torch.no_grad():
            without, partly, wholly = (model(input_ids=full, labels=one) for one in (None, labels, full))
    assert torch.equal(without.logits, partly.logits)
    assert torch.equal(without.logits, wholly.logits)
    assert wholly.loss is not None


def test_a_later_turn_switches_on_but_never_off(bed):
    model, fires, stays, program = bed
    with steered(model, program):
        for first, second, before in [(stays, fires, 0.0), (fires, stays, 1.0)]:
            cache = DynamicCache(config=model.config)
            said = model.generate(**first, max_new_tokens=4, do_sample=False, past_key_values=cache)
            assert gates_on(cache, 1).item() == before
            both = torch.cat([said, second["input_ids"]], 1)
            model.generate(
                input_ids=both,
                attention_mask=torch.ones_like(both),
                past_key_values=cache,
                max_new_tokens=4,
                do_sample=False,
            )
            after = gates_on(cache, 1).item()
            whole = model(input_ids=both).steering_gate[0, :, 0]
            assert after == whole[-1] == max(before, float(whole.max()))


def test_given_gates_stand(bed):
    model, fires, stays, program = bed
    on, off, decide = (torch.tensor([[v]]) for v in (1.0, 0.0, -1.0))
    base = logits(model, **fires)
    with steered(model, program):
        assert torch.equal(logits(model, **fires, steering_gate=off), base)
        assert torch.equal(logits(model, **fires, steering_gate=decide), logits(model, **fires))
        forced = model(**fires, steering_gate=on)
        assert bool((forced.steering_gate == 1).all())
        assert not torch.equal(forced.logits[:, 0], base[:, 0])
        assert torch.equal(answer(model, stays, steering_gate=off), answer(model, stays))
        assert not torch.equal(answer(model, stays, steering_gate=on), answer(model, stays))


def test_compiled_models_steer(bed):
    model, fires, stays, program = bed
    batch = tiny.batch([fires, stays], "left")
    with steered(copy.deepcopy(model), program) as twin, torch.no_grad():
        expected = twin(**batch)
        compiled = torch.compile(twin.forward, backend="eager")
        found = compiled(**batch)
        assert torch.equal(found.steering_gate, expected.steering_gate)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
        step = {"input_ids": torch.tensor([[7], [9]]), "attention_mask": torch.ones(2, 13, dtype=torch.long)}
        step["attention_mask"][0, :3] = 0
        caches = [DynamicCache(config=model.config) for _ in range(2)]
        twin(**batch, past_key_values=caches[0])
        compiled(**batch, past_key_values=caches[1])
        steps = [
            run(**step, past_key_values=c).logits for run, c in zip((twin, compiled), caches, strict=True)
        ]
        torch.testing.assert_close(steps[1], steps[0], rtol=1e-4, atol=1e-4)


def test_outputs_bear_the_gates(bed):
    model, fires, stays, program = bed
    with steered(model, program):
        with torch.no_grad():
            output = model(**tiny.batch([fires, stays], "left"))
            as_tuple = model(**fires, return_dict=False)
        generated = model.generate(**fires, max_new_tokens=2, return_dict_in_generate=True)
    assert output.steering_gate[:, -1].tolist() == [[1.0], [0.0]]
    assert output.steering_gate.sum().item() == 1.0
    assert output["steering_gate"] is output.steering_gate
    assert as_tuple[-1][:, -1].tolist() == [[1.0]]
    assert generated.sequences.shape[1] == 11


def test_hidden_states_are_the_steered_ones(bed):
    model, fires, _, program = bed
    with steered(model, program):
        with torch.no_grad():
            output = model(**fires, output_hidden_states=True)
        prototypes = program.tensors()["steering.layers.2.prototypes"]
    cosine = torch.nn.functional.cosine_similarity(output.hidden_states[3][0, -1], prototypes).max()
    assert cosine > 1 - 1e-5


def test_gates_per_token_fire_anywhere_and_stay(bed):
    model, fires, _, _ = bed
    states = tiny.block_states(model, fires, 1)[0]
    gate = tiny.gate_between(model, fires, tiny.prompt("llama", 2, 12), pool="token")
    where = gate.tensors["weight"] @ states.T + gate.tensors["bias"] > 0
    with steered(model, tiny.program(model, [gate], [tiny.turn(2)])), torch.no_grad():
        output = model(**fires, output_hidden_states=True)
        assert torch.equal(output.steering_gate[0, :, 0] > 0, where.cumsum(0) > 0)
        assert torch.equal(answer(model, fires), answer(model, fires, use_cache=False))
        chunked = answer(model, fires, prefill_chunk_size=4)
        assert torch.equal(chunked, answer(model, fires))
    with torch.no_grad():
        base = model(**fires, output_hidden_states=True)
    changed = (output.hidden_states[3] != base.hidden_states[3]).any(-1)[0]
    assert torch.equal(changed, where.cumsum(0) > 0)
    assert where.any()


def test_an_edit_of_several_gates_steers_where_any_is_on(bed):
    model, fires, stays, program = bed
    never = replace(tiny.fixed_gate(False), name="never")
    both = tiny.program(
        model, [*program.gates, never], [replace(e, gate=("topic", "never")) for e in program.edits]
    )
    with steered(model, program):
        expected = [logits(model, **row) for row in (fires, stays)]
    with steered(model, both):
        assert all(
            torch.equal(logits(model, **row), one) for row, one in zip((fires, stays), expected, strict=True)
        )
    always = tiny.program(
        model, [*program.gates, replace(never, tensors=tiny.fixed_gate(True).tensors)], both.edits
    )
    with steered(model, always):
        assert not torch.equal(logits(model, **stays), expected[1])


@pytest.mark.parametrize(
    ("gates", "changed"), [([], "111111111"), ([tiny.fixed_gate(True)], "000000001")], ids=["always", "gated"]
)
def test_where_a_prompt_is_edited(bed, gates, changed):
    model, fires, _, _ = bed
    program = tiny.program(model, gates, [tiny.turn(1, gate="topic" if gates else None)])
    with torch.no_grad():
        base = model(**fires, output_hidden_states=True).hidden_states[2]
        with steered(model, program):
            output = model(**fires, output_hidden_states=True).hidden_states[2]
    assert "".join(str(int(c)) for c in (output != base).any(-1)[0]) == changed


def test_prompt_mean_ignores_padding(bed):
    model, fires, stays, _ = bed
    means = [tiny.block_states(model, p, 1)[0].mean(0) for p in (fires, stays)]
    weight = means[0] - means[1]
    gate = tiny.gate_between(model, fires, stays, pool="prompt_mean")
    gate = type(gate)(
        **{
            **gate.__dict__,
            "tensors": {"weight": weight, "bias": -(weight @ (means[0] + means[1]) / 2).reshape(1)},
        }
    )
    with steered(model, tiny.program(model, [gate], [tiny.turn(2)])):
        for side in ("left", "right"):
            batch = tiny.batch([fires, stays], side)
            assert model(**batch).steering_gate[:, -1].tolist() == [[1.0], [0.0]]
        alone = torch.cat([answer(model, row) for row in (fires, stays)])
        batch = tiny.batch([fires, stays], "left")
        assert torch.equal(answer(model, batch, cache_implementation="static"), alone)


def test_a_cache_cut_back_into_its_prompt_is_decided_anew(bed):
    model, fires, stays, program = bed
    with steered(model, program):
        cache = DynamicCache(config=model.config)
        logits(model, **stays, past_key_values=cache)
        cache.crop(3 - stays["input_ids"].shape[1])
        prompt = torch.cat([stays["input_ids"][:, :3], fires["input_ids"]], 1)
        output = model(input_ids=fires["input_ids"], past_key_values=cache)
        assert torch.equal(output.steering_gate, model(input_ids=prompt).steering_gate[:, 3:])


def test_copied_models_steer_on_their_own(bed):
    model, fires, _, program = bed
    base = logits(model, **fires)
    with steered(model, program):
        twin = copy.deepcopy(model)
        expected = logits(model, **fires)
    assert torch.equal(logits(model, **fires), base)
    assert torch.equal(logits(twin, **fires), expected)


def test_casting_keeps_the_steering_in_float32(bed):
    model, _, _, program = bed
    with steered(copy.deepcopy(model), program) as twin:
        twin.to(torch.bfloat16)
        assert {t.dtype for t in twin.steering.tensors().values()} == {torch.float32}
        assert twin.dtype == torch.bfloat16
        twin.steering.verify()


def test_generating_from_embeddings_says_the_same(bed):
    model, fires, stays, program = bed
    with steered(model, program):
        for row in (fires, stays):
            embeds = model.get_input_embeddings()(row["input_ids"]).detach()
            said = model.generate(
                inputs_embeds=embeds,
                attention_mask=row["attention_mask"],
                max_new_tokens=NEW,
                do_sample=False,
            )
            assert torch.equal(said, answer(model, row))


def test_static_cache_given_by_the_caller(bed):
    model, fires, _, program = bed
    with steered(model, program):
        cache = StaticCache(config=model.config, max_cache_len=64)
        assert torch.equal(answer(model, fires, past_key_values=cache), answer(model, fires))
