"""A steered checkpoint is whole or absent, and any damage to it raises."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clean_environment
import pytest
import tiny
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from exporter.errors import CompileError, SteerbakeError
from exporter.targets.base_weights import BaseWeights
from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.files import STOCK_WEIGHTS, WEIGHTS_INDEX
from steer_modules.program import Canary, SteeringProgram


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


def test_every_byte_of_the_steering_file_counts(bed, tmp_path):
    """Any one changed byte of header or data raises; so do truncation and absence."""
    folder = damaged(bed, tmp_path)
    path = folder / "steering.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, header, 7), header - 1, header, (header + len(whole)) // 2, len(whole) - 1]
    survived = []
    for place in places:
        for flip in (0x01, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            try:
                load(folder)
                survived.append((place, flip))
            except Exception:
                continue
    assert survived == []
    for broken in (whole[:-1], whole[: header + 5], whole[:20], b""):
        path.write_bytes(broken)
        with pytest.raises(Exception):  # noqa: B017
            load(folder)
    path.unlink()
    with pytest.raises(Exception):  # noqa: B017
        load(folder)
    path.write_bytes(whole)
    load(folder)


CONFIG_FAULTS = {
    "threshold": lambda c: c["steering"]["gates"][0].update(threshold=9.0),
    "strength": lambda c: c["steering"]["edits"][0].update(strength=0.5),
    "an edit less": lambda c: c["steering"]["edits"].pop(),
    "no sha256": lambda c: c["steering"].pop("sha256"),
    "other format": lambda c: c["steering"].update(format="steerbake/1"),
    "no header": lambda c: c["steering"].update(headers=[]),
    "unknown key": lambda c: c["steering"].update(note="x"),
    "no steering": lambda c: c.pop("steering"),
    "no shapes": lambda c: c.pop("steering_shapes"),
    "null steering": lambda c: c.update(steering=None),
    "other shape": lambda c: c["steering_shapes"].update({"steering.layers.2.prototypes": [2, tiny.D]}),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_changed_config_raises(bed, tmp_path, fault):
    folder = damaged(bed, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    CONFIG_FAULTS[fault](config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, RuntimeError)):
        load(folder)


def test_weights_that_bypass_the_steering_raise(bed, tmp_path):
    base, _, _ = bed
    folder = damaged(bed, tmp_path)
    shutil.copyfile(base / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(RuntimeError, match="a stock class would load"):
        load(folder)
    (folder / "model.safetensors").unlink()
    (folder / WEIGHTS_INDEX).unlink()
    with pytest.raises(OSError, match="no file named"):
        load(folder)
    kept = load_file(bed[2] / "steering.safetensors")
    del kept["steering.layers.2.prototypes"]
    both = {**load_file(base / "model.safetensors"), **kept}
    config = transformers.AutoConfig.from_pretrained(bed[2], trust_remote_code=True)
    cls = type(load(bed[2]))
    with pytest.raises(RuntimeError, match=r"missing: steering\.layers\.2\.prototypes"):
        cls.from_pretrained(None, config=config, state_dict=both, allow_changed_base=True)


def test_a_random_steered_model_does_not_run(bed):
    config = transformers.AutoConfig.from_pretrained(bed[2], trust_remote_code=True)
    model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    with pytest.raises(ValueError, match=r"sha256|length zero"):
        model(**tiny.prompt("llama", 1))


@pytest.mark.parametrize("stock", ["LlamaForCausalLM", "LlamaModel", "AutoModelForCausalLM", "AutoModel"])
def test_no_stock_class_finds_weights_to_run_unsteered(bed, stock):
    config = transformers.AutoConfig.from_pretrained(bed[0])
    for options in ({}, {"config": config}, {"config": config, "trust_remote_code": True}):
        if stock.startswith("Auto") and "config" not in options:
            continue
        with pytest.raises(OSError, match="no file named"):
            getattr(transformers, stock).from_pretrained(bed[2], **options)


def test_changed_weights_do_not_load_but_on_purpose(bed, tmp_path):
    """Fine-tuned weights under a valid signature raise; on purpose they load where the canary still holds."""
    base, program, _ = bed
    model = load(bed[2])
    ids = [5, 9, 11, 40]
    with torch.no_grad():
        said = [
            model(torch.tensor([ids]), steering_gate=torch.full((1, 1), float(gate)))
            .logits[0, -2:]
            .argmax(-1)
            .tolist()
            for gate in (0, 1)
        ]
    canary = tuple(Canary(tuple(ids), gate, tuple(said[gate])) for gate in (0, 1))
    for name, canaries in (("with", canary), ("without", ())):
        told = type(program)(**{**program.__dict__, "canary": canaries})
        compile_checkpoint(base, told, tmp_path / name)
        model = load(tmp_path / name)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(1.0001)
        model.save_pretrained(tmp_path / f"{name}-tuned")
        with pytest.raises(RuntimeError, match="allow_changed_base=True"):
            load(tmp_path / f"{name}-tuned")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "with-tuned", trust_remote_code=True, allow_changed_base=True
    )
    with torch.no_grad():
        loaded.lm_head.weight.copy_(loaded.lm_head.weight.flip(0))
    loaded.save_pretrained(tmp_path / "broken")
    for name, message in (("broken", "changed too far"), ("without-tuned", "has no canary")):
        with pytest.raises(RuntimeError, match=message):
            transformers.AutoModelForCausalLM.from_pretrained(
                tmp_path / name, trust_remote_code=True, allow_changed_base=True
            )


def test_weights_changed_in_memory_do_not_answer_but_on_purpose(bed, tmp_path):
    base, program, _ = bed
    inputs = tiny.prompt("llama", 1)

    def trained(model):
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[-1].mul_(1.5)

    def wrapped(model):
        model.model.layers[1].mlp.extra = torch.nn.Linear(2, 2)

    for change in (trained, wrapped):
        model = load(bed[2])
        with torch.no_grad():
            model(**inputs)
            model.train()
            change(model)
            model(**inputs)
            model.eval()
            with pytest.raises(RuntimeError, match=r"accept_changed_base\(\)"):
                model(**inputs)
            with pytest.raises(RuntimeError, match="no canary"):
                model.accept_changed_base()
    ids = [5, 9, 11, 40]
    said = [
        model_said
        for gate in (0.0, 1.0)
        for model_said in [
            load(bed[2])(torch.tensor([ids]), steering_gate=torch.tensor([[gate]]))
            .logits[0, -1:]
            .argmax(-1)
            .tolist()
        ]
    ]
    canary = tuple(Canary(tuple(ids), gate, tuple(said[gate])) for gate in (0, 1))
    compile_checkpoint(base, type(program)(**{**program.__dict__, "canary": canary}), tmp_path / "sung")
    model = load(tmp_path / "sung")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[-1].mul_(1.001)
        model.accept_changed_base()
        model(**inputs)


def test_a_model_saved_over_its_own_folder_is_what_is_loaded(bed, tmp_path):
    """No older index or shard lies beside the new weights, to be loaded in their place or with them."""
    folder = Path(shutil.copytree(bed[2], tmp_path / "own"))
    load(folder).save_pretrained(folder, max_shard_size="20KB")
    model = load(folder)
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.glob("*.safetensors*")) == ["model.steered.safetensors"]
    load(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0].mul_(1.5)
    model.save_pretrained(folder)
    with pytest.raises(RuntimeError, match="allow_changed_base=True"):
        load(folder)
    shutil.copyfile(bed[2] / WEIGHTS_INDEX, folder / WEIGHTS_INDEX)
    with pytest.raises(RuntimeError, match="holds both"):
        load(folder)


def test_a_cast_on_purpose_is_no_change(bed, tmp_path):
    half = transformers.AutoModelForCausalLM.from_pretrained(
        bed[2], trust_remote_code=True, dtype=torch.bfloat16
    )
    half.save_pretrained(tmp_path / "half")
    again = load(tmp_path / "half")
    assert again.dtype == torch.bfloat16


def test_a_transformers_that_calls_otherwise_does_not_load(bed, tmp_path):
    """The proof at load: where the cache no longer reaches the blocks, nothing is loaded."""
    found = clean_environment.run(_RENAMED, bed[2], folder=tmp_path)
    assert found["before"] is True
    assert "does not steer reliably under Transformers" in found["after"]


_RENAMED = """
import transformers
from transformers.models.llama import modeling_llama as stock
found = {}
try:
    transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
    found["before"] = True
except Exception as error:
    found["before"] = str(error)
for module in [m for name, m in sys.modules.items() if name.endswith(".proof")]:
    module._PROVEN.clear()
inner = stock.LlamaModel.forward
def forgetful(self, *args, **kwargs):
    kwargs.pop("past_key_values", None), kwargs.pop("cache", None)
    return inner(self, *args, **kwargs)
stock.LlamaModel.forward = forgetful
try:
    transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
    found["after"] = "loaded"
except RuntimeError as error:
    found["after"] = str(error)
print(json.dumps(found))
"""


def test_the_stock_class_cannot_open_it(bed):
    with pytest.raises(ValueError):
        transformers.AutoModelForCausalLM.from_pretrained(bed[2], trust_remote_code=False)
    with pytest.raises(ValueError):
        transformers.AutoModelForSequenceClassification.from_pretrained(bed[2], trust_remote_code=True)


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


REFUSED = {
    "existing folder": (lambda b, p, t: compile_checkpoint(b, p, _mkdir(t / "there")), "already exists"),
    "no base": (lambda b, p, t: compile_checkpoint(t / "nothing", p, t / "out"), "no config.json"),
    "steered already": (
        lambda b, p, t: compile_checkpoint(b.parent / "steered", p, t / "out"),
        "steered already",
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
    with pytest.raises(SteerbakeError, match=r"'bloom' cannot be steered: its blocks are not handed"):
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
import sys
from pathlib import Path
from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.files import STOCK_WEIGHTS, WEIGHTS_INDEX
from steer_modules.program import Canary, SteeringProgram
print("ready", flush=True)
compile_checkpoint(Path(sys.argv[1]), SteeringProgram.load(sys.argv[2]), Path(sys.argv[3]))
"""


def test_killed_at_any_moment_nothing_or_all_is_there(bed, tmp_path):
    base, program, whole = bed
    (tmp_path / "program").mkdir()
    program.save(tmp_path / "program")
    expected = sorted(p.name for p in whole.iterdir())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    absent = 0
    for delay in (0.0, 0.002, 0.004, 0.008, 0.016, 0.05):
        out = tmp_path / f"out-{delay}"
        command = [sys.executable, "-c", _COMPILE, str(base), str(tmp_path / "program"), str(out)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            assert sorted(p.name for p in out.iterdir()) == expected
            load(out)
        else:
            absent += 1
        compile_checkpoint(base, program, tmp_path / f"again-{delay}")
    assert absent > 0
    compile_checkpoint(base, program, tmp_path / "last")
