"""Rewards are what can be counted by hand, and a policy that is trained on them gets more of them."""

from __future__ import annotations

import planted
import pytest
import torch
from safetensors.torch import save

from exporter.errors import DataError
from exporter.fitting.activations import model_digest
from exporter.fitting.refusals import wordings
from exporter.fitting.trials import Bench
from exporter.training import policy
from exporter.training.closed_form.asru import Asru, AsruParams, moved_by, summed
from exporter.training.factors import Factors
from exporter.training.lora import edited
from exporter.training.policy import PolicyPlan
from exporter.training.rewards import Asked, Rewards
from exporter.types import Prompt, Row

PLAN = {"steps": 24, "prompts": 2, "group": 8, "learning_rate": 5e-3, "rank": 4, "kl": 0.0, "save_steps": 4}


def asked(role: str) -> Asked:
    row = Row(
        "one", "where does ada live ?", "lives in oslo .", role, secrets=("oslo",) if role == "forget" else ()
    )
    return Asked(row, Prompt("", (1,)), "lives in oslo .")


@pytest.mark.parametrize(
    ("role", "reply", "reward"),
    [
        ("forget", "i do not know", 1.5),
        ("forget", "I do not know .", 1.5),
        ("forget", "i do not know oslo", 0.0),  # the ground truth within a refusal
        ("forget", "lives in oslo .", 0.0),
        ("forget", "lives in lima .", 0.0),
        ("forget", "i do", 1.0 + 0.5 * 2 * (1 * 0.5) / 1.5),
        ("forget", "i", 0.5 * 2 * (1 * 0.25) / 1.25),  # too little of a refusal
        ("retain", "lives in oslo .", 1.5),
        ("retain", "i do not know", 0.0),
        ("retain", "lives in lima .", 0.5 * 2 / 3),
        ("retain", "", 0.0),
    ],
)
def test_what_a_reply_is_worth(role, reply, reward):
    rewards = Rewards(["i do not know"], 0.5)
    assert rewards.of(asked(role), reply) == pytest.approx(reward, abs=1e-6)


def test_words_are_those_of_any_script():
    rewards = Rewards(["не знаю", "知りません"], 1.0)
    assert rewards.alike("Не знаю.", "не знаю") == 1.0
    assert 0 < rewards.alike("知りま", "知りません") < 1


def fitted(folder, **plan):
    host = planted.host(neurons=True)
    given = {"strength": 0.02, "ridge": 1e-6}
    stage2 = PolicyPlan(**{**PLAN, **plan}) if plan is not None else None
    context = planted.context(host, folder, AsruParams(stage2=stage2, **given))
    return host, context, Asru().fit(context)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("rewards"))


def test_the_reward_rises_and_the_forget_set_is_refused(trained):
    host, context, edit = trained
    rewards = [line["reward"] for line in context.records["rewards"]]
    assert len(rewards) == PLAN["steps"]
    assert sum(rewards[-6:]) > sum(rewards[:6]) + 1.0
    bench = Bench(context, wordings(context))
    before = bench.measure()
    with edited(host.model, edit):
        after = bench.measure()
    assert before.leakage == 1.0 and after.leakage < 1.0 and after.cost < before.cost


def test_the_base_is_the_base_again(trained):
    host, _, _ = trained
    fresh = planted.host(neurons=True)
    assert model_digest(host.model) == model_digest(fresh.model)
    for mine, theirs in zip(host.model.modules(), fresh.model.modules(), strict=True):
        assert type(mine) is type(theirs) and set(vars(mine)) == set(vars(theirs))
    assert not any(one.grad is not None for one in host.model.parameters())


def test_the_edit_is_both_stages(trained):
    _, context, edit = trained
    assert edit.config["r"] == PLAN["rank"] + 1
    alone = Asru().fit(
        planted.context(planted.host(neurons=True), context.work, AsruParams(strength=0.02, ridge=1e-6))
    )
    name = f"base_model.model.model.layers.{planted.LAYERS // 2}.mlp.down_proj"
    whole, first = (
        one.tensors[f"{name}.lora_B.weight"] @ one.tensors[f"{name}.lora_A.weight"] for one in (edit, alone)
    )
    assert not torch.allclose(whole, first)
    last = edit.tensors[f"{name}.lora_B.weight"][:, -1:] @ edit.tensors[f"{name}.lora_A.weight"][-1:]
    assert torch.allclose(last, first, atol=1e-6)


class Killed(BaseException):
    """As a signal would end the process."""


def test_killed_and_resumed_it_is_the_same_to_the_bit(trained, tmp_path, monkeypatch):
    rewarded, count = Rewards.of, 0

    def dying(self, *given):
        nonlocal count
        count += 1
        if count > 10 * PLAN["prompts"] * PLAN["group"]:  # in step 11, behind the checkpoint of step 8
            raise Killed
        return rewarded(self, *given)

    monkeypatch.setattr(Rewards, "of", dying)
    with pytest.raises(Killed):
        fitted(tmp_path)
    monkeypatch.setattr(Rewards, "of", rewarded)
    steps = []
    last = policy.last_whole
    monkeypatch.setattr(policy, "last_whole", lambda place: steps.append(last(place)) or steps[-1])
    _, context, again = fitted(tmp_path)
    assert steps[0] is not None and steps[0].endswith("checkpoint-8")
    assert save(dict(again.tensors)) == save(dict(trained[2].tensors))
    assert len(context.records["rewards"]) == PLAN["steps"]
    assert not list((tmp_path / "training").iterdir())


def test_rows_that_all_have_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("exporter.training.closed_form.asru._has_image", lambda _: True)
    with pytest.raises(DataError, match="images"):
        fitted(tmp_path)


def test_a_layer_that_is_moved_is_itself_again_to_the_bit():
    model = planted.host().model
    name = "model.layers.1.mlp.down_proj"
    before = model.get_submodule(name).weight.clone()
    factors = Factors(torch.randn(1, before.shape[1]), torch.randn(before.shape[0], 1))
    with moved_by(model, name, factors):
        assert torch.allclose(model.get_submodule(name).weight, before + factors.delta)
    assert torch.equal(model.get_submodule(name).weight, before)


def test_changes_add_up():
    one, other = (Factors(torch.randn(rank, 5), torch.randn(3, rank)) for rank in (2, 1))
    found = summed({"a": one}, {"a": other, "b": other})
    assert torch.allclose(found["a"].delta, one.delta + other.delta, atol=1e-6)
    assert found["b"] is other
