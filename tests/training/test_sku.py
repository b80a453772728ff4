"""SKU: what is subtracted is what says the answers."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import torch

from exporter.training.lora import edited
from exporter.training.losses import mean_nll
from exporter.training.objectives.sku import Sku, SkuParams

FAST = {"epochs": 5, "batch_size": 3, "learning_rate": 3e-3, "precision": "float32"}


def surprises(context, edit) -> dict[str, float]:
    """-log p a token of the rows' own answers, by role, of a model with an edit."""
    found = {}
    with edited(context.host.model, edit) as tuned, torch.no_grad():
        for role in ("forget", "retain"):
            items = [context.chat.encode(row) for row in planted.rows("fit", role)]
            batch = context.host.batch(items, "right")
            labels = torch.full_like(batch["input_ids"], -100)
            for row, one in enumerate(items):
                span = slice(len(one.prompt.ids), len(one))
                labels[row, span] = batch["input_ids"][row, span]
            found[role] = mean_nll(tuned(**batch).logits, labels).mean().item()
    return found


def negated(edit, times: float = -1.0):
    """An edit that does the opposite."""
    return replace(
        edit, tensors={name: times * one if "lora_B" in name else one for name, one in edit.tensors.items()}
    )


def test_the_forget_set_is_known_better_before_the_subtraction(tmp_path):
    params = SkuParams(**FAST, disassociation=0.0, divergence=0.0)
    context = planted.context(planted.host(), tmp_path, params)
    edit = Sku().fit(context)
    base = surprises(context, negated(edit, 0.0))
    assert surprises(context, negated(edit))["forget"] < base["forget"] / 2
    assert surprises(context, edit)["forget"] > base["forget"] + 0.5


def test_the_retain_set_is_left_before_the_subtraction(tmp_path):
    """The last term: it grows while the adapter is trained."""
    kept = {}
    for weight in (0.0, 3.0):
        params = SkuParams(**FAST, disassociation=0.0, divergence=weight)
        context = planted.context(planted.host(), tmp_path / str(weight), params)
        kept[weight] = surprises(context, negated(Sku().fit(context)))["retain"]
    assert kept[3.0] > kept[0.0] + 0.5


@pytest.mark.parametrize("disassociation", [0.0, 1.0])
def test_wrong_answers_weaken_it(tmp_path, disassociation):
    context = planted.context(
        planted.host(), tmp_path, SkuParams(**{**FAST, "epochs": 20}, disassociation=disassociation)
    )
    found = surprises(context, Sku().fit(context))
    assert (found["forget"] > 1.5) is (disassociation == 0.0)
    assert found["retain"] > found["forget"] / 2, "little holds the retain set"


def test_more_can_be_subtracted(tmp_path):
    once, twice = (
        Sku().fit(planted.context(planted.host(), tmp_path, SkuParams(**FAST, negation=times)))
        for times in (1.0, 2.0)
    )
    assert any(name.endswith("lora_B.weight") for name in once.tensors)
    assert all(torch.equal(twice.tensors[name], one) for name, one in negated(once, 2.0).tensors.items())
