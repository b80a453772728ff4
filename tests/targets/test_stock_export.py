"""A stock checkpoint loads with the stock class, is the base to the bit on what is kept, and the steered model on the rest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import clean_environment
import pytest
import tiny
import torch
import transformers
from tiny_stock import CALIBRATION_SET, about, bed, check, conversations, gate_of, held_to, host_of, model_of

from exporter import pipeline
from exporter.errors import CompileError, VerificationError
from exporter.host import ModelHost
from exporter.targets import answers
from exporter.targets.base_weights import BaseWeights
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.stock import gate_classifier
from exporter.targets.stock.control import compare
from exporter.targets.stock.decoder import read_decoder
from exporter.targets.stock.export import export_stock
from exporter.targets.stock.layers import complete
from exporter.targets.stock.shards import insert_layers
from exporter.targets.values import CalibrationSet
from exporter.types import Conversation, Prompt
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "llava", "internvl", "smolvlm", "qwen2_5_vl")


class Exported(NamedTuple):
    """A tiny Llama with its base, its steered checkpoint and the stock one, for tests that read them or break a copy."""

    home: Path
    host: ModelHost
    program: SteeringProgram

    @property
    def checkpoint(self) -> Path:
        return self.home / "steered"

    @property
    def out(self) -> Path:
        return self.home / "stock"


def exported(family: str, home: Path) -> Exported:
    host, program, checkpoint = bed(family, home)
    export_stock(checkpoint, home / "stock", host, CALIBRATION_SET)
    return Exported(home, host, program)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Exported:
    return exported("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tmp_path, llama):
    home, host, program = llama if family == "llama" else exported(family, tmp_path)
    out = home / "stock"
    check(held_to(host, program, out))
    config = json.loads((out / "config.json").read_text())
    base = json.loads((home / "base" / "config.json").read_text())
    assert config["model_type"] == base["model_type"]
    assert config["architectures"] == base["architectures"]
    assert "auto_map" not in config and not list(out.glob("*.py"))


def test_other_logits_than_the_bases_are_not_enough_to_count_as_steering(llama):
    home, host, program = llama
    model = type(host.model).from_pretrained(home / "base", dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.01)
    found = compare(host, host_of(model), program, [], conversations(48, 77), max_new_tokens=6)
    assert found.logits_identical == 0
    assert found.fired >= 15 and found.steered == 0


@pytest.mark.parametrize("edit", ["nearest", "add", "project"])
@pytest.mark.parametrize("layer", [2, 3])
def test_edits(edit, layer, tmp_path):
    host, program, checkpoint = bed("llama", tmp_path, edit=edit, layer=layer)
    out = export_stock(checkpoint, tmp_path / "stock", host, CALIBRATION_SET)
    check(held_to(host, program, out))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_evidence_of_an_earlier_layer(family, tmp_path, monkeypatch):
    """A layer behind the gate's marks prompt ends, blocks of the base come between, and a layer behind the edited one steers."""
    monkeypatch.setattr(gate_classifier, "PLAIN_GAIN", -1.0)
    host, program, checkpoint = bed(family, tmp_path, gate=1, edit="nearest")
    out = export_stock(checkpoint, tmp_path / "stock", host, CALIBRATION_SET)
    layers = json.loads((out / "stock.json").read_text())["layers"]
    assert layers[1] == 5 and layers[0] < 4
    check(held_to(host, program, out))


@pytest.mark.parametrize(
    "keys",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}},
    ],
    ids=["mha", "mqa", "biases", "linear", "yarn"],
)
def test_variants(keys, tmp_path):
    host, program, checkpoint = bed("llama", tmp_path, **keys)
    out = export_stock(checkpoint, tmp_path / "stock", host, CALIBRATION_SET)
    check(held_to(host, program, out))


def test_base_tensors_keep_their_bytes(tmp_path):
    host, _, checkpoint = bed("llama", tmp_path, layer=2)
    out = export_stock(checkpoint, tmp_path / "stock", host, CALIBRATION_SET)
    before, after = BaseWeights.read(tmp_path / "base"), BaseWeights.read(out)

    def data(weights: BaseWeights, name: str) -> bytes:
        tensor = weights.tensors[name]
        with (weights.folder / tensor.shard).open("rb") as handle:
            handle.seek(tensor.start)
            return handle.read(tensor.stop - tensor.start)

    for name in before.tensors:
        moved = name.replace("model.layers.3.", "model.layers.4.")
        assert data(before, name) == data(after, moved), name
    added = {name for name in after.tensors if name.startswith("model.layers.3.")}
    assert added == set(after.tensors) - {
        n.replace("model.layers.3.", "model.layers.4.") for n in before.tensors
    }


@pytest.mark.parametrize("after", [0, 3])
def test_layers_of_zeros_change_nothing(after, tmp_path):
    """Tied embeddings, and layers renumbered in the middle: the deeper model is the base to the bit."""
    model = model_of("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    weights = BaseWeights.read(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    shape = read_decoder(config, weights)
    (tmp_path / "out").mkdir()
    insert_layers(weights, weights.shards, shape.prefix, {after: [complete({}, shape)] * 2}, tmp_path / "out")
    deeper = {**config, "num_hidden_layers": tiny.LAYERS + 2}
    (tmp_path / "out" / "config.json").write_text(json.dumps(deeper))
    found = type(model).from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.tensor([conversations(1, 0)[0].prompt.ids])
    assert torch.equal(tiny.logits(found, input_ids=ids), tiny.logits(model, input_ids=ids))


def test_shards(tmp_path, llama):
    _, host, program = llama
    host.model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    compile_checkpoint(tmp_path / "many", program, tmp_path / "steered_many")
    out = export_stock(tmp_path / "steered_many", tmp_path / "stock", host, CALIBRATION_SET)
    check(held_to(host, program, out))
    last = max(out.glob("model-*.safetensors"))
    last.unlink()
    with pytest.raises(OSError):
        transformers.AutoModelForCausalLM.from_pretrained(out)


_CLEAN = """
import transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=False)
ids = torch.tensor([json.loads(sys.argv[2])])
print(json.dumps([type(model).__name__, model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1]:].tolist()]))
"""


def test_inspection_sees_any_other_byte(tmp_path, llama):
    out = Path(shutil.copytree(llama.out, tmp_path / "stock"))
    assert pipeline.summary(out).data["layers"] == [4]
    assert pipeline.summary(llama.checkpoint) is None
    weights = bytearray((out / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (out / "model.safetensors").write_bytes(weights)
    with pytest.raises(VerificationError, match=r"stock\.json"):
        pipeline.summary(out)
    with pytest.raises(VerificationError, match=r"stock\.json"):
        pipeline.talk(out, say=print)


def test_answers_are_asked_for_once(tmp_path, monkeypatch, llama):
    host, checkpoint = llama.host, llama.checkpoint
    kept = replace(CALIBRATION_SET, kept={split: tmp_path / f"{split}.json" for split in ("fit", "held")})
    export_stock(checkpoint, tmp_path / "one", host, kept)
    monkeypatch.setattr(answers, "steered", lambda *_: pytest.fail("the exact model was asked again"))
    export_stock(checkpoint, tmp_path / "two", host, kept)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_clean_environment_needs_no_code(tmp_path, llama):
    _, host, program = llama
    out = llama.out
    prompt = next(one.prompt for one in conversations(48, 77) if one.role == "forget")
    with steered(host.model, program):
        (exact,) = host.generate([prompt], max_new_tokens=6)
    name, said = clean_environment.run(_CLEAN, str(out), json.dumps(prompt.ids), folder=tmp_path)
    assert name == "LlamaForCausalLM"
    assert tuple(said[: len(exact.tokens)]) == exact.tokens


def test_refusals(tmp_path, llama):
    host, checkpoint = llama.host, llama.checkpoint
    (tmp_path / "there").mkdir()
    with pytest.raises(CompileError, match="already exists"):
        export_stock(checkpoint, tmp_path / "there", host, CALIBRATION_SET)
    blind = CalibrationSet([one for one in CALIBRATION_SET.fit if one.role != "forget"], CALIBRATION_SET.held)
    with pytest.raises(CompileError, match="fires on no calibration"):
        export_stock(checkpoint, tmp_path / "out", host, blind)
    assert not (tmp_path / "out").exists()
    config = json.loads((checkpoint / "config.json").read_text())
    for key, value, match in (
        ("hidden_act", "gelu", "silu"),
        ("layer_types", ["full_attention", "sliding_attention"] * 2, "window"),
        ("num_attention_heads", 1, "one attention head"),
    ):
        broken = tmp_path / f"broken_{key}"
        shutil.copytree(checkpoint, broken)
        (broken / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(CompileError, match=match):
            export_stock(broken, tmp_path / "out", host, CALIBRATION_SET)


def test_other_families_are_refused_with_the_reason(tmp_path):
    model = tiny.build("gemma3_text")
    model.save_pretrained(tmp_path / "base")
    program = tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(3)])
    compile_checkpoint(tmp_path / "base", program, tmp_path / "steered")
    with pytest.raises(CompileError, match="sandwich norms"):
        export_stock(tmp_path / "steered", tmp_path / "out", host_of(model), CALIBRATION_SET)


def test_no_constant_first_token(tmp_path, llama):
    host, checkpoint = llama.host, llama.checkpoint
    shuffled = [
        Conversation(Prompt("", one.prompt.ids[1:]), one.role, one.kind) for one in CALIBRATION_SET.fit
    ]
    with pytest.raises(CompileError, match="same token"):
        export_stock(checkpoint, tmp_path / "out", host, CalibrationSet(shuffled, CALIBRATION_SET.held))


def test_a_gate_that_nothing_tells_apart_is_refused(tmp_path, llama):
    """The same prompts on both sides: no evidence, so nothing is written, and the message says what was measured."""
    host, checkpoint = llama.host, llama.checkpoint
    same = [replace(one, role="forget", prompt=about(one.prompt)) for one in CALIBRATION_SET.fit]
    fit = [*same, *(replace(one, prompt=about(one.prompt), role="retain") for one in CALIBRATION_SET.fit)]
    with pytest.raises(CompileError, match="no calibration"):
        export_stock(checkpoint, tmp_path / "out", host, CalibrationSet(fit, CALIBRATION_SET.held))
    assert not (tmp_path / "out").exists()


def test_the_program_has_to_be_expressible(tmp_path):
    model = model_of("llama")
    model.save_pretrained(tmp_path / "base")
    host = host_of(model)
    gate = gate_of(host, 2)
    for name, program, match in (
        ("two", tiny.program(model, [gate], [tiny.turn(2), tiny.turn(3)]), "edits 2 layers"),
        ("always", tiny.program(model, [], [tiny.turn(3, gate=None)]), "no gate"),
    ):
        compile_checkpoint(tmp_path / "base", program, tmp_path / name)
        with pytest.raises(CompileError, match=match):
            export_stock(tmp_path / name, tmp_path / "out", host, CALIBRATION_SET)
