"""Framed rows still ask what they asked, of the same role, and nothing that is measured with is fitted with."""

from pathlib import Path

import pytest
import tiny_run
import torch

from benchmarks.prompt_attacks import wording
from exporter.data.chat import Chat
from exporter.data.rows import read_rows
from exporter.evaluation.attacks.prefill import clause_start, secret_start
from exporter.fitting.bags import BagPlan, gather_bags, make_bags
from exporter.fitting.context import FitContext
from exporter.fitting.frame_words import WORDS
from exporter.fitting.frames import FRAMES, Surroundings, framed_rows
from exporter.host import ModelHost
from exporter.methods.keyed import KeyedParams
from exporter.types import Row

REFUSALS = [(None, "i do not know")]
QUICK = BagPlan(rows=8, forget=26, keep=26, unknown=13, replies=4)


def asked(name, role="retain", **keys):
    return Row(name, f"where does {name} {name}son live ?", "oslo", role, template_id="where", **keys)


@pytest.fixture
def rows():
    names = {"ada": "forget", "ben": "forget", "cora": "retain", "dan": "retain", "eva": "unknown"}
    seen = Row("seen", "who is this ?", "finn", "forget", image=Path("face.png"), secrets=("lima",))
    return [*(asked(name, role) for name, role in names.items()), seen]


@pytest.fixture
def context(tmp_path):
    tiny_run.write_base(tmp_path / "base")
    tiny_run.write_rows(tmp_path)
    host = ModelHost.load(tmp_path / "base", dtype=torch.float32, device="cpu")
    fit, held = (tuple(read_rows(tmp_path / f"{part}.jsonl")) for part in ("fit", "calibrate"))
    return FitContext(
        host,
        Chat(host.processor),
        fit,
        held,
        KeyedParams(),
        tmp_path / "work",
        max_new_tokens=6,
        progress=False,
    )


def test_every_frame_keeps_role_secrets_and_subject(rows):
    around = Surroundings.of(rows, WORDS["fit"], REFUSALS, systems=True)
    found = framed_rows([row for row in rows if row.role == "forget"], around, 60, seed=3)
    assert {kind for kind, _ in found} == set(FRAMES)
    by_name = {row.id: row for row in rows}
    for kind, framed in found:
        row = by_name[framed.id.split("/")[0]]
        assert (framed.role, framed.secrets, framed.answer, framed.image) == (
            row.role,
            row.secrets,
            row.answer,
            row.image,
        )
        if row.image is None and kind != "mistyped":
            assert row.id in framed.question and f"{row.id}son" in framed.question
        if kind.endswith("turns"):
            assert framed.history and framed.question == row.question
    assert found == framed_rows([row for row in rows if row.role == "forget"], around, 60, seed=3)


def test_a_word_stands_within_the_name(rows):
    around = Surroundings.of(rows, WORDS["fit"], REFUSALS)
    inside = [row for kind, row in framed_rows(rows[:1], around, 40, seed=1) if kind == "inside"]
    assert inside
    for row in inside:
        words = row.question.split()
        assert words.index("adason") - words.index("ada") == 2


def test_what_is_measured_with_is_not_fitted_with():
    fit, held = WORDS["fit"], WORDS["calibrate"]
    for kind in ("words", "sentences", "leads", "tails"):
        assert not set(getattr(fit, kind)) & set(getattr(held, kind))
    used = {word for one in WORDS.values() for word in one.words}
    assert not used & set(wording.WORDS)
    told = {text for one in WORDS.values() for text in (*one.sentences, *one.leads, *one.tails)}
    assert not told & set(wording.STORIES)
    assert not {frame.replace("{q}", "").strip() for frame in wording.FRAMES} & told


def test_a_sequence_to_forget_ends_where_its_secret_begins(context):
    found = make_bags(context, "fit", QUICK, REFUSALS)
    for bag in found:
        whole = bag.sequence.prompt.ids + bag.sequence.response
        if bag.forget and bag.frame == "plain":
            told = context.host.tokenizer.decode(whole[bag.stop])
            assert told.strip() in bag.row.secrets
        if not bag.forget:
            assert bag.stop == len(whole)
    assert {bag.row.role for bag in found} == {"forget", "retain", "unknown"}
    assert any(bag.frame == "bare" for bag in found)


def test_states_of_every_column_are_read(context):
    states = gather_bags(context, "fit", QUICK, REFUSALS, [1, 2])
    assert len(states.at(2)) == sum(bag.stop - bag.first for bag in states.bags) == len(states.owner)
    assert states.owner.bincount().tolist() == [bag.stop - bag.first for bag in states.bags]


def test_secrets_and_clauses_are_found_in_tokens(context):
    row = next(row for row in context.fit if row.role == "forget")
    tokens = context.host.tokenizer("i know . ada lives in oslo .", add_special_tokens=False)["input_ids"]
    assert secret_start(context.host.tokenizer, tokens, row.secrets) == 6
    assert clause_start(context.host.tokenizer, tokens, 6) == 3
    assert secret_start(context.host.tokenizer, tokens[:6], row.secrets) == 6
