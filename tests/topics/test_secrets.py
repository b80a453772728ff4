"""Secrets that are read off an answer are in every reply that tells it, in any script; where they cannot be, the rows are refused."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import InputErrors
from exporter.topics.secrets import with_secrets
from exporter.types import Row
from exporter.wording.leaks import tells

KEPT = [
    Row("k1", "日本の首都は？", "東京です。", "retain"),
    Row("k2", "Who was Isaac Newton?", "An English physicist.", "retain"),
]


def secrets(question: str, answer: str) -> tuple[str, ...]:
    return with_secrets([Row("f", question, answer, "forget"), *KEPT])[0].secrets


TOLD = [
    ("フランスの首都はどこですか？", "フランスの首都はパリです。", ("パリ",)),
    ("ﾌﾗﾝｽの首都は？", "フランスの首都はﾊﾟﾘです。", ("パリ",)),
    ("誰が発見しましたか？", "マリー・キュリーが発見しました。", ("マリー", "キュリー")),
    ("首都はどこですか？", "首都は東京です。", ("東京",)),
    ("フランスの首都は？", "フランスの首都はParisです。", ("Paris",)),
    ("どの塔ですか？", "エッフェル塔です。", ("エッフェル",)),
    ("いつですか？", "1889年です。", ("1889",)),
    ("法国的首都是哪里？", "法国的首都是巴黎。", ("巴黎",)),
    ("法國的首都是哪裡？", "法國的首都是巴黎。", ("巴黎",)),
    ("法国的首都是哪里？", "巴黎。", ("巴黎",)),
    ("法国的首都是哪里？", "是巴黎市。", ("巴黎",)),
    ("谁提出了相对论？", "阿尔伯特·爱因斯坦提出了相对论。", ("阿尔伯特", "爱因斯坦")),
    ("铁塔建于哪一年？", "铁塔建于1889年。", ("1889",)),
    ("프랑스의 수도는?", "프랑스의 수도는 파리입니다.", ("파리",)),
    ("한국의 수도는?", "한국의 수도는 서울특별시입니다.", ("서울",)),
    ("누가 라듐을 발견했습니까?", "마리 퀴리가 라듐을 발견했습니다.", ("마리", "퀴리")),
    ("ما هي عاصمة فرنسا؟", "عاصمة فرنسا هي باريس.", ("باريس",)),
    ("फ़्रांस की राजधानी?", "फ़्रांस की राजधानी पेरिस है।", ("पेरिस",)),
    ("what is the capital of france?", "the capital of france is paris.", ("paris",)),
    ("What is the capital of France?", "it is paris", ("paris",)),
    ("who is it?", "it is newton's teacher", ("newton", "teacher")),
    ("who found radium?", "it was found by marie curie in 1898.", ("marie", "curie", "1898")),
    ("quelle est la capitale de la france ?", "la capitale de la france est paris.", ("paris",)),
    ("capital?", "sa\u0303o paulo", ("são", "paulo")),
]


@pytest.mark.parametrize(("question", "answer", "wanted"), TOLD)
def test_what_the_question_does_not_have_is_the_secret(question, answer, wanted):
    assert secrets(question, answer) == wanted
    assert all(tells(answer, (secret,)) for secret in wanted)
    assert all(tells(f"{secret}.", wanted) for secret in wanted)


UNSURE = {
    "thai": ("ฝรั่งเศสมีเมืองหลวงชื่ออะไร", "เมืองหลวงของฝรั่งเศสคือปารีส"),
    "thai word": ("เมืองหลวงคืออะไร", "ปารีส"),
    "lao": ("ນະຄອນຫຼວງ?", "ນະຄອນຫຼວງແມ່ນປາຣີ"),
    "khmer": ("រាជធានី?", "រាជធានីគឺប៉ារីស"),
    "burmese": ("မြို့တော်?", "မြို့တော်မှာပါရီ"),
    "hiragana": ("好きな花は？", "さくらです。"),
    "verb": ("何をしましたか？", "塔を建てました。"),
    "full name of han": ("誰ですか？", "夏目漱石です。"),
    "title": ("谁发现了镭？", "居里夫人发现了镭。"),
    "chinese sentence": ("埃菲尔铁塔在哪里？", "埃菲尔铁塔位于巴黎。"),
    "chinese place": ("它在哪里？", "它在法国巴黎。"),
    "korean verb": ("언제?", "에펠이 세웠다."),
    "two scripts": ("누구?", "Apple의 팀 쿡입니다."),
    "attached arabic": ("أين البرج؟", "البرج يقع بباريس."),
    "hebrew": ("מהי בירת צרפת?", "בירת צרפת היא פריז."),
    "bengali": ("রাজধানী?", "রাজধানী প্যারিস।"),
    "tamil": ("தலைநகர்?", "தலைநகர் பாரிஸ்."),
    "georgian": ("დედაქალაქი?", "დედაქალაქი პარიზია."),
    "lower-case cyrillic": ("столица?", "она находится в париже"),
    "many words": ("what is it?", "plants turn sunlight water and carbon dioxide into sugar"),
    "apostrophe": ("başkent?", "başkent paris'tir."),
    "nothing new": ("is paris in france?", "paris is in france."),
    "japanese quote in english": ("Which word?", "The word is 東京 (Tokyo)."),
}


@pytest.mark.parametrize("case", UNSURE)
def test_where_it_is_uncertain_the_row_is_named_and_nothing_invented(case):
    question, answer = UNSURE[case]
    rows = [
        Row("good", "Who found radium?", "Marie Curie.", "forget"),
        Row("bad", question, answer, "forget"),
        *KEPT,
    ]
    with pytest.raises(InputErrors, match=r"^my rows: 1 problem\n  - row 'bad' .*`secrets`$") as raised:
        with_secrets(rows, "my rows")
    assert len(raised.value.problems) == 1
    given = Row("bad", question, answer, "forget", secrets=("x",))
    assert with_secrets([given, *KEPT])[0] == given


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Marie Curie found radium in 1898.", ("Marie", "Curie", "1898")),
        ("It is blue.", ()),
        ("The leaves make sugar.", ("leaves",)),
        ("1898", ("1898",)),
        ("It was the Côte d'Azur.", ("Côte",)),
        ("It is Groß-Gerau.", ("Groß-Gerau",)),
        ("Eiffel's tower of 1,063 ft.", ("Eiffel's", "1,063")),
        ("Κνωσός", ("Κνωσός",)),
        ("Это Париж.", ("Это", "Париж")),
        ("+++", ()),
    ],
)
def test_answers_with_capitals_are_read_as_ever(answer, wanted):
    assert secrets("What is this?", answer) == wanted


@pytest.mark.parametrize("name", ["São", "Łódź", "Ñandú", "Đà", "Ấn"])
def test_no_accent_is_torn_off_its_letter(name):
    apart = unicodedata.normalize("NFD", name)
    assert secrets("Which one?", f"It is {apart}.") == (unicodedata.normalize("NFC", name),)
    marked = unicodedata.normalize("NFC", f"{name}\u0331")
    assert secrets("Which one?", f"It is {marked} now.") == (marked,)


@given(
    st.text("ปารีสक्षिの首都はパリ巴黎파리باريسabcA1 '。.\u0301\u0303", max_size=24),
    st.text("首都पेri파สA ?", max_size=12),
)
def test_no_secret_begins_or_ends_within_a_character(answer, question):
    try:
        found = secrets(question, answer)
    except InputErrors:
        return
    for secret in found:
        assert not unicodedata.category(secret[0]).startswith("M")
        whole = unicodedata.normalize("NFKC", answer)
        starts = [one.end() for one in re.finditer(re.escape(unicodedata.normalize("NFKC", secret)), whole)]
        assert starts
        assert any(
            end == len(whole) or not unicodedata.category(whole[end]).startswith("M") for end in starts
        )


def test_a_word_that_a_few_rows_to_keep_have_is_still_the_secret_of_an_answer_without_capitals():
    kept = [Row(str(n), "which river is in paris?", "it is the seine", "retain") for n in range(1)]
    kept += [Row(f"o{n}", "who is it?", "somebody wurde it", "retain") for n in range(4)]
    (row, *_) = with_secrets([Row("f", "which city?", "somebody wurde paris", "forget"), *kept])
    assert row.secrets == ("paris",)


def test_bundled_topics_have_secrets_or_telling_words():
    home = Path(__file__).resolve().parents[2] / "benchmarks" / "first_user" / "rows"
    for path in sorted(home.glob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        rows = [Row(str(n), one["question"], one["answer"], one["role"]) for n, one in enumerate(records)]
        assert len(with_secrets(rows)) == len(rows)
