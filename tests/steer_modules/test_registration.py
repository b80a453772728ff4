"""Who has the library need not run the code of a folder."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
import transformers

from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.registration import register


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("registration")
    model = tiny.build("qwen3")
    model.save_pretrained(home / "base")
    program = tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2)])
    return compile_checkpoint(home / "base", program, home / "steered")


def test_registered_models_load_without_trusting_the_folder(folder, tmp_path):
    told = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    for path in folder.glob("*.py"):
        path.write_text("raise RuntimeError('code of the folder was run')")
    register(folder)
    register(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    inputs = tiny.prompt("qwen3", 1)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, told(**inputs).logits)
        assert bool((model(**inputs).steering_gate[:, -1] == 1).all())
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, told(**inputs).logits)
    assert "was run" not in (tmp_path / "again" / "modeling_steered_qwen3.py").read_text()


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(ValueError, match=r"config\.json"):
        register(tmp_path)
