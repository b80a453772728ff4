"""One set of guarantees for every family: through the template, nothing per family."""

from __future__ import annotations

from pathlib import Path

import pytest
import shipping
import tiny
import torch
import transformers
from shipping import answer

from steer_modules.attach import steered

FAMILIES = tuple(tiny.CONFIGS)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """A folder with, for each family: base, checkpoint and a file of inputs and the answers expected."""
    home = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        shipping.ship(home, family, *prompts(family))
    return home


def prompts(family: str):
    return tiny.prompt(family, 1, 9), tiny.prompt(family, 2, 12)


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


def test_every_family_loads_in_a_clean_environment(shipped, tmp_path):
    found = shipping.found_in_a_clean_environment(shipped, FAMILIES, tmp_path)
    assert found == dict.fromkeys(FAMILIES, shipping.GOOD)


@pytest.mark.parametrize("family", FAMILIES)
def test_base_weights_are_the_very_same_files(shipped, family):
    base, steered_folder = shipped / f"{family}-base", shipped / family
    assert (base / "model.safetensors").samefile(steered_folder / "base-00001-of-00001.safetensors")
    config = transformers.AutoConfig.from_pretrained(base)
    assert config.model_type == family
