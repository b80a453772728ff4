"""The saliency mask of MMUnlearner: rows by their gradients, and training that keeps to them."""

from __future__ import annotations

import planted
import pytest
import tiny
import torch
import transformers

from exporter.training.factors import factors_of
from exporter.training.lora import linear_layers
from exporter.training.losses import mean_nll
from exporter.training.objectives.mmunlearner import Mmunlearner, MmunlearnerParams, salient_rows
from exporter.training.saliency import row_fisher, salient

FAST = {"epochs": 6, "batch_size": 3, "learning_rate": 3e-3, "precision": "float32"}


def batches_of(count: int, seed: int):
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(2, 80, (2, 7), generator=draw) for _ in range(count)]
    labels = [torch.where(torch.arange(7) > 3, one, torch.full_like(one, -100)) for one in ids]
    return [
        {"input_ids": one, "attention_mask": torch.ones_like(one), "labels": label}
        for one, label in zip(ids, labels, strict=True)
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_are_scored_by_their_squared_gradients(family):
    """Whichever way round a layer has its weights."""
    name, settings = tiny.CONFIGS[family]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**settings)).eval()
    names, batches = linear_layers(model), batches_of(3, 1)
    found = row_fisher(model, names, batches)
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    wanted = dict.fromkeys(names, 0.0)
    for batch in batches:
        model.zero_grad()
        mean_nll(model(input_ids=batch["input_ids"]).logits, batch["labels"]).mean().backward()
        for part in names:
            layer = model.get_submodule(part)
            grad = layer.weight.grad if isinstance(layer, torch.nn.Linear) else layer.weight.grad.T
            wanted[part] = wanted[part] + grad.square().sum(1) / len(batches)
    assert all(torch.allclose(found[part], one, rtol=1e-4, atol=1e-12) for part, one in wanted.items())


def test_a_row_is_salient_where_the_forget_set_needs_it_more():
    forget, retain = {"a": torch.tensor([2.0, 1.0, 0.5, 0.0])}, {"a": torch.tensor([1.0, 1.0, 1.0, 0.0])}
    assert salient(forget, retain, 1.0)["a"].tolist() == [True, True, False, True]
    assert salient(forget, retain, 1.5)["a"].tolist() == [True, False, False, False]


def test_the_forget_set_moves_salient_rows_alone(tmp_path):
    """Without a retain term the others do not move at all; with one they do, by it."""
    host = planted.host()
    moved = {}
    for weight in (0.0, 1.0):
        params = MmunlearnerParams(**FAST, retain_weight=weight, responses="rows")
        context = planted.context(host, tmp_path / str(weight), params)
        rows = salient_rows(context, params)
        edit = Mmunlearner().fit(context)
        changes = factors_of(edit.config, edit.tensors)
        outside = [
            one.delta[~rows[name]].abs().max() for name, one in changes.items() if not rows[name].all()
        ]
        inside = [one.delta[rows[name]].abs().max() for name, one in changes.items() if rows[name].any()]
        assert outside
        assert max(inside) > 1e-3
        moved[weight] = max(outside)
        shares = [one["salient"] for one in context.records["saliency"]]
        assert any(0 < one < 1 for one in shares)
    assert moved[0.0] == 0
    assert moved[1.0] > 1e-4
