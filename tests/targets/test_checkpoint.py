"""A steered checkpoint is whole or absent, stands alone, and is compiled from sound bases only."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import checkpoint_bed
import clean_environment
import pytest
import tiny
import torch
import transformers
from checkpoint_bed import load
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from exporter.errors import CompileError, SteerbakeError
from exporter.targets.base_weights import BaseWeights
from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.files import STOCK_WEIGHTS, WEIGHTS_INDEX
from steer_modules.program import SteeringProgram

bed = checkpoint_bed.bed


def test_layout(bed):
    _, program, out = bed
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "steered_llama"
    assert config["architectures"] == ["SteeredLlamaForCausalLM"]
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    assert not any((out / name).exists() for name in STOCK_WEIGHTS)
    assert not (out / "steering.json").exists()
    assert not (out / "README.md").exists()
    assert all(
        (out / name).exists()
        for name in ("tokenizer_config.json", "chat_template.jinja", "LICENSE", "generation_config.json")
    )
    weight_map = json.loads((out / WEIGHTS_INDEX).read_text())["weight_map"]
    assert {n for n, shard in weight_map.items() if shard == "steering.safetensors"} == set(program.tensors())
    again = SteeringProgram.parse(config["steering"], load_file(out / "steering.safetensors"))
    assert again.edits[0].positions == "from_gate"
    assert again.base.fingerprint == BaseWeights.read(bed[0]).fingerprint()


def test_fingerprint_is_the_documented_one(bed):
    base = bed[0]
    digest = hashlib.sha256()
    with safe_open(base / "model.safetensors", "pt") as shard:
        for name in sorted(shard.keys()):
            tensor = shard.get_tensor(name)
            shape = ",".join(str(s) for s in tensor.shape)
            digest.update(f"{name}F32[{shape}]".encode() + tensor.numpy().tobytes()[:4096])
    assert BaseWeights.read(base).fingerprint() == f"sha256:{digest.hexdigest()}"


def test_travelling_code_imports_nothing_of_ours(bed):
    for path in bed[2].glob("*.py"):
        text = path.read_text()
        assert "exporter." not in text.replace("exporter's compile", "")
        assert "TYPE_CHECKING" not in text
        assert "import steer_modules" not in text and "from steer_modules" not in text


_SAVE = """
import transformers, pathlib
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
model.save_pretrained("one")
model.save_pretrained("many", max_shard_size="20KB")
inputs = torch.tensor([[3, 4, 5, 6]])
said = []
for folder in (sys.argv[1], "one", "many"):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    said.append(loaded.generate(inputs, max_new_tokens=6, do_sample=False).tolist())
print(json.dumps([said[0] == said[1] == said[2], sorted(p.name for p in pathlib.Path("one").glob("*.py")),
                  json.loads(pathlib.Path("one/config.json").read_text())["auto_map"]["AutoConfig"]]))
"""


def test_saved_again_in_a_clean_environment_it_stands_alone(bed, tmp_path):
    same, code, config_class = clean_environment.run(_SAVE, bed[2], folder=tmp_path)
    assert same
    assert sorted(code) == sorted(p.name for p in bed[2].glob("*.py"))
    assert config_class == "modeling_steered_llama.SteeredLlamaConfig"


def test_sharded_bases_keep_their_shards(bed, tmp_path):
    base, program, out = bed
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    compile_checkpoint(tmp_path / "sharded", program, tmp_path / "steered")
    shards = sorted(p.name for p in (tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all((tmp_path / "sharded" / s).samefile(tmp_path / "steered" / s) for s in shards)
    inputs = tiny.prompt("llama", 1)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "steered")(**inputs).logits, load(out)(**inputs).logits)


SMUGGLED = {
    "a tensor of the base": ("steering.safetensors", "model.layers.0.mlp.down_proj.weight"),
    "a tensor of another shard": ("base", "steering.layers.2.prototypes"),
    "a tensor of nobody": ("steering.safetensors", "model.layers.0.mlp.further.weight"),
}
"""Transformers loads every tensor of every shard, whatever the index says of it."""


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_shard_with_a_tensor_that_the_index_does_not_place_there_is_not_loaded(bed, tmp_path, name):
    shard, tensor = SMUGGLED[name]
    shutil.copytree(bed[2], tmp_path / "steered")
    weight_map = json.loads((bed[2] / WEIGHTS_INDEX).read_text())["weight_map"]
    shards = {file: load_file(bed[2] / file) for file in set(weight_map.values())}
    path = tmp_path / "steered" / (shard if shard != "base" else weight_map["model.norm.weight"])
    found = dict(shards[path.name])
    like = {key: one for some in shards.values() for key, one in some.items()}
    found[tensor] = torch.zeros_like(like[tensor]) if tensor in like else torch.zeros(2, 2)
    path.unlink()  # a link to the base's own file
    save_file(found, path)
    with pytest.raises(RuntimeError, match=tensor.replace(".", r"\.")):
        load(tmp_path / "steered")


def test_a_tensor_that_an_index_forgets_is_listed_again(bed, tmp_path):
    """Transformers loads it from its shard all the same."""
    base, program, out = bed
    transformers.AutoModelForCausalLM.from_pretrained(base).save_pretrained(
        tmp_path / "sharded", max_shard_size="20KB"
    )
    index = tmp_path / "sharded" / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    del told["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(told))
    compile_checkpoint(tmp_path / "sharded", program, tmp_path / "steered")
    inputs = tiny.prompt("llama", 1)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "steered")(**inputs).logits, load(out)(**inputs).logits)


REFUSED = {
    "existing folder": (lambda b, p, t: compile_checkpoint(b, p, _mkdir(t / "there")), "already exists"),
    "no base": (lambda b, p, t: compile_checkpoint(t / "nothing", p, t / "out"), "no config.json"),
    "steered already": (
        lambda b, p, t: compile_checkpoint(b.parent / "steered", p, t / "out"),
        "already steered",
    ),
    "other base": (
        lambda b, p, t: compile_checkpoint(b, p.with_fingerprint("sha256:" + "0" * 64), t / "out"),
        "another model",
    ),
}


def _mkdir(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_compile_refuses(bed, tmp_path, name):
    base, program, _ = bed
    act, message = REFUSED[name]
    with pytest.raises(CompileError, match=message):
        act(base, program, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] in ([], ["there"])
    assert list((tmp_path / "there").iterdir()) == [] if (tmp_path / "there").exists() else True


def test_families_that_cannot_be_steered_are_refused_by_name(bed, tmp_path):
    base, program, _ = bed
    other = Path(shutil.copytree(base, tmp_path / "base"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "model_type": "bloom", "architectures": ["BloomForCausalLM"]})
    )
    bloom = type(program)(**{**program.__dict__, "base": type(program.base)("BloomForCausalLM", "bloom")})
    with pytest.raises(SteerbakeError, match=r"'bloom' cannot be steered: its blocks"):
        compile_checkpoint(other, bloom, tmp_path / "out")


@pytest.mark.parametrize("fault", ["truncated", "not safetensors", "missing shard", "pickle only"])
def test_broken_bases_are_refused(bed, tmp_path, fault):
    base, program, _ = bed
    other = Path(shutil.copytree(base, tmp_path / "base"))
    weights = other / "model.safetensors"
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif fault == "not safetensors":
        weights.write_bytes(b"\xff" * 100)
    elif fault == "missing shard":
        (other / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-1.safetensors"}})
        )
        weights.unlink()
    else:
        weights.rename(other / "pytorch_model.bin")
    with pytest.raises(CompileError):
        compile_checkpoint(other, program, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_that_has_steering_tensors_is_refused(bed, tmp_path):
    base, program, _ = bed
    other = Path(shutil.copytree(base, tmp_path / "base"))
    tensors = load_file(other / "model.safetensors")
    save_file(
        {**tensors, "steering.x": torch.zeros(1)}, other / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(CompileError, match="called steering"):
        compile_checkpoint(other, program, tmp_path / "out")


_COMPILE = """
import os, sys
from pathlib import Path
from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.files import STOCK_WEIGHTS, WEIGHTS_INDEX
from steer_modules.program import Canary, SteeringProgram
for line in sys.stdin:
    if not (child := os.fork()):
        print(os.getpid(), flush=True)
        compile_checkpoint(Path(sys.argv[1]), SteeringProgram.load(sys.argv[2]), Path(line.strip()))
        os._exit(0)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""
"""A process that imports once and compiles in a child of its own for each line that it is given."""


def test_killed_at_any_moment_nothing_or_all_is_there(bed, tmp_path):
    base, program, whole = bed
    (tmp_path / "program").mkdir()
    program.save(tmp_path / "program")
    expected = sorted(p.name for p in whole.iterdir())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _COMPILE, str(base), str(tmp_path / "program")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    absent = there = 0
    with subprocess.Popen(command, env=environment, **pipes) as process:
        for delay in (0.0, 0.002, 0.004, 0.008, 0.016, 0.05, 0.4, 20.0):
            out = tmp_path / f"out-{delay}"
            print(out, file=process.stdin, flush=True)
            child = int(process.stdout.readline())
            ended, _, _ = select.select([process.stdout], [], [], delay)
            if not ended:
                os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "ended\n"
            if out.exists():
                assert sorted(p.name for p in out.iterdir()) == expected
                load(out)
                there += 1
            else:
                absent += 1
            compile_checkpoint(base, program, tmp_path / f"again-{delay}")
        process.stdin.close()
    assert there > 0, "the control: what is not killed is whole"
    assert absent > 0
    compile_checkpoint(base, program, tmp_path / "last")
