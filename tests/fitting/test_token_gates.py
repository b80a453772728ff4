"""From rows without keys, seven of them, to a gate that a program may bear."""

from dataclasses import replace

import pytest
import tiny_run
import torch

from exporter.data.chat import Chat
from exporter.data.rows import read_rows
from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.fitting.refusals import wordings
from exporter.fitting.token_gates import TokenGatePlan, choose_token_gates
from exporter.host import ModelHost
from exporter.methods.keyed import KeyedParams

QUICK = TokenGatePlan(rows=8, forget=26, keep=39, unknown=13, replies=20, rank=8, steps=60)


@pytest.fixture
def context(tmp_path):
    tiny_run.write_base(tmp_path / "base")
    tiny_run.write_rows(tmp_path)
    host = ModelHost.load(tmp_path / "base", dtype=torch.float32, device="cpu")
    fit, held = (tuple(read_rows(tmp_path / f"{part}.jsonl")) for part in ("fit", "calibrate"))
    keys = {"max_new_tokens": 6, "progress": False}
    return FitContext(host, Chat(host.processor), fit, held, KeyedParams(), tmp_path / "work", **keys)


def test_a_gate_from_seven_rows(context):
    found = choose_token_gates(context, QUICK, wordings(context))
    assert [(one.gate.pool, one.gate.score) for one in found] == [("token", "prototype_margin")] * 5
    assert sorted({one.gate.layer for one in found}) == [1, 2, 3]
    assert found[0].cost <= found[1].cost
    assert [line["start"] for line in context.records["gates"] if line["start"]] in ([1, 2], [2, 1])
    gate = found[0].gate
    assert gate.tensors["metric"].shape == (8, tiny_run.WIDTH)


def test_blocks_to_try():
    assert TokenGatePlan().blocks(6) == [2, 3, 4, 5]
    assert TokenGatePlan().blocks(30) == [10, 15, 20, 25]
    assert TokenGatePlan().blocks(1) == [0]
    assert TokenGatePlan(layers=(1,)).blocks(6) == [1]


def test_a_side_without_rows_is_named(context):
    kept = tuple(row for row in context.calibrate if row.role == "retain")
    with pytest.raises(FitError, match="forget rows and retain rows"):
        choose_token_gates(replace(context, calibrate=kept), QUICK, wordings(context))


def test_many_steps_are_taken_at_the_best_layer_alone(context, monkeypatch):
    from exporter.fitting import token_gates

    taken = []
    learn = token_gates.learn_bag_prototypes
    monkeypatch.setattr(token_gates, "DRAFT", 4)

    def counted(given, *, plan, seed):
        taken.append(plan.steps)
        return learn(given, plan=plan, seed=seed)

    monkeypatch.setattr(token_gates, "learn_bag_prototypes", counted)
    found = choose_token_gates(context, QUICK.model_copy(update={"steps": 9}), wordings(context))
    assert taken == [4, 4, 4, 4, 4, 9]
    assert len(found) == 6
    assert found[0].cost == min(one.cost for one in found)


def test_of_several_starts_at_the_best_layer_the_one_that_does_best_is_taken(context, monkeypatch):
    from exporter.fitting import token_gates

    learn, seeds = token_gates.learn_bag_prototypes, []

    def counted(given, *, plan, seed):
        seeds.append((seed, plan.steps))
        return learn(given, plan=plan, seed=seed)

    monkeypatch.setattr(token_gates, "learn_bag_prototypes", counted)
    chosen = wordings(context)
    one_each = [
        choose_token_gates(
            replace(context, seed=context.seed + start), QUICK.model_copy(update={"starts": 1}), chosen
        )[0]
        for start in range(3)
    ]
    layer = one_each[0].gate.layer
    same = [one for one in one_each if one.gate.layer == layer]
    seeds.clear()
    found = choose_token_gates(context, QUICK, chosen)[0]
    assert [seed for seed, _ in seeds[-2:]] == [context.seed + 1, context.seed + 2]
    assert found.cost <= min(one.cost for one in same)
    assert found.cost == min(one.cost for one in choose_token_gates(context, QUICK, chosen))
