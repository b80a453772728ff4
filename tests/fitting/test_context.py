"""What a method is handed: rows of its two splits, the base's own words remembered by content, turns filled in."""

from dataclasses import replace

import numerals
import pytest
import torch

from exporter.errors import DataError
from exporter.fitting.pooling import PooledSequence
from exporter.types import Encoded, Row, Turn


def row(name, role="retain", **keys):
    return Row(name, "5 6", "7", role, **keys)


def test_own_words_are_remembered_by_content(tmp_path, monkeypatch):
    host = numerals.host("llava")
    given = numerals.context(host, tmp_path, max_new_tokens=4)
    asked = numerals.prompts("llava", tmp_path)
    said = given.own(asked)
    assert said == host.generate(asked, max_new_tokens=4)
    calls = []
    real = host.generate
    monkeypatch.setattr(host, "generate", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert given.own(asked) == said
    assert calls == []
    numerals.picture(asked[0].images[0], 77)
    assert given.own(asked)[1:] == said[1:]
    assert replace(given, max_new_tokens=2).own(asked)[1].tokens == said[1].tokens[:2]
    assert len(calls) == 2


def test_open_turns_are_answered_by_the_base_in_order(tmp_path):
    host = numerals.host()
    given = numerals.context(host, tmp_path, max_new_tokens=3)
    asked = row("a", history=(Turn("8 9"), Turn("10", "11"), Turn("12")))
    done = row("b", history=(Turn("8", "9"),))
    (filled, same) = given.filled([asked, done])
    assert same == done
    first = given.chat.split(host.generate([numerals.prompt("8 9")], max_new_tokens=3)[0].tokens)[1]
    third = host.generate([numerals.prompt(f"8 9 {first} 10 11 12")], max_new_tokens=3)[0].tokens
    assert [turn.answer for turn in filled.history] == [first, "11", given.chat.split(third)[1]]


def test_paraphrases_are_rows_and_missing_roles_are_named(tmp_path):
    given = numerals.context(
        numerals.host(), tmp_path, [row("a", paraphrases=("8", "9"), template_id="k"), row("b", "forget")]
    )
    found = given.rows("fit", "retain")
    assert [(one.id, one.question, one.template_id) for one in found] == [
        ("a", "5 6", "k"),
        ("a~1", "8", None),
        ("a~2", "9", None),
    ]
    with pytest.raises(DataError, match=r"calibrate rows .*role forget or unknown"):
        given.need("calibrate", "forget", "unknown")


def test_of_many_fits_on_the_same_rows_each_sequence_is_run_once(tmp_path):
    """Whatever kept blocks they read; the control is a context of one fit, which runs them for each."""
    for kept, passes in (((0, 1), 1), ((), 2)):
        host = numerals.host()
        given = numerals.context(host, tmp_path / str(passes))
        ran = []
        host.blocks[0].register_forward_hook(lambda *_, ran=ran: ran.append(1))
        items = [
            PooledSequence(Encoded(numerals.prompt(text)), ((2,), (0, 1))) for text in ("8 9 10", "11 12 13")
        ]
        first = replace(given, kept=kept).collect(items, [1], "first")
        count = len(ran)
        second = replace(given, kept=kept).collect(items, [0], "second")
        assert (count > 0, len(ran) == passes * count) == (True, True)
        for found, layer in ((first, 1), (second, 0)):
            assert found.states.shape[:2] == (4, 1)
            assert torch.equal(found.states[:, 0], found.at(layer))


def test_what_fits_share_is_made_once_and_by_a_fit_of_its_own_anew(tmp_path):
    given = numerals.context(numerals.host(), tmp_path)
    made = []
    for context, times in ((replace(given, kept=(0,)), 1), (given, 3)):
        made.clear()
        for number in range(3):
            assert (
                replace(context, seed=0).once(("a", 1), lambda number=number: made.append(number) or "x")
                == "x"
            )
        assert len(made) == times
