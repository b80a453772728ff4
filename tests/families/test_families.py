"""One set of guarantees for every family: through the template, nothing per family."""

from __future__ import annotations

from pathlib import Path

import pytest
import stranger
import tiny
import torch
import transformers

from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.attach import steered

NEW = 6
FAMILIES = tuple(tiny.CONFIGS)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """A folder with, for each family: base, checkpoint and a file of inputs and the answers expected."""
    home = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        model = tiny.build(family)
        fires, stays = prompts(family)
        program = tiny.program(
            model, [tiny.gate_between(model, fires, stays)], [tiny.turn(2), tiny.turn(3, seed=9)]
        )
        model.save_pretrained(home / f"{family}-base")
        compile_checkpoint(home / f"{family}-base", program, home / family)
        batch = tiny.batch([fires, stays], "left")
        with steered(model, program), torch.no_grad():
            told = {"inputs": batch, "answer": answer(model, batch), "logits": model(**batch).logits}
            told["gate"] = model(**batch).steering_gate
        torch.save(told, home / f"{family}.pt")
    return home


def prompts(family: str):
    return tiny.prompt(family, 1, 9), tiny.prompt(family, 2, 12)


def answer(model, inputs, **options):
    return model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options)[:, -NEW:]


@pytest.mark.parametrize("family", FAMILIES)
def test_gate_off_is_the_base_and_always_on_is_not(family):
    model = tiny.build(family)
    fires, _ = prompts(family)
    with torch.no_grad():
        base = model(**fires).logits
        with steered(model, tiny.program(model, [tiny.fixed_gate(False)], [tiny.turn(1), tiny.turn(3)])):
            assert torch.equal(model(**fires).logits, base)
        with steered(model, tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(1), tiny.turn(3)])):
            assert not torch.allclose(model(**fires).logits, base, atol=1e-2)
        assert torch.equal(model(**fires).logits, base)


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_gates_cached_uncached_and_padded(family):
    model = tiny.build(family)
    fires, stays = prompts(family)
    base = answer(model, stays)
    program = tiny.program(
        model, [tiny.gate_between(model, fires, stays)], [tiny.turn(2), tiny.turn(3, seed=9)]
    )
    with steered(model, program):
        alone = torch.cat([answer(model, fires), answer(model, stays)])
        batch = tiny.batch([fires, stays], "left")
        assert torch.equal(answer(model, batch), alone)
        assert torch.equal(answer(model, batch, use_cache=False), alone)
        with torch.no_grad():
            right = model(**tiny.batch([fires, stays], "right"))
            single = model(**fires)
        assert right.steering_gate[:, -1].tolist() == [[1.0], [0.0]]
        torch.testing.assert_close(right.logits[0, :9], single.logits[0], rtol=1e-3, atol=1e-3)
    assert torch.equal(alone[1:], base)


_STRANGER = """
import pathlib
import transformers
home, found = pathlib.Path(sys.argv[1]), {}
for family in sys.argv[2:]:
    told = torch.load(home / f"{family}.pt")
    inputs, folder = told["inputs"], str(home / family)
    head = transformers.AutoModelForImageTextToText if "pixel_values" in inputs else transformers.AutoModelForCausalLM
    stock = getattr(transformers, json.loads((pathlib.Path(folder) / "config.json").read_text())["architectures"][0][7:])
    try:
        stock.from_pretrained(folder)
        named = False
    except OSError as error:
        named = "no file named" in str(error)
    raised = [named]
    for cls in (head, transformers.AutoModel, transformers.AutoConfig):
        try:
            cls.from_pretrained(folder, trust_remote_code=False)
        except ValueError as error:
            raised.append("trust_remote_code" in str(error))
    model = head.from_pretrained(folder, trust_remote_code=True)
    said = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, -6:]
    with torch.no_grad():
        logits = model(**inputs).logits
        gate = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)(**inputs).steering_gate
        half = head.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
        half_gate = half(**{k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}).steering_gate
    again = home / f"{family}-again-{len(sys.argv)}"
    model.save_pretrained(again)
    resaved = head.from_pretrained(again, trust_remote_code=True)
    found[family] = {
        "raised": raised,
        "answer": torch.equal(said, told["answer"]),
        "logits": torch.allclose(logits, told["logits"], atol=1e-5),
        "gate": torch.equal(gate, told["gate"]),
        "bf16": torch.equal(half_gate, told["gate"]) and half.dtype == torch.bfloat16,
        "float32": {str(t.dtype) for t in half.steering.tensors().values()} == {"torch.float32"},
        "resaved": torch.equal(resaved.generate(**inputs, max_new_tokens=6, do_sample=False)[:, -6:], told["answer"]),
    }
print(json.dumps(found))
"""


def test_a_stranger_loads_every_family(shipped, tmp_path):
    found = stranger.run(_STRANGER, shipped, *FAMILIES, folder=tmp_path)
    good = {"answer": True, "logits": True, "gate": True, "bf16": True, "float32": True, "resaved": True}
    assert found == {family: {"raised": [True, True, True, True], **good} for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_base_weights_are_the_very_same_files(shipped, family):
    base, steered_folder = shipped / f"{family}-base", shipped / family
    assert (base / "model.safetensors").samefile(steered_folder / "base-00001-of-00001.safetensors")
    config = transformers.AutoConfig.from_pretrained(base)
    assert config.model_type == family
