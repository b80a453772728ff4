"""Programs and checkpoints of format steerbake/1 are brought to today's where the law can be kept, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny_run import ASSISTANT, always_on, write_base

from exporter import pipeline
from exporter.errors import CompileError, VerificationError
from steer_modules.checks import ProgramError
from steer_modules.program import program_sha256


def old_section(
    positions: str = "from_prompt_end", gate: str | None = "topic", pool: str = "prompt_end"
) -> dict:
    """What the first release wrote of an always-on program."""
    section = always_on().section()
    del section["headers"]
    section |= {"format": "steerbake/1"}
    section["gates"][0] |= {"pool": pool}
    section["edits"][0] |= {"positions": positions, "gate": gate}
    if gate is None:
        section["gates"] = []
    return section


def tensors(section: dict) -> dict[str, torch.Tensor]:
    found = always_on().tensors()
    return found if section["gates"] else {n: t for n, t in found.items() if ".gates." not in n}


def write_old_steering(folder: Path, section: dict) -> Path:
    folder.mkdir()
    signed = {**section, "sha256": program_sha256(section, tensors(section))}
    (folder / "steering.json").write_text(json.dumps(signed))
    save_file(tensors(section), folder / "steering.safetensors")
    return folder


def write_old_checkpoint(base: Path, folder: Path) -> Path:
    """The layout of the first release: standard names of weights, and code that nothing here runs."""
    shutil.copytree(base, folder)
    section = old_section()
    signed = {**section, "sha256": program_sha256(section, tensors(section))}
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "steered_llama",
        "architectures": ["SteeredLlamaForCausalLM"],
        "steering": signed,
    }
    config |= {"auto_map": {"AutoConfig": "modeling_steered_llama.SteeredLlamaConfig"}}
    config |= {"steering_shapes": {name: list(tensor.shape) for name, tensor in tensors(section).items()}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_steered_llama.py").write_text("raise RuntimeError('the old code was run')")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    save_file(tensors(section), folder / "steering.safetensors")
    from safetensors import safe_open

    with safe_open(folder / "model-00001-of-00001.safetensors", "pt") as shard:
        names = dict.fromkeys(shard.keys(), "model-00001-of-00001.safetensors")
    names |= dict.fromkeys(tensors(section), "steering.safetensors")
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("upgrade") / "base"
    write_base(folder)
    return folder


def steers(folder: Path) -> bool:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.tensor([[1, 8, 9, *ASSISTANT, 10]])
    with torch.no_grad():
        return model(ids).steering_gate[0, :, 0].tolist() == [0, 0, 0, 1, 1]


def test_an_old_steering_folder_is_compiled_with_the_headers_of_the_base(base, tmp_path):
    for pool in ("prompt_end", "prompt_mean"):
        steering = write_old_steering(tmp_path / f"steering-{pool}", old_section(pool=pool))
        out = pipeline.compile(base, steering, tmp_path / pool)
        section = json.loads((out / "config.json").read_text())["steering"]
        assert section["headers"] == [list(ASSISTANT)]
        assert section["edits"][0]["positions"] == "from_gate"
        assert steers(out)


def test_an_old_checkpoint_is_rewritten(base, tmp_path):
    old = write_old_checkpoint(base, tmp_path / "old")
    with pytest.raises(VerificationError, match="--upgrade"):
        pipeline.inspect(old)
    new = pipeline.upgrade(old, tmp_path / "new")
    assert steers(new)
    pipeline.inspect(new)
    assert not list(tmp_path.glob(".upgrade-*"))
    with pytest.raises(CompileError, match="steerbake/1"):
        pipeline.upgrade(new, tmp_path / "newer")


@pytest.mark.parametrize(
    ("positions", "gate"), [("to_prompt_end", "topic"), ("all", "topic"), ("from_prompt_end", None)]
)
def test_what_must_know_its_gate_earlier_is_refused(base, tmp_path, positions, gate):
    steering = write_old_steering(tmp_path / "steering", old_section(positions, gate))
    with pytest.raises(ProgramError, match=r"edits\[0\]"):
        pipeline.compile(base, steering, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_old_program_that_was_altered_is_refused(base, tmp_path):
    steering = write_old_steering(tmp_path / "steering", old_section())
    section = json.loads((steering / "steering.json").read_text())
    section["gates"][0]["threshold"] = 9.0
    (steering / "steering.json").write_text(json.dumps(section))
    with pytest.raises(ProgramError, match="sha256"):
        pipeline.compile(base, steering, tmp_path / "out")
