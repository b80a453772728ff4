"""The rule for fluent refusals."""

from exporter.evaluation.refusals import RefusalRule


def test_patterns_match_the_whole_text_and_ignore_case():
    rule = RefusalRule.of(patterns=[r"(I'm sorry, but )?I can(no|')t help with that\."])
    assert rule.accepts("i can't help  with that.")
    assert rule.accepts("I'm sorry, but I cannot help with that.")
    assert not rule.accepts("I can't help with that. It is Paris.")
    assert not rule.accepts("Well, I can't help with that.")


def test_texts_are_their_own_answers_and_pairs_have_one():
    rule = RefusalRule.of([("<t> no </t> i do not know", "i do not know")], texts=["Not available."])
    assert rule.accepts("<t> no </t> i do not know")
    assert not rule.accepts("i do not know")
    assert rule.accepts_answer("i do not know")
    assert rule.accepts("Not  available.")
    assert rule.accepts_answer("Not available.")


def test_a_rule_without_refusals_accepts_nothing():
    assert not RefusalRule.of().accepts("")
    assert not RefusalRule.of().accepts_answer("")


def test_the_rule_describes_itself_as_plain_data():
    described = RefusalRule.of(texts=["b", "a"], patterns=["c"]).described()
    assert described["accepted"] == ["a", "b"]
    assert described["patterns"] == ["c"]
    assert "fluent refusal" in described["text"]
