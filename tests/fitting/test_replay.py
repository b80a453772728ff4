"""Known replies are checked in one pass above the edited block, and say of a program what generation says of it."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import torch

from exporter.fitting.refusals import wordings
from exporter.fitting.replay import Replay
from exporter.fitting.trials import Bench
from exporter.host import ModelHost
from exporter.types import Encoded

ALL = tuple(range(planted.LAYERS))


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("replay"))


class Counted:
    """How many columns each block has computed."""

    def __init__(self, host: ModelHost) -> None:
        self.columns = [0] * host.num_layers
        for number, block in enumerate(host.blocks):
            block.self_attn.register_forward_hook(self._count(number), with_kwargs=True)

    def _count(self, number):
        def hook(_module, _args, kwargs, _output):
            self.columns[number] += kwargs["hidden_states"].shape[0] * kwargs["hidden_states"].shape[1]

        return hook


@pytest.mark.parametrize(
    "names", [(), planted.FORGET, planted.FORGET[:1], ("ada", "dan", "eva", "finn"), None]
)
def test_a_replayed_trial_is_the_generated_one(context, names):
    program = planted.refusing(context, names)
    chosen = wordings(context)
    generated = Bench(context, chosen).run(program)
    bench = Bench(replace(context, kept=ALL), chosen)
    assert bench._known is not None and bench._known.replay.fits(program)
    assert bench.run(program) == generated
    assert planted.told(context.host, bench.keep) == [row.answer for row in bench.keep]  # the base again


def test_what_is_none_of_the_known_replies_is_generated(context):
    """The control of the shortcut: with no refusal known, the same trial comes out, by generation."""
    program = planted.refusing(context, planted.FORGET)
    bench = Bench(replace(context, kept=ALL), wordings(context))
    bench._known = replace(bench._known, forget=bench._known.forget[:1])
    said: list[int] = []
    say = bench._say
    bench._say = lambda prompts: said.append(len(prompts)) or say(prompts)
    assert (bench.run(program).leakage, said) == (0.0, [len(bench.forget)])


def test_a_trial_runs_nothing_below_the_edited_block(tmp_path):
    host = planted.host()
    context = planted.context(host, tmp_path)
    bench = Bench(replace(context, kept=ALL), wordings(context))
    assert bench._known is not None  # states are collected here, once for all trials
    counted = Counted(host)
    program = planted.refusing(context, planted.FORGET)
    (edit,) = program.edits
    assert bench.run(program).fluent == 1.0
    assert not any(counted.columns[: edit.layer + 1])
    assert edit.layer == planted.LAYERS - 1 or all(counted.columns[edit.layer + 1 :])


def test_a_reply_that_differs_in_one_token_is_not_said(context):
    replay = Replay(context, ALL)
    prompts = [context.chat.prompt(row) for row in planted.rows("calibrate", "retain")]
    own = [one.tokens for one in context.own(prompts)]
    other = [(*one[:-2], 7, one[-1]) for one in own]
    assert replay.works(replay.script(prompts, own))
    assert not replay.works(replay.script(prompts, other))


def test_a_model_whose_blocks_return_more_than_states_is_not_replayed(context, monkeypatch):
    """A block above that needs what a skipped one would have left: the control that the test by the base's own replies is one."""
    host = context.host
    block = host.blocks[-1]
    monkeypatch.setattr(
        block, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("no cache"))
    )
    prompts = [context.chat.prompt(row) for row in planted.rows("calibrate", "forget")]
    replay = Replay(replace(context, kept=()), (0,))
    script = type("S", (), {"sequences": (Encoded(prompts[0], (5,)),), "states": _Zeros()})()
    assert not replay.works(script)


class _Zeros:
    def of(self, *_: int) -> torch.Tensor:
        return torch.zeros(1, planted.WIDTH)


def test_every_block_is_itself_again(context):
    replay = Replay(context, ALL)
    prompts = [context.chat.prompt(row) for row in planted.rows("calibrate", "retain")]
    script = replay.script(prompts, [one.tokens for one in context.own(prompts)])
    assert replay.works(script)
    assert not any("forward" in vars(block) for block in context.host.blocks)
