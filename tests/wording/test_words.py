"""Whole words, whatever the case."""

import pytest

from exporter.wording.words import contains_any, contains_words, normalise


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        ("The capital is Paris.", "paris", True),
        ("a comparison", "paris", False),
        ("Parisian cafes", "Paris", False),
        ("in Paris's streets", "Paris", True),
        ("New   York\nCity", "new york city", True),
        ("new yorker", "new york", False),
        ("it is 66 .", "6 6", False),
        ("it is 6 6 .", "6 6", True),
        ("1234", "123", False),
        ("The answer is Lyon", "Lyon.", True),
        ("C++ and more", "C++", True),
        ("", "paris", False),
        ("anything", "", False),
        ("anything . at all", " . ", False),
        ("Élan vital", "élan", True),
        ("<think>oslo</think>", "oslo", True),
    ],
)
def test_contains_words(text, wanted, found):
    assert contains_words(text, wanted) is found


def test_contains_any_of_none_is_false():
    assert not contains_any("paris", ())
    assert contains_any("paris", ("oslo", "paris"))


def test_normalise_keeps_case_and_punctuation():
    assert normalise("  I  do\tnot\nknow .") == "I do not know ."
