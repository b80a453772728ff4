"""A steered model answers only under the settings that its steering was fitted with, however others were given."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file

from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.attach import steered as attached
from steer_modules.program import Canary, program_sha256

PROMPT = tiny.prompt("llama", 1)
OTHERS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 3.0},
    "rms_norm_eps": 1.0,
    "hidden_act": "relu",
    "is_causal": False,
}
REFUSED = r"allow_changed_base=True|attends to later ones|unexpected keyword"  # others may see it first
HARMLESS = {"use_cache": False, "attention_dropout": 0.3, "pad_token_id": 2, "output_hidden_states": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.compiled_llama(tmp_path_factory.mktemp("settings"))


def load(folder: Path, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def answers(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**PROMPT).logits


@pytest.mark.parametrize(("key", "value"), OTHERS.items(), ids=OTHERS)
def test_a_setting_given_at_load_is_refused(folder, key, value):
    with pytest.raises((RuntimeError, TypeError), match=REFUSED):
        load(folder, **{key: value})


@pytest.mark.parametrize(("key", "value"), OTHERS.items(), ids=OTHERS)
def test_a_config_given_at_load_is_held_to_the_folders(folder, key, value):
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    setattr(config, key, value)
    with pytest.raises(RuntimeError, match=REFUSED):
        load(folder, config=config)


@pytest.mark.parametrize(("key", "value"), OTHERS.items(), ids=OTHERS)
def test_an_edited_config_file_is_refused(folder, key, value, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(RuntimeError, match=REFUSED):
        load(copied)


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize(("key", "value"), OTHERS.items(), ids=OTHERS)
def test_a_setting_changed_in_memory_does_not_answer(folder, key, value, asked_before, tmp_path):
    model = load(folder)
    if asked_before:
        answers(model)
    setattr(model.config, key, value)
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)") as raised:
        answers(model)
    assert key in str(raised.value)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(RuntimeError, match=REFUSED):
        load(tmp_path / "saved")


def test_how_a_model_is_run_may_be_set_anywhere(folder, tmp_path):
    wanted = answers(load(folder))
    model = load(folder, **HARMLESS)
    assert torch.equal(answers(model), wanted)
    for key, value in HARMLESS.items():
        setattr(model.config, key, value)
    assert torch.equal(answers(model), wanted)
    model.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), **HARMLESS, "transformers_version": "5.99.0"})
    )
    assert torch.equal(answers(load(tmp_path / "saved")), wanted)


def test_saved_weights_of_another_type_keep_their_settings(folder, tmp_path):
    model = load(folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "saved", state_dict=state)
    assert torch.equal(answers(load(tmp_path / "saved")), answers(model))


def without_settings(folder: Path, out: Path, *, signed_again: bool) -> Path:
    """A copy whose config.json does not say with which settings it was compiled; as earlier versions wrote it, where it is signed again."""
    copied = shutil.copytree(folder, out)
    path = copied / "config.json"
    config = json.loads(path.read_text())
    del config["steering_settings"]
    if signed_again:
        del config["steering"]["base"]["settings"]
        config["steering"]["sha256"] = program_sha256(
            config["steering"], load_file(copied / "steering.safetensors")
        )
    path.write_text(json.dumps(config))
    return copied


def test_a_folder_whose_settings_were_taken_out_is_refused(folder, tmp_path):
    """Its signed section says that they are there."""
    copied = without_settings(folder, tmp_path / "copied", signed_again=False)
    with pytest.raises(RuntimeError, match=r"config\.steering_settings"):
        load(copied)
    path = copied / "config.json"
    config = json.loads(path.read_text())
    del config["steering"]["base"]["settings"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="sha256"):
        load(copied)


def test_a_model_that_is_built_without_them_and_filled_is_refused(folder):
    model = load(folder)
    config = copy.deepcopy(model.config)
    del config.steering_settings
    built = type(model)(config)
    built.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=r"config\.steering_settings"):
        built.eval()(**PROMPT)


def test_a_folder_of_an_earlier_version_is_held_to_its_file(folder, tmp_path):
    copied = without_settings(folder, tmp_path / "copied", signed_again=True)
    assert torch.equal(answers(load(copied)), answers(load(folder)))
    with pytest.raises(RuntimeError, match=r"config\.rms_norm_eps"):
        load(copied, rms_norm_eps=1.0)


def test_weights_that_a_hook_changes_on_their_way_are_not_signed(folder, tmp_path):
    model = load(folder)

    def altered(_module, state, _prefix, _metadata) -> None:
        for name in state:
            if "steering." not in name:
                state[name] = state[name] * 1.01

    model.register_state_dict_post_hook(altered)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(RuntimeError, match="allow_changed_base=True"):
        load(tmp_path / "saved")


def test_settings_that_the_canary_bears_may_be_taken_on_purpose(tmp_path):
    model = tiny.build("llama")
    model.save_pretrained(tmp_path / "base")
    gates, edits = [tiny.fixed_gate(True)], [tiny.turn(2)]
    canary = recorded_canary(model, tiny.program(model, gates, edits))
    steered = compile_checkpoint(tmp_path / "base", canary, tmp_path / "steered")
    model = load(steered, max_position_embeddings=99, allow_changed_base=True)
    assert answers(model).isfinite().all()
    model.config.max_position_embeddings = 98
    with pytest.raises(RuntimeError, match=r"max_position_embeddings"):
        answers(model)
    model.accept_changed_base()
    assert answers(model).isfinite().all()


def recorded_canary(model, program):
    """The program with what the steered model answers to a few tokens."""
    ids = tuple(PROMPT["input_ids"][0].tolist())
    with attached(model, program), torch.no_grad():
        said = [model(**PROMPT, steering_gate=torch.full((1, 1), float(on))).logits[0, -2:] for on in (0, 1)]
    canary = [Canary(ids, on, tuple(one.argmax(-1).tolist())) for on, one in enumerate(said)]
    return replace(program, canary=tuple(canary))


@pytest.mark.parametrize(("key", "value"), OTHERS.items(), ids=OTHERS)
def test_a_model_built_from_another_config_and_filled_does_not_answer(folder, key, value, tmp_path):
    """Whoever builds it: what it would save is not what was compiled either."""
    whole = load(folder)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    setattr(config, key, value)
    model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()
    model.load_state_dict(whole.state_dict())
    with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)|attends to later ones"):
        answers(model)


def test_a_model_built_from_its_config_and_filled_answers(folder):
    whole = load(folder)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()
    model.load_state_dict(whole.state_dict())
    assert torch.equal(answers(model), answers(whole))


@pytest.mark.parametrize("family", ["llama", "llava", "gemma3_text"])
def test_a_config_that_leaves_defaults_out_may_be_spelled_anew(family, tmp_path):
    """As on the Hub; ``AutoConfig.save_pretrained`` writes the defaults too, and the end token may be another."""
    model = tiny.build(family)
    model.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    full = json.loads(path.read_text())
    default = type(model.config)().to_dict()
    path.write_text(
        json.dumps(
            {k: v for k, v in full.items() if k in ("architectures", "model_type") or default.get(k) != v}
        )
    )
    program = tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2)])
    steered = compile_checkpoint(tmp_path / "base", program, tmp_path / "steered")
    config = transformers.AutoConfig.from_pretrained(steered, trust_remote_code=True)
    config.eos_token_id = 7
    config.save_pretrained(steered)
    task = "AutoModelForImageTextToText" if family == "llava" else "AutoModelForCausalLM"
    loaded = getattr(transformers, task).from_pretrained(steered, trust_remote_code=True)
    with torch.no_grad():
        assert loaded(**tiny.prompt(family, 1)).logits.isfinite().all()


def test_a_key_that_computes_nothing_may_be_added_to_the_file(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    path = copied / "config.json"
    more = {
        "license": "mit",
        "transformers.js_config": {"dtype": "q4"},
        "temperature": 0.7,
        "name_or_path": "x/y",
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    assert torch.equal(answers(load(copied)), answers(load(folder)))
