"""What a method is handed: rows of its two splits, the base's own words remembered by content, turns filled in."""

from dataclasses import replace

import numerals
import pytest

from exporter.errors import DataError
from exporter.types import Row, Turn


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
