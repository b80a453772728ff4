"""A tiny Llama, a program and the checkpoint that they compile to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import transformers

from exporter.targets.checkpoint import compile_checkpoint


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """Base folder, program and checkpoint of a tiny Llama with an always-on gate."""
    home = tmp_path_factory.mktemp("checkpoint")
    model = tiny.build("llama")
    model.save_pretrained(home / "base")
    (home / "base" / "tokenizer_config.json").write_text("{}")
    (home / "base" / "chat_template.jinja").write_text("{{ messages }}")
    (home / "base" / "LICENSE").write_text("Apache-2.0")
    (home / "base" / "README.md").write_text("the base's own card")
    program = tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2), tiny.turn(3, seed=9)])
    compile_checkpoint(home / "base", program, home / "steered")
    return home / "base", program, home / "steered"


def load(folder: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def damaged(bed, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may break."""
    return Path(shutil.copytree(bed[2], tmp_path / "broken"))
