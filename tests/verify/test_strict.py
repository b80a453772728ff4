"""Strict loading finds what it is for: a checkpoint that would load damaged, says something else, or needs our packages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_run
import torch
from transformers import AutoTokenizer

from exporter.errors import VerificationError
from exporter.host import ModelHost
from exporter.targets.transformers_loads import plain_checkpoint, steered_checkpoint
from exporter.targets.values import NEW_TOKENS, Completions
from exporter.types import Prompt
from steer_modules.registration import register

TEXT = "<s> [user] where does ada live ? [assistant]"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strict")
    tiny_run.write_base(folder / "base")
    tiny_run.steer(folder / "base", folder / "checkpoint")
    return folder


def completions(folder: Path) -> Completions:
    if (folder / "steering.safetensors").is_file():
        register(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tuple(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    host = ModelHost.load(folder, dtype=torch.float32)
    prompt = Prompt(TEXT, ids)
    return Completions([prompt], [host.generate([prompt], max_new_tokens=NEW_TOKENS)[0].tokens])


@pytest.fixture
def unchecked(monkeypatch):
    """Whatever code a folder holds is run, so that what strict loading itself finds is seen."""
    monkeypatch.setattr("exporter.targets.transformers_loads.check_code", lambda *_: None)


def test_what_must_not_load_does_not_and_another_model_s_words_are_found(home):
    ours, other = completions(home / "checkpoint"), completions(home / "base")
    assert other.tokens != ours.tokens, "the control: steering changes what is said"
    both = Completions([*ours.prompts, *ours.prompts], [*ours.tokens, *other.tokens])
    found = steered_checkpoint(home / "checkpoint", both)
    assert len(found.value["refused"]) == 5 and None not in found.value["refused"].values()
    assert not found.holds and found.message.startswith("1 of 2 replies")


def test_generation_settings_of_the_base_do_not_make_it_another_model(home, tmp_path):
    """They are for the users of a checkpoint; what is compared is the likeliest token on both sides."""
    base = Path(shutil.copytree(home / "base", tmp_path / "base"))
    told = {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_new_tokens": 20, "do_sample": True}
    told |= {"stop_strings": ["the"], "cache_implementation": "hybrid", "suppress_tokens": [5, 6, 7]}
    path = base / "generation_config.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**kept, **told}))
    tiny_run.steer(base, tmp_path / "checkpoint")
    assert json.loads((tmp_path / "checkpoint" / path.name).read_text())["repetition_penalty"] == 9.0
    ours = completions(tmp_path / "checkpoint")
    assert ours.tokens == completions(home / "checkpoint").tokens
    assert len(set(ours.tokens[0])) < len(ours.tokens[0]), "the control: a reply that a penalty would change"
    found = steered_checkpoint(tmp_path / "checkpoint", ours)
    assert found.holds, found.message
    plain = plain_checkpoint(base, completions(base), "export it again", {})
    assert plain.holds, plain.message


def test_code_that_does_not_look_is_found(home, tmp_path, unchecked):
    """A checkpoint that fails open: the code that travels in it loads whatever lies there."""
    folder = Path(shutil.copytree(home / "checkpoint", tmp_path / "checkpoint"))
    code = folder / "steered_model.py"
    text = code.read_text().replace("self.steering.verify()", "self.steering.hold()")
    code.write_text(text)
    found = steered_checkpoint(folder, completions(home / "checkpoint"))
    assert not found.holds
    assert "with one byte of it changed" in found.message
    assert found.value["refused"]["without its steering file"] is not None


def test_code_that_needs_our_packages_does_not_load(home, tmp_path, unchecked):
    folder = Path(shutil.copytree(home / "checkpoint", tmp_path / "checkpoint"))
    code = folder / "ops.py"
    code.write_text(code.read_text().replace("import torch\n", "import torch\nimport steer_modules.ops\n", 1))
    assert "import steer_modules.ops" in code.read_text()
    with pytest.raises(VerificationError, match="clean environment"):
        steered_checkpoint(folder, completions(home / "checkpoint"))


def test_a_stock_checkpoint_has_no_code(home, tmp_path):
    folder = Path(shutil.copytree(home / "base", tmp_path / "stock"))
    (folder / "modeling.py").touch()
    found = plain_checkpoint(folder, completions(folder), "export it again", {})
    assert not found.holds and found.message.startswith("it contains code: modeling.py")
