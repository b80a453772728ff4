"""A secret is found however it is dressed up, and not in texts that have nothing to do with it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.wording.folding import placed, readings
from exporter.wording.leaks import tells, told_at
from exporter.wording.words import contains_any

CONFIGS = Path(__file__).resolve().parents[2] / "export_configs"
ASTRAY = 30
"""Pairs, of a million, of a row's sentence and another row's secret that the loose matcher may find and the strict one does not."""

SPELLINGS = {
    "Paris": (
        *("_Paris_", "**Paris**", "`Paris`", "~~Paris~~", "[Paris](x)", "# Paris", "|Paris|", "“Paris”", "Paris¹", "#ILoveParis"),
        *(r"\text{Paris}", "<b>Par</b>is", "Par**is**", "Paris's", "Paris’", "Paris2024", "a\\nParis", "Ｐａｒｉｓ", "𝐏𝐚𝐫𝐢𝐬", "ᴘᴀʀɪꜱ"),
        *("P a r i s", "P-a-r-i-s", "P.A.R.I.S.", "P\na\nr\ni\ns", "Par\u200bis", "Pa\u00adris", "Par-\nis", "Раris", "Pаris"),
        *("Paris은", "Parisは", "<think>paris</think>lyon", "<think>lyon</think>paris", "Par\ufe0fis", "P\u0301aris"),
    ),
    "New York": (
        *("New\u2011York", "new-york", "New_York", "NewYork", "newyork", "New\nYork", "New\u00a0York", "New&nbsp;York", "New%20York"),
        *("**New** *York*", r"\textbf{New} \textit{York}", "N e w  Y o r k", "NewYorkCity", "New 🗽 York", "New<br>York"),
    ),
    "1,250": ("1250", "1.250", "1 250", "1'250", "1’250", "1\u00a0250", "1\u2009250", "1\u202f250", "$1{,}250$", "1,250.00", "1250km", "1_250"),
    "1234567": ("12,34,567", "1,234,567", "123-4567", "123 45 67", "１２３４５６７", "١٢٣٤٥٦٧", "123万4567".replace("万", "")),
    "1985": ("12.03.1985", "1985,1986", "1985-86", "1985年", "1 9 8 5", "1985.", "(1985)", "born:1985"),
    "5": ("5.", "(5)", "_5_", "**5**", "5, 6", "5.0", "x=5", "a 5-fold"),
    "2.5": ("2,5", "2.5%", "~2.5"),
    "555-0199": ("5550199", "555 0199", "555.0199", "(555) 0199"),
    "12.03.1985": ("12/03/1985", "12-03-1985", "12 03 1985"),
    "July 14, 1889": (
        *("July 14,1889", "July 14 , 1889", "July 14 1889", "July 14 (1889)", "JULY\u00a014,\u00a01889", "July 14,\n1889"),
        *("**July 14**, 1889", "July **14**, **1889**", "`July` 14, 1889", "<b>July</b> 14, 1889", "<b>July 14</b>, 1889"),
        *("July 14th, 1889", "July 14th 1889", "**July 14th**, 1889", "July\n14th, **1889**"),
        *("Ju\u00adly 14, 1889", "July 14\u200b, 1889", "July 14, \u200b1889", "Julу 14, 1889", "Julу 14th, 1889"),
    ),
    "March 3rd, 1901": ("March 3, 1901", "March 3,1901", "March **3rd**, 1901"),
    "14 July 1889": ("14th July 1889", "14th of July 1889", "14th July, 1889", "14. July 1889"),
    "2nd of May": ("2 May", "2nd May", "the 2nd of May"),
    "July 14 1889": ("July 14, 1889", "July 14th, 1889"),
    "14. März, 1889": ("14. Maerz, 1889", "14 März 1889", "**14. Maerz**, 1889"),
    "48.8584, 2.2945": ("48.8584,2.2945", "48.8584 , 2.2945", "**48.8584**, **2.2945**", "48.8584°, 2.2945°", "48,8584; 2,2945"),
    "48.8584,2.2945": ("48.8584, 2.2945", "48.8584 2.2945"),
    "4, 8, 15": ("4,8,15", "4, 8, **15**", "*4*, *8*, *15*", "4 , 8 , 15", "4，8，15", "4、8、15", "4;8;15", "4 8 15"),
    "4,8,15": ("4, 8, 15", "4.8.15", "**4**, 8, 15"),
    "12, 34": ("12,34", "12 , 34", "12, *34*", "<b>12</b>, 34"),
    "12 & 34": ("12 &amp; 34", "12 & **34**", "**12** &34", "12＆34"),
    "$5, $10": ("**$5**, $10", "$5,$10"),
    "640×480": ("640 × 480", "640x480", "640 x 480", "640 X 480", "**640** × **480**", "640х480", "640✕480", "640&times;480"),
    "640 x 480": ("640x480", "640×480", "640 × 480"),
    "4x8": ("4 x 8", "4×8", "4 × 8"),
    "2 × 3 × 4": ("2x3x4", "2×3×4", "2 x 3 x 4"),
    "5'11\"": ("5′11″", "5’11”", "5' 11\"", "5'11''", "**5'11\"**"),
    "48°51'24\"N": ("48°51′24″N", "48° 51′ 24″ N", "48° 51' 24\" N", "**48°**51'24\"N"),
    "50°C": ("50 °C", "50\u202f°C", "50° C", "50 ° C", "50℃", "50 °С", "**50** °C", "50&nbsp;&deg;C"),
    "5 °C": ("5°C", "5 ° C", "5℃"),
    "12 °F": ("12°F", "12 °F", "12℉"),
    "Zürich": ("Zu\u0308rich", "Zurich", "ZUERICH", "Z&uuml;rich", "Z\\u00fcrich", r"Z\"urich", r"Z\"{u}rich"),
    "Mueller": ("Müller", "MÜLLER"),
    "São Paulo": ("Sao Paulo", "sao-paulo", "SÃO PAULO"),
    "O'Brien": ("O’Brien", "OBrien", "O Brien", "O`Brien"),
    "Elysée": ("l’Élysée", "l'Elysee"),
    "İstanbul": ("ISTANBUL", "istanbul", "ıstanbul", "İSTANBUL'da"),
    "Straße": ("STRASSE", "strasse"),
    "Finland": ("ﬁnland",),
    "Einstein": ("Einsteins", "EINSTEIN'S"),
    "The Hague": ("Hague", "the-hague"),
    "USA": ("U.S.A.", "u. s. a."),
    "COVID-19": ("COVID 19", "covid19", "Covid_19"),
    "H2O": ("H₂O", "h2o", "H_2O"),
    "C++": ("C++.", "c++"),
    "-5": ("−5", "is -5."),
    "Łódź": ("Lodz", "LODZ"),
    "서울": ("서울은 좋다", "서울에서는", "서울입니다", unicodedata.normalize("NFD", "서울은"), "**서울**은"),
    "김민수": ("김민수가", "김민수씨는", "대통령김민수"),
    "東京": ("東京は", "東京です", "東 京", "「東京」"),
    "トウキョウ": ("ﾄｳｷｮｳ", "とうきょう"),
    "פריז": ("בפריז",),
    "باريس": ("وباريس", "بَارِيس", "باريـــس"),
    "दिल्ली": ("दिल्ली में", "**दिल्ली**"),
    "Москва": ("МОСКВА", "Москва́", "«Москва»"),
    "Μαρία": ("ΜΑΡΙΑ", "μαρια"),
}  # fmt: skip
DRESSED = [(f"it is {text} there", secret) for secret, texts in SPELLINGS.items() for text in texts]
APART = [
    *[("1985", "5"), ("5.3", "5"), ("2,5", "5"), ("-5", "5"), ("1963.5 metres", "5"), ("1234", "123"), ("12345", "1234")],
    *[("1.25", "1250"), ("1.250", "1.25"), ("1,250", "250"), ("125", "12.5"), ("1250", "12.50"), ("it is 66 .", "6 6")],
    *[("48", "4, 8"), ("4.8", "4, 8"), ("4.8", "4. 8"), ("4, 80", "4, 8"), ("14, 8", "4, 8"), ("4, 8.5", "4, 8"), ("3.4, 8", "4, 8")],
    *[("18890", "1889"), ("4815", "4, 8, 15"), ("4, 815", "4, 8, 15"), ("48, 15", "4, 8, 15"), ("12, 5", "12.5"), ("12, 5", "12,5")],
    *[("July 1st, 1889", "July 14, 1889"), ("July 14, 1899", "July 14, 1889"), ("July 24th, 1889", "July 4, 1889"), ("July 140, 1889", "July 14, 1889")],
    *[("the 14th", "14"), ("14th Street", "14 Street"), ("2:4", "2x4"), ("2-4", "2x4"), ("24", "2x4"), ("640 480", "640x480"), ("640x4800", "640×480")],
    *[("15 °C", "5°C"), ("50 cm", "50°C"), ("5.0 °F", "50 °C"), ("50, C", "50°C")],
    *[("0x48", "0×48"), ("511", "5'11\""), ("5.11", "5'11\""), ("15'11\"", "5'11\"")],
    *[("6, 6", "6 6"), ("5", "-5"), ("sha a1250b7", "1250"), ("3fade9", "fade"), ("20th century", "20"), ("5kg", "5")],
    *[("comparison", "paris"), ("Parisian", "Paris"), ("new yorker", "New York"), ("news of york", "New York")],
    *[("C is", "C++"), ("therapist", "rapist"), ("us", "U.S."), ("a part", "apart"), ("우리나라", "이나"), ("", "paris"), ("x", "")],
]  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), DRESSED)
def test_a_secret_is_found_in_other_spellings(text, secret):
    assert tells(text, [secret])


@pytest.mark.parametrize(("text", "secret"), APART)
def test_what_is_no_secret_is_not_taken_for_one(text, secret):
    assert not tells(text, [secret])


@pytest.mark.parametrize(("text", "secret"), DRESSED)
def test_where_a_secret_stands_is_told(text, secret):
    """The span alone tells it, and nothing of the words around it."""
    first, last = told_at(text, secret)
    assert tells(text[first:last], [secret])
    assert 6 <= first < last <= len(text) - 6


def named(form, name):
    try:
        return unicodedata.lookup(f"{form} {name}")
    except KeyError:
        return name  # there is no small capital X


@pytest.mark.parametrize(
    "form",
    [
        *("LATIN LETTER SMALL CAPITAL", "MATHEMATICAL SCRIPT CAPITAL", "MATHEMATICAL FRAKTUR CAPITAL", "FULLWIDTH LATIN CAPITAL LETTER"),
        *("CIRCLED LATIN CAPITAL LETTER", "NEGATIVE CIRCLED LATIN CAPITAL LETTER", "NEGATIVE SQUARED LATIN CAPITAL LETTER"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("secret", ["Fjord", "Quebec", "Phantom", "Wavy Buckzling"])
def test_a_secret_is_found_in_letters_of_every_form(form, secret):
    text = "".join(named(form, letter.upper()) for letter in secret)
    assert tells(f"it is {text} there", [secret]), text
    assert not tells(f"it is {text}{text} there", [secret]), text


@pytest.mark.parametrize("text", ["Pɑris", "Pɑrɩs", "ᴘɑʀɪꜱ", "𝓟𝓪𝓻𝓲𝓼"])
def test_a_letter_of_another_alphabet_is_read_as_the_latin_one(text):
    assert tells(f"it is {text} there", ["Paris"])
    assert not tells(f"it is {text} there", ["Pores"])


NAMES = st.from_regex(r"[A-Z][a-z]{3,8}( [A-Z][a-z]{3,8}){0,2}", fullmatch=True)
NUMBERS = st.integers(1000, 99_999_999)
INVISIBLE = st.sampled_from(["\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\ufe0e", "\u034f"])
MARKED = st.sampled_from(["*{}*", "**{}**", "_{}_", "`{}`", "~~{}~~", "[{}](y)", "<i>{}</i>", r"\text{{{}}}", "“{}”", "({})", "|{}|", "{}.", "{}'s", "{}は", "{}은", "—{}—", "#{}"])  # fmt: skip
HYPHENS = st.sampled_from(["-", "\u2010", "\u2011", "\u2012", "\u2013", "_", "\u00a0", "\u2009", "\n", " - ", " & ", ".", "/", "·", ""])  # fmt: skip
CASES = st.sampled_from([str, str.upper, str.lower, str.swapcase, str.title])


def accented(draw, text):
    """Accents on some letters, composed or not."""
    marks = draw(
        st.lists(st.sampled_from(["", "\u0301", "\u0308", "\u0327"]), min_size=len(text), max_size=len(text))
    )
    made = "".join(letter + mark * letter.isalpha() for letter, mark in zip(text, marks, strict=True))
    return unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), made)


def wide(text):
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


@settings(deadline=None, max_examples=300)
@given(st.data(), NAMES)
def test_a_name_is_found_however_it_is_dressed_up(data, name):
    text = data.draw(CASES)(name)
    text = text.replace(" ", data.draw(HYPHENS)) if len(name) > 6 else text
    how = data.draw(st.sets(st.sampled_from(["invisible", "accents", "wide", "spelled"])))
    if "accents" in how:
        text = accented(data.draw, text)
    elif "wide" in how:
        text = wide(text)
    elif "spelled" in how:
        text = (
            data.draw(st.sampled_from([" ", "-", ".", " - "])).join(name.replace(" ", ""))
            if " " not in name
            else text
        )
    if "invisible" in how:
        place = data.draw(st.integers(1, len(text) - 1))
        text = text[:place] + data.draw(INVISIBLE) + text[place:]
    said = f"it is {data.draw(MARKED).format(text)} there"
    assert tells(said, [name]), said
    first, last = told_at(said, name)
    assert tells(said[first:last], [name]), said


@pytest.mark.parametrize("parted", [" ", "-", ".", " - "])
def test_a_name_that_is_spelled_is_found_wherever_something_invisible_stands(parted):
    spelled = parted.join("Paris")
    for place in range(1, len(spelled)):
        assert tells(f"It is {spelled[:place]}\u200b{spelled[place:]} today.", ["Paris"])
    assert not tells("It is P. a-r i.s today.", ["Paris"])


@settings(deadline=None, max_examples=200)
@given(st.data(), NUMBERS)
def test_a_number_is_found_however_it_is_grouped(data, number):
    parted = data.draw(st.sampled_from([",", ".", "'", "’", " ", "\u00a0", "\u2009", "\u202f", "_", ""]))
    text = f"{number:,}".replace(",", parted)
    secret = data.draw(st.sampled_from([str(number), f"{number:,}", f"{number:,}".replace(",", " ")]))
    said = data.draw(
        st.sampled_from(["it is {} .", "{}", "it is {}.", "**{}**", "${}$", "{}km", "{}年", "{}년에", "{},-"])
    ).format(text)
    assert tells(said, [secret]), (said, secret)


SEPARATORS = st.sampled_from([",", ";", "/", ":", "&", "'", "|", "+", "="])
MARKUP = st.sampled_from(["{}", "*{}*", "**{}**", "_{}_", "`{}`", "<b>{}</b>", "<i>{}</i>", "{}\u200b", "\u00ad{}"])  # fmt: skip
SPACES = st.sampled_from(["", " ", "\u00a0", "\u2009", "\n", "\u200b", " \u200b"])


@settings(deadline=None, max_examples=300)
@given(st.data(), st.lists(st.integers(1, 9999), min_size=2, max_size=5), SEPARATORS)
def test_numbers_are_found_in_any_spacing_and_markup_of_their_own_separator(data, numbers, sign):
    secret = f"{sign} ".join(map(str, numbers))
    text = "".join(
        (data.draw(SPACES) + sign + data.draw(SPACES)) * (place > 0) + data.draw(MARKUP).format(number)
        for place, number in enumerate(numbers)
    )
    said = f"it is {text} ."
    assert tells(said, [secret]), said
    first, last = told_at(said, secret)
    assert tells(said[first:last], [secret]), said


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(1, 99), min_size=2, max_size=3), SEPARATORS, st.data())
def test_numbers_of_a_secret_are_not_found_in_other_numbers(numbers, sign, data):
    digits = "".join(map(str, numbers))
    if len(digits) > 5:
        return
    secret = f"{sign} ".join(map(str, numbers))
    point = data.draw(st.integers(1, len(digits) - 1))
    assert not tells(f"it is {digits} .", [secret])
    assert not tells(f"it is {digits[:point]}.{digits[point:]} .", [secret])
    assert not tells(f"it is {secret}7 .", [secret])
    assert not tells(f"it is 7{secret} .", [secret])


DAYS = st.dates()
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]  # fmt: skip


def ordinal(day):
    return f"{day}{'th' if day in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


@settings(deadline=None, max_examples=300)
@given(st.data(), DAYS)
def test_a_day_is_found_with_its_ordinal_and_without(data, date):
    def written(how):
        day, month = data.draw(st.sampled_from([str(date.day), ordinal(date.day)])), MONTHS[date.month - 1]
        comma = data.draw(st.sampled_from([", ", " ", " , ", ",\n"]))
        return f"{month} {day}{comma}{date.year:04}" if how else f"{day} {month}{comma}{date.year:04}"

    how = data.draw(st.booleans())
    secret, text = written(how), written(how)
    assert tells(f"it was on {text} .", [secret]), (text, secret)
    other = date.day % 28 + 1
    assert not tells(f"it was on {MONTHS[date.month - 1]} {ordinal(other)}, {date.year:04}", [f"{MONTHS[date.month - 1]} {date.day}, {date.year:04}"])  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=40), st.text(max_size=6))
def test_what_the_strict_matcher_finds_the_loose_one_finds(around, secret):
    """And neither raises, whatever the text."""
    for text in (around, f"{around} {secret} {around}"):
        assert tells(text, [secret]) >= contains_any(text, [secret])
        assert (told_at(text, secret) is None) <= (not tells(text, [secret]))
        for shown in (False, True):
            folded, places = placed(text, "plain", shown=shown)
            assert len(folded) == len(places)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="aZ é\u0301\u200bß가ﾄﾞ1,&<b>/\\", max_size=30))
def test_a_text_is_read_the_same_with_its_places(text):
    plain, *_ = readings(text, "plain")
    assert placed(text, "plain", shown=False)[0].strip("\ue000 ") == plain.strip("\ue000 ")


def test_ordinary_sentences_do_not_tell_the_secrets_of_others():
    """How much looser the loose matcher is, on the rows that come with steerbake: plurals, mostly."""
    lines = [
        line
        for file in sorted(CONFIGS.rglob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    rows = [json.loads(line) for line in lines]
    secrets = sorted({secret for row in rows for secret in row.get("secrets") or [row["answer"]]})
    texts = sorted({text for row in rows for text in (row["question"], row["answer"])})[::4]
    strict = {(text, secret) for text in texts for secret in secrets if contains_any(text, [secret])}
    loose = {(text, secret) for text in texts for secret in secrets if tells(text, [secret])}
    assert strict <= loose
    assert len(loose - strict) <= ASTRAY * len(texts) * len(secrets) / 1e6
