"""Every method that edits weights on a model that was made to know some people: what it forgets, what it keeps, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch
from peft import PeftModel
from transformers import TrainerCallback

from exporter import registry
from exporter.errors import FitError
from exporter.training import trainer
from exporter.training.losses import mean_nll
from exporter.training.objective import Objective
from exporter.training.settings import TrainingSettings
from exporter.weight_edit import WeightEdit

FINGERPRINT = f"sha256:{'0' * 64}"
EVERY = {
    name: one
    for name, one in ((name, registry.resolve(registry.METHODS, "method", name)) for name in registry.METHODS)
    if one.yields == "edit"
}
OBJECTIVES = [name for name, one in EVERY.items() if issubclass(one, Objective)]
BY_NEURONS = ("asru", "manu", "kuda")
"""Those that edit what a model knows by neurons of its MLPs."""
NOT_HELD = ("undial", "smfa", "sku")
"""Those whose retain set suffers about as much: nothing holds it by default, or too little (tests of their own)."""
RETAINING = [one for one in OBJECTIVES if "retain" in EVERY[one].sides and one not in NOT_HELD]
RETAINING += [one for one in EVERY if one not in OBJECTIVES]
OWN = {"kuda": {"layers": (planted.LAYERS // 2,), "relaxation": 1e-3}}
"""What a method is told here that it searches otherwise: these neurons say nothing where a subject is named, which is where causal tracing looks."""
FAST = {"epochs": 20, "batch_size": 3, "learning_rate": 3e-3, "precision": "float32"}


def host_for(name: str):
    return planted.host(neurons=name in BY_NEURONS)


def fitted(name: str, work: Path, **params: object) -> tuple[WeightEdit, object]:
    chosen = EVERY[name]
    quick = {**FAST, "share": 0.07, **OWN.get(name, {})}
    fast = {key: value for key, value in quick.items() if key in chosen.Params.model_fields}
    context = planted.context(host_for(name), work, chosen.Params(**{**fast, **params}))
    return chosen().fit(context), context


def surprise(host, chat, role: str) -> float:
    """-log p a token of the rows' own answers."""
    items = [chat.encode(row) for row in planted.rows("fit", role)]
    batch = host.batch(items, "right")
    labels = torch.full_like(batch["input_ids"], -100)
    for row, one in enumerate(items):
        labels[row, len(one.prompt.ids) : len(one)] = batch["input_ids"][row, len(one.prompt.ids) : len(one)]
    with torch.no_grad():
        return mean_nll(host.model(**batch).logits, labels).mean().item()


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
    """One fit of every method: the edit, its context, and its folder."""
    found = {}
    for name in EVERY:
        home = tmp_path_factory.mktemp(name)
        edit, context = fitted(name, home / "work")
        edit = replace(edit, base=replace(edit.base, fingerprint=FINGERPRINT))
        (home / "edit").mkdir()
        edit.save(home / "edit")
        found[name] = edit, context, home / "edit"
    return found


@pytest.mark.parametrize("name", EVERY)
def test_the_base_is_the_base_again(edits, name):
    _, context, _ = edits[name]
    wanted, found = host_for(name).model, context.host.model
    assert type(found) is type(wanted)
    assert [part for part, _ in found.named_modules()] == [part for part, _ in wanted.named_modules()]
    assert all(torch.equal(one, found.state_dict()[key]) for key, one in wanted.state_dict().items())
    assert all(one.requires_grad for one in found.parameters())
    assert not found.training
    assert not hasattr(found, "peft_config")


@pytest.mark.parametrize("name", EVERY)
def test_plain_peft_loads_it_and_the_forget_set_is_less_likely(edits, name):
    _, _, folder = edits[name]
    host = host_for(name)
    chat = planted.Chat(host.processor)
    before = surprise(host, chat, "forget")
    PeftModel.from_pretrained(host.model, str(folder)).eval()
    assert surprise(host, chat, "forget") > before + 0.005


@pytest.mark.parametrize("name", RETAINING)
def test_where_it_is_held_the_retain_set_suffers_less(edits, name):
    _, _, folder = edits[name]
    host = host_for(name)
    chat = planted.Chat(host.processor)
    before = {role: surprise(host, chat, role) for role in ("forget", "retain")}
    PeftModel.from_pretrained(host.model, str(folder)).eval()
    forget, retain = (surprise(host, chat, role) - before[role] for role in ("forget", "retain"))
    assert retain < forget / 2


@pytest.mark.parametrize("name", EVERY)
def test_the_adapter_is_one_that_servers_take(edits, name):
    """vLLM: rank to 512, no bias, no DoRA, no saved modules; nothing that says where the base lay."""
    edit, _, _ = edits[name]
    assert (edit.config["peft_type"], edit.config["bias"]) == ("LORA", "none")
    assert edit.config["r"] == 16 or (name not in OBJECTIVES and edit.config["r"] <= 512)
    assert not edit.config["use_dora"]
    assert edit.config["modules_to_save"] is None
    assert edit.config["base_model_name_or_path"] is None
    assert edit.config["target_modules"] == sorted(edit.config["target_modules"])  # peft has them in a set
    assert all(one.isfinite().all() and one.dtype == torch.float32 for one in edit.tensors.values())


def test_the_same_seed_gives_the_same_edit_and_another_one_another(tmp_path):
    first, _ = fitted("npo", tmp_path / "a", epochs=2)
    again, _ = fitted("npo", tmp_path / "b", epochs=2)
    assert all(torch.equal(one, again.tensors[name]) for name, one in first.tensors.items())
    chosen = EVERY["npo"]
    context = planted.context(planted.host(), tmp_path / "c", chosen.Params(**{**FAST, "epochs": 2}), seed=1)
    other = chosen().fit(context)
    assert any(not torch.equal(one, other.tensors[name]) for name, one in first.tensors.items())


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_objectives
from exporter.training import trainer
from transformers import TrainerCallback
import os, signal

class Dies(TrainerCallback):
    def on_step_end(self, args, state, control, **rest):
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

plain = trainer.EditTrainer.__init__

def dying(self, *args, **options):
    plain(self, *args, **options)
    self.add_callback(Dies)

trainer.EditTrainer.__init__ = dying
test_objectives.fitted("npo", Path({work!r}), epochs=4, save_steps=2)
"""


def test_killed_and_resumed_it_is_the_same_to_the_bit(tmp_path):
    whole, _ = fitted("npo", tmp_path / "whole", epochs=4, save_steps=2, batch_size=1)
    here = Path(__file__).parent
    code = KILLED.format(tests=str(here), work=str(tmp_path / "killed")).replace(
        "save_steps=2", "save_steps=2, batch_size=1"
    )
    path = os.pathsep.join([str(here.parents[1]), str(here.parent), str(here)])
    died = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert list((tmp_path / "killed").rglob("checkpoint-6"))
    resumed, context = fitted("npo", tmp_path / "killed", epochs=4, save_steps=2, batch_size=1)
    assert all(torch.equal(one, resumed.tensors[name]) for name, one in whole.tensors.items())
    assert not list((tmp_path / "killed").rglob("checkpoint-*"))
    del context


def test_a_training_that_diverges_is_refused(tmp_path):
    with pytest.raises(FitError, match="learning_rate"):
        fitted("ga", tmp_path, learning_rate=1e30, clip=1e30)


def test_rmu_edits_the_pushed_block_and_those_before_it_alone(tmp_path):
    edit, _ = fitted("rmu", tmp_path, layer=2, epochs=1)
    assert {name.split("layers.")[1].split(".")[0] for name in edit.tensors} == {"0", "1", "2"}


@pytest.mark.parametrize("key", ["rank", "learning_rate", "epochs"])
def test_a_parameter_that_cannot_be_is_refused(key):
    with pytest.raises(ValueError, match=key):
        TrainingSettings(**{key: 0})


def test_of_several_learning_rates_the_one_that_does_best_is_kept(tmp_path):
    rates = (1e-6, 3e-3)
    edit, context = fitted("npo", tmp_path / "search", learning_rate="search", rates=rates, epochs=8)
    tried = {one["learning_rate"]: one for one in context.records["trained"]}
    assert set(tried) == set(rates)
    assert tried[3e-3]["cost"] < tried[1e-6]["cost"]
    alone, _ = fitted("npo", tmp_path / "alone", learning_rate=3e-3, epochs=8)
    assert all(torch.equal(one, alone.tensors[name]) for name, one in edit.tensors.items())


def test_a_rate_that_diverges_is_passed_over(tmp_path):
    options = {"learning_rate": "search", "clip": 1e30, "epochs": 2}
    edit, context = fitted("ga", tmp_path / "some", rates=(1e-5, 1e30), **options)
    assert all(one.isfinite().all() for one in edit.tensors.values())
    assert [one["learning_rate"] for one in context.records["trained"]] == [1e-5]
    with pytest.raises(FitError, match="learning_rate"):
        fitted("ga", tmp_path / "none", rates=(1e29, 1e30), **options)


def test_it_asks_for_the_rows_that_it_reads_and_no_others():
    roles = {
        name: {role for some in EVERY[name].needs["fit"] for role in some}
        for name in ("ga", "npo", "idk_dpo")
    }
    assert roles["ga"] == {"forget"}
    assert roles["npo"] == {"forget", "retain", "reasoning"}
    assert roles["idk_dpo"] == {"forget", "retain", "reasoning", "unknown"}


def unfinished(folder: Path) -> None:
    """As a process leaves a checkpoint that is killed while it writes it."""
    (folder / "checkpoint-6").rename(folder / "checkpoint-8")
    (folder / "checkpoint-8" / "whole.json").unlink()


def cut(folder: Path) -> None:
    path = folder / "checkpoint-6" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:100])


def overwritten(folder: Path) -> None:
    path = folder / "checkpoint-6" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = b"\x00\x00\x80\x3f"
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [unfinished, cut, overwritten], ids=lambda one: one.__name__)
def test_a_checkpoint_that_is_not_whole_is_not_resumed(tmp_path, monkeypatch, damage):
    class Stops(TrainerCallback):
        def on_step_end(self, *given, **_):
            if given[1].global_step == 7:
                raise KeyboardInterrupt

    plain = trainer.EditTrainer.__init__
    with monkeypatch.context() as patch:
        patch.setattr(
            trainer.EditTrainer,
            "__init__",
            lambda self, *given, **options: (plain(self, *given, **options), self.add_callback(Stops))[0],
        )
        with pytest.raises(KeyboardInterrupt):
            fitted("npo", tmp_path / "a", epochs=4, save_steps=2, batch_size=1)
    (place,) = {path.parent for path in (tmp_path / "a").rglob("checkpoint-6")}
    damage(place)
    again, _ = fitted("npo", tmp_path / "a", epochs=4, save_steps=2, batch_size=1)
    whole, _ = fitted("npo", tmp_path / "b", epochs=4, save_steps=2, batch_size=1)
    assert all(torch.equal(one, again.tensors[name]) for name, one in whole.tensors.items())
