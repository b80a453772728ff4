"""Sequences to forget end where they tell, kept ones end in what the base says, and none of a wrong side is among them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numerals
import planted
import pytest
import torch

from exporter.evaluation.attacks.prefill import secret_start
from exporter.fitting import bags
from exporter.fitting.bags import (
    BagPlan,
    forgotten_subjects,
    gather_bags,
    make_bags,
    reworded,
    tells_of,
)
from exporter.fitting.beginnings import FEWEST, LEAST
from exporter.types import Encoded, Prompt, Turn

REFUSALS = [(None, planted.REFUSAL)]
PLAN = BagPlan(rows=11, forget=40, keep=60, unknown=16, replies=400)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return planted.context(planted.host(), tmp_path_factory.mktemp("bags"))


@pytest.fixture(scope="module")
def made(context):
    return make_bags(context, "fit", PLAN, REFUSALS)


def text(context, ids):
    return context.host.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_sequence_to_forget_is_read_up_to_the_column_that_tells_the_secret(context, made):
    about = [bag for bag in made if bag.forget]
    assert len(about) > PLAN.forget
    for bag in about:
        ids = bag.sequence.prompt.ids + bag.sequence.response
        assert planted.VOCABULARY[planted.place_of(bag.row.id.split("-")[1].split("/")[0])] == ids[bag.stop]
        assert bag.stop > bag.end


def test_a_kept_sequence_is_read_whole_and_ends_in_the_bases_own_words(context, made):
    kept = [bag for bag in made if not bag.forget]
    said = context.own([bag.sequence.prompt for bag in kept])
    for bag, own in zip(kept, said, strict=True):
        assert bag.stop == len(bag.sequence)
        assert bag.sequence.response == own.tokens
    few = make_bags(context, "fit", replace(PLAN, replies=0), REFUSALS)
    plain = [bag for bag in few if bag.frame == "plain" and not bag.forget]
    assert [text(context, bag.sequence.response) for bag in plain] == [bag.row.answer for bag in plain]


def test_kept_sequences_to_which_the_base_tells_of_the_forgotten_are_left_out(context, monkeypatch):
    """The base takes dan for ada wherever dan stands first in a question: no side is right for those."""
    confused = context.host.tokenizer("ada lives in oslo .", add_special_tokens=False)["input_ids"]
    real = type(context).own

    def own(self, prompts):
        said = real(self, prompts)
        dan = [planted.VOCABULARY["dan"] in prompt.ids for prompt in prompts]
        return [
            replace(one, tokens=tuple(confused)) if is_dan else one
            for one, is_dan in zip(said, dan, strict=True)
        ]

    monkeypatch.setattr(type(context), "own", own)
    found = make_bags(context, "fit", PLAN, REFUSALS)
    named = Counter(bag.forget for bag in found if planted.VOCABULARY["dan"] in bag.sequence.prompt.ids)
    assert named[False] == 0
    assert named[True] > 0
    assert any(bag.row.id == "fit-eva" for bag in found)


def test_every_kind_of_side_and_frame_is_there_and_the_seed_decides(context, made):
    assert {bag.row.role for bag in made} == {"forget", "retain", "unknown"}
    for role in ("forget", "retain", "unknown"):
        frames = {bag.frame for bag in made if bag.row.role == role}
        assert frames >= {"plain", "before", "kept_turns", "refused_turns", "bare"}
    assert make_bags(context, "fit", PLAN, REFUSALS) == made
    assert make_bags(replace(context, seed=1), "fit", PLAN, REFUSALS) != made


def test_no_sequence_is_read_farther_than_the_plan_says(context):
    found = make_bags(context, "fit", replace(PLAN, longest=9), REFUSALS)
    assert max(bag.stop for bag in found) == 9
    cut = [bags._cut(bag) for bag in found]
    assert all(
        max(bag.stop, len(bag.sequence.prompt.ids)) == len(one) for bag, one in zip(found, cut, strict=True)
    )


def test_bare_questions_have_no_template(context, made):
    for bag in made:
        header = planted.VOCABULARY["[assistant]"] in bag.sequence.prompt.ids
        assert header == (not bag.frame.startswith("bare"))


def test_answers_are_begun_with_the_clause_that_leads_to_the_secret(context):
    """Said out of nothing, up to the secret at most; an answer of one clause cannot be begun so."""
    asked = [
        replace(planted.row(name), answer=f"i know . {name} lives in {planted.place_of(name)} .")
        for name in planted.FORGET
    ]
    drafts = [
        ("plain", row, context.chat.prompt(row))
        for row in [*asked, planted.row("dan"), planted.row("ada", "held")]
    ]
    found = bags._begun(context, drafts, 9)
    assert {row.id for _, row, _ in found} == {row.id for row in asked}
    for kind, row, prompt in found:
        name = row.id.removeprefix("fit-")
        clause = f"{name} lives in"
        assert kind == "plain, begun"
        assert clause.startswith(row.prefix.strip())
        assert row.prefix.strip().startswith(name)
        assert prompt.text.endswith(row.prefix)
        assert text(context, prompt.ids).endswith(row.prefix.strip())
        rest = text(context, bags._rest(context, row, prompt))
        assert f"{row.prefix.strip()} {rest}" == f"{clause} {planted.place_of(name)} ."
    assert len(bags._begun(context, drafts, 2)) <= 2


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("lives in oslo .", 2),
        ("oslo", 0),
        ("in oslo . lives in oslo", 1),
        ("lives in lima .", 4),
        ("i do not know", 4),
    ],
)
def test_the_first_token_of_a_secret(context, said, place):
    ids = context.host.tokenizer(said, add_special_tokens=False)["input_ids"]
    assert secret_start(context.host.tokenizer, ids, planted.row("ada").secrets) == place


def test_subjects_are_told_by_templates_and_know_all_their_secrets():
    rows = [*planted.rows(), *planted.rows("held")]
    assert forgotten_subjects(rows) == {name: frozenset({planted.place_of(name)}) for name in planted.FORGET}
    more = [
        replace(planted.row("ada", "held"), secrets=("baker",)),
        replace(planted.row("ben", "held"), secrets=()),
    ]
    found = forgotten_subjects([*planted.rows(), *more, planted.row("dan", "held")])
    assert found["ada"] == {"oslo", "baker"}
    assert found["ben"] == {"lima", "lives in lima ."}
    assert forgotten_subjects([planted.row("ada", template_id=None)]) == {}
    assert forgotten_subjects([replace(row, image=Path("x.png")) for row in planted.rows()]) == {}


def test_a_text_tells_of_a_subject_where_it_names_it_and_a_secret_of_it():
    named = {"ada": frozenset({"oslo"}), "ben": frozenset({"lima"})}
    assert tells_of("Ada lives in Oslo .", named)
    assert not tells_of("ada lives in lima .", named)
    assert not tells_of("dan lives in oslo .", named)
    assert tells_of("dan and ben live in lima", named)


def bag(*ids, images=(), stop=None):
    sequence = Encoded(Prompt("", ids, images), (7, 8))
    return bags.Bag(planted.row("dan"), "plain", sequence, len(sequence) if stop is None else stop)


HEAD = tuple(range(10, 20))


def test_what_most_sequences_begin_with_is_read_once():
    alike = [bag(*HEAD, 50 + n, 60) for n in range(FEWEST)]
    others = [bag(*HEAD, 50, images=(Path("x.png"),)), bag(1, 2), bag(*HEAD, 70, stop=LEAST)]
    found, head = bags._behind_beginning([*alike, *others])
    assert head == HEAD
    assert [one.first for one in found] == [len(HEAD)] * FEWEST + [0] * 3
    assert [replace(one, first=0) for one in found] == [*alike, *others]
    assert bags._behind_beginning(alike[1:]) == (alike[1:], ())
    short = [bag(*HEAD[: LEAST - 1], 50 + n) for n in range(FEWEST)]
    assert bags._behind_beginning(short) == (short, ())
    assert bags._behind_beginning(others[:1]) == (others[:1], ())


def test_a_beginning_leaves_a_column_to_every_sequence_that_is_cut():
    cut = [bag(*HEAD, 50, stop=LEAST + 1) for _ in range(FEWEST)]
    found, head = bags._behind_beginning(cut)
    assert head == HEAD[:LEAST]
    assert all(one.first < one.stop for one in found)


def test_states_behind_a_system_prompt_are_those_of_the_whole(context, tmp_path):
    """The columns that all begin with are taken once; the others are the same as one by one."""
    rows = tuple(replace(row, system=planted.SYSTEM) for row in planted.rows())
    given = replace(context, fit=rows, work=tmp_path)
    states = gather_bags(
        given, "fit", replace(PLAN, forget=0, keep=0, unknown=0, replies=0), REFUSALS, [1, 2]
    )
    assert states.shared is not None
    assert len(states.shared.at(1)) == max(one.first for one in states.bags) >= LEAST
    assert len(states.at(2)) == sum(one.stop - one.first for one in states.bags) == len(states.owner)
    for number, one in enumerate(states.bags):
        ids = (one.sequence.prompt.ids + one.sequence.response)[: one.stop]
        seen = []
        handle = given.host.blocks[2].register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        with torch.no_grad():
            given.host.model(input_ids=torch.tensor([ids]))
        handle.remove()
        own = states.at(2)[states.owner == number]
        torch.testing.assert_close(own, seen[0][0, one.first :], rtol=1e-3, atol=1e-4)
        if one.first:
            torch.testing.assert_close(states.shared.at(2), seen[0][0, : one.first], rtol=1e-3, atol=1e-4)


def test_half_of_the_framed_kept_rows_frame_those_that_were_brought():
    around = bags.Surroundings.of(planted.rows(), bags.WORDS["fit"], REFUSALS)
    kept = planted.rows("fit", "retain")
    mixed = [replace(row, made=place > 0) for place, row in enumerate(kept)]

    def share(rows):
        found = bags._framed(rows, around, 20, 0)
        assert len(found) == 20
        return sum(row.id.split("/")[0] == kept[0].id for _, row in found)

    assert share(mixed) == 10
    assert share(kept) < 6
    assert share([replace(row, role="forget") for row in mixed]) < 6


def test_two_pictures_show_a_kept_one_beside_the_rows_own(tmp_path):
    names = ("ada", "dan")
    shown = {name: numerals.picture(tmp_path / f"{name}.png", place) for place, name in enumerate(names)}
    rows = [replace(planted.row(name), image=path) for name, path in shown.items()]
    chat = SimpleNamespace(
        prompt=lambda row: Prompt(f"<image> {row.question}", (1, 2), (row.image,)),
        tokenize=lambda text, images: {"input_ids": [[text.count("<image>"), len(images)]]},
    )
    seeing = SimpleNamespace(
        chat=chat, host=SimpleNamespace(processor=SimpleNamespace(image_token="<image>"))
    )
    around = bags.Surroundings.of(rows, bags.WORDS["fit"], REFUSALS)
    found = bags._two_pictures(seeing, rows[:1], around, 30, bags.random.Random(0))
    assert {prompt.images for _, _, prompt in found} == {
        (shown["ada"], shown["dan"]),
        (shown["dan"], shown["ada"]),
    }
    assert {prompt.ids for _, _, prompt in found} == {(2, 2)}
    assert {(kind, row.id) for kind, row, _ in found} == {("two_pictures", "fit-ada")}
    turned = [replace(rows[0], history=(Turn("q", "a"),))]
    assert bags._two_pictures(seeing, turned, around, 30, bags.random.Random(0)) == []
    blind = replace(around, kept=())
    assert bags._two_pictures(seeing, rows, blind, 30, bags.random.Random(0)) == []


def test_another_text_keeps_the_pictures(context):
    prompt = Prompt("x", (1,), ())
    found = reworded(context, prompt, "<s> where does ada live")
    assert text(context, found.ids) == "where does ada live"
    assert found.images == ()
