"""A checkpoint that was damaged or changed does not load, however it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import checkpoint_bed
import clean_environment
import pytest
import tiny
import torch
import transformers
from checkpoint_bed import damaged, load
from safetensors.torch import load_file

from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.files import WEIGHTS_INDEX
from steer_modules.program import Canary

bed = checkpoint_bed.bed


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
    with pytest.raises(RuntimeError, match="stock class"):
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
    for name, message in (("broken", "canary"), ("without-tuned", "no canary")):
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
            with torch.enable_grad():
                model(**inputs)  # a pass that trains
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
    with pytest.raises(RuntimeError, match=r"both model\.steered\.safetensors"):
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
    assert f"Transformers {transformers.__version__}" in found["after"]


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
