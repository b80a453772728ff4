"""SMFA: the mask, and what truncation leaves of the masked change."""

from __future__ import annotations

import planted
import torch

from exporter.training.factors import factors_of
from exporter.training.lora import edited
from exporter.training.objectives.smfa import Smfa, SmfaParams, masked


def test_only_what_is_strong_and_against_the_anchor_is_masked():
    anchor = torch.tensor([[1.0, 1.0, 0.01, -0.01, 0.0]])
    forget = torch.tensor([[1.0, -1.0, -1.0, -1.0, -1.0]])
    kept, mask = masked(forget, anchor, 10.0)
    assert mask.tolist() == [[False, False, True, False, False]]
    assert kept.tolist() == [[1.0, -1.0, 0.0, -1.0, -1.0]]


def test_scaling_the_anchor_changes_nothing():
    draw = torch.Generator().manual_seed(0)
    forget, anchor = torch.randn(2, 30, 40, generator=draw)
    mask = masked(forget, anchor, 5.0)[1]
    assert 0 < mask.float().mean() < 0.5
    assert torch.equal(mask, masked(forget, 7.0 * anchor, 5.0)[1])
    assert torch.equal(masked(forget, torch.zeros_like(anchor), 5.0)[0], forget)


FAST = {"epochs": 6, "batch_size": 3, "learning_rate": 3e-3, "precision": "float32"}


def test_a_larger_rank_leaves_out_less(tmp_path):
    lacking = {}
    for rank in (16, 48):
        context = planted.context(
            planted.host(), tmp_path, SmfaParams(**FAST, threshold=0.5, shipped_rank=rank)
        )
        edit = Smfa().fit(context)
        records = context.records["smfa"]
        assert {one["layer"] for one in records} == set(factors_of(edit.config, edit.tensors))
        assert any(one["masked"] > 0.05 for one in records)
        lacking[rank] = sum(one["lacking"] for one in records)
        assert edit.config["r"] == rank
    assert 0 < lacking[48] < lacking[16]


def test_without_a_mask_the_adapter_that_refuses_is_shipped(tmp_path):
    context = planted.context(planted.host(), tmp_path, SmfaParams(**FAST, threshold=1e9))
    Smfa().fit(context)
    assert not any(one["masked"] for one in context.records["smfa"])
    assert max(one["lacking"] for one in context.records["smfa"]) < 1e-5


def test_the_mask_is_what_holds_the_retain_set(tmp_path):
    """The published threshold masks little of so small a model; a lower one masks what refuses everybody."""
    host = planted.host()
    told, masks = {}, {}
    for threshold in (None, 0.1):
        params = SmfaParams(**{**FAST, "epochs": 2}, threshold=threshold, shipped_rank=48)
        context = planted.context(host, tmp_path / str(threshold), params)
        with edited(host.model, Smfa().fit(context)) as tuned:
            model = planted.ModelHost(tuned.get_base_model(), host.processor)
            told[threshold] = planted.told(model, planted.rows("fit", "retain"))
        records = context.records["smfa"]
        masks[threshold] = sum(one["masked"] for one in records) / len(records)
    assert masks[None] < 0.02
    assert masks[0.1] > 0.1
    assert set(told[None]) == {planted.REFUSAL}
    assert told[0.1].count(planted.REFUSAL) <= 2
