"""Families that are in no list: compiled because a tiny twin keeps every law, or refused with the law that it breaks."""

from __future__ import annotations

import pytest
import shipping
import tiny
import tiny_further
import torch
import transformers
from shipping import answer

from exporter import pipeline
from exporter.errors import CompileError
from exporter.steerable import why_unsteerable
from exporter.targets.checkpoint import prove_family
from exporter.targets.contract import LAWS
from exporter.targets.twin_pictures import pictured
from steer_modules.attach import steered
from steer_modules.proof import random_twin
from steer_modules.twin import twin_config

SOME = ("mixtral", "llava_next")
"""Those that a clean environment is asked about in every run of the tests; the others are slow."""
OTHERS = tuple(one for one in tiny_further.FAMILIES if one not in SOME)
FURTHER = [pytest.param(one, marks=() if one in SOME else pytest.mark.slow) for one in tiny_further.FAMILIES]


@pytest.fixture(scope="module", autouse=True)
def _known():
    with pytest.MonkeyPatch.context() as patch:
        tiny_further.install(patch)
        yield


def prompts(family: str):
    return tiny_further.prompt(family, 1, 9), tiny_further.prompt(family, 2, 12)


def config(model_type: str, architecture: str, **values):
    made = transformers.AutoConfig.for_model(model_type, **values)
    made.architectures = [architecture]
    return made


@pytest.mark.parametrize("family", FURTHER)
def test_with_pictures_too_gates_are_kept_apart(family):
    """What the proof tries with text alone: gate off, mixed gates with a cache and without, padding."""
    model, (fires, stays) = tiny.build(family), prompts(family)
    base = answer(model, stays)
    with torch.no_grad():
        plain = model(**fires).logits
        with steered(model, tiny.program(model, [tiny.fixed_gate(False)], [tiny.turn(1), tiny.turn(3)])):
            assert torch.equal(model(**fires).logits, plain)
        with steered(model, tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(1), tiny.turn(3)])):
            assert not torch.allclose(model(**fires).logits, plain, atol=float(plain.abs().max()) * 1e-2)
    gate = tiny.gate_between(model, fires, stays)
    with steered(model, tiny.program(model, [gate], [tiny.turn(2), tiny.turn(3, seed=9)])):
        alone = torch.cat([answer(model, fires), answer(model, stays)])
        batch = tiny.batch([fires, stays], "left")
        assert torch.equal(answer(model, batch), alone)
        assert torch.equal(answer(model, batch, use_cache=False), alone)
    assert torch.equal(alone[1:], base)


@pytest.mark.parametrize(
    "families", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"]
)
def test_what_was_compiled_by_proof_loads_in_a_clean_environment(families, tmp_path):
    for family in families:
        shipping.ship(tmp_path, family, *prompts(family))
    (tmp_path / "clean").mkdir()
    found = shipping.found_in_a_clean_environment(tmp_path, families, tmp_path / "clean")
    assert found == dict.fromkeys(families, shipping.GOOD)


def paligemma(**values):
    """PaliGemma as its users have it, made tiny."""
    text = {"model_type": "gemma", **tiny._DECODER, "head_dim": 8}
    tower = {**tiny._TOWER, "model_type": "siglip_vision_model", "image_size": 16, "patch_size": 4}
    values = {"projection_dim": tiny.D, "hidden_size": tiny.D, "image_token_index": tiny.IMAGE, **values}
    return config(
        "paligemma", "PaliGemmaForConditionalGeneration", text_config=text, vision_config=tower, **values
    )


REFUSED = {
    "paligemma": (paligemma, "a column attends to later ones"),
    "bloom": (
        lambda: config("bloom", "BloomForCausalLM", hidden_size=32, n_layer=4, n_head=4, vocab_size=96),
        "keyword arguments",
    ),
    "qwen3_next": (
        lambda: config(
            "qwen3_next",
            "Qwen3NextForCausalLM",
            **{**tiny._DECODER, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 32},
            shared_expert_intermediate_size=32,
        ),
        "its cache contains a state",
    ),
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_breaks_a_law_is_refused_with_it(family, monkeypatch):
    """Known by name before any model is built; and where the name were not known, by the twin."""
    made, law = REFUSED[family]
    assert f"{family!r} cannot be steered" in str(why_unsteerable(made()))
    monkeypatch.setattr("exporter.targets.proof.why_unsteerable", lambda _config: None)
    with pytest.raises(CompileError, match=rf"{family!r} cannot be steered: .*{law}"):
        prove_family(made())


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "bert"}, "an encoder"),
        ({"model_type": "mamba"}, "cache is a recurrent state"),
        ({"model_type": "rwkv"}, "cache is a recurrent state"),
        ({"model_type": "jamba"}, "cache is a recurrent state"),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "'conv'"),
        ({"model_type": "llava", "text_config": {"model_type": "mamba"}}, "cache is a recurrent state"),
        ({"model_type": "llama", "per_layer_config": {"0": {}}}, "per_layer_config"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "mixtral", "output_router_logits": True}, "output_router_logits"),
        ({"model_type": "no_such_model"}, "does not have this model type"),
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, "not a task model"),
    ],
)
def test_what_a_config_alone_tells(told, why):
    assert why in str(why_unsteerable(told))


@pytest.mark.parametrize("family", [*tiny.CONFIGS, *tiny_further.FAMILIES])
def test_nothing_is_said_against_what_can_be_steered(family):
    architecture, values = tiny.CONFIGS[family]
    assert why_unsteerable({"model_type": family, "architectures": [architecture], **values}) is None
    assert why_unsteerable(config(family, architecture, **values)) is None


@pytest.mark.parametrize("family", ["olmo2", "mistral3"])
def test_a_passed_proof_says_what_was_tried(family):
    architecture, values = tiny.CONFIGS[family]
    record = prove_family(config(family, architecture, **values)).record()
    assert record["transformers"] == transformers.__version__
    assert set(LAWS) - set(record["laws"]) == (set() if tiny.sees(family) else {"pictures"})


@pytest.mark.parametrize("family", [family for family in tiny.CONFIGS if tiny.sees(family)])
def test_every_family_that_sees_is_tried_with_pictures(family):
    """Of all whose pictures have tests of their own, none has a form that the proof does not find."""
    architecture, values = tiny.CONFIGS[family]
    model = random_twin(
        getattr(transformers, architecture), twin_config(config(family, architecture, **values))
    )
    with torch.no_grad():
        short, long = pictured(model) or ({}, {})
    assert 0 < short["input_ids"].shape[1] < long["input_ids"].shape[1]


def test_a_config_that_cannot_be_made_small_is_refused_by_the_attribute():
    """Told in a sentence, not by what the constructor happens to raise."""
    _, values = tiny.CONFIGS["llama"]
    made = config("llama", "LlamaForCausalLM", **{**values, "num_attention_heads": 4, "head_dim": 8})
    object.__setattr__(made, "num_attention_heads", None)
    with pytest.raises(CompileError, match=r"no tiny twin .*num_attention_heads = None"):
        prove_family(made)


def test_a_proof_draws_no_number_of_its_caller(tmp_path):
    architecture, values = tiny.CONFIGS["starcoder2"]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    prove_family(config("starcoder2", architecture, **values))
    assert torch.equal(torch.rand(4), expected)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_the_command_refuses_before_it_writes(tmp_path):
    made, _ = REFUSED["bloom"]
    base = tmp_path / "base"
    model = transformers.BloomForCausalLM(made())
    model.save_pretrained(base)
    program = tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2)])
    (tmp_path / "steering").mkdir()
    program.save(tmp_path / "steering")
    with pytest.raises(CompileError, match="'bloom' cannot be steered"):
        pipeline.compile(base, tmp_path / "steering", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "steering"]


def test_a_cache_that_keeps_a_state_of_its_own_is_found_out(monkeypatch):
    """MiniMax adds states beside the columns of a cache, which go with no column when they are moved or cut off."""
    monkeypatch.setattr("exporter.targets.proof.why_unsteerable", lambda _config: None)
    made = config(
        "minimax",
        "MiniMaxForCausalLM",
        **{**tiny._DECODER, "head_dim": 8, "num_local_experts": 4},
        layer_types=["full_attention", "linear_attention"] * 2,
    )
    with pytest.raises(CompileError, match=r"law 'columns'.*its cache contains a state"):
        prove_family(made)
