"""Words that say nothing by themselves, of languages whose names cannot be told by a capital letter."""

from __future__ import annotations

from exporter.topics.subjects import SMALL

_LATIN = """
    been being very only also just then than into onto over under such each every some any both more most other another same
    had has have will would can could may might must shall should but nor yet so because while there here these those them
    made make makes found ist sind war waren wird wurde wurden hat haben der die das den dem des ein eine einen einem einer
    und oder nicht von vom zum zur mit bei aus auf als für ich sie wir ihr es er est sont était fut une les des aux dans par pour sur avec
    que qui dont elle ils son ses leur pas plus cette ce cet son fue era eran una los las del por para con como que sus
    sobre esta este eso muy sono stato stata della dello dei degli delle nel nella per tra gli che suo sua foi são uma
    dos das nas pelo pela não mais com seu van een het zijn werd waren door voor niet met aan naar deze dat
"""
_ARABIC = """
    هو هي هم كان كانت يكون تكون في من على إلى عن مع هذا هذه ذلك تلك التي الذي إن أن قد لقد اسمه اسمها تسمى يسمى نعم لا است هست بود از به در با این آن که را
"""
_HINDI = """
    है हैं था थी थे हो का की के को में से पर ने और यह वह ये वे इस उस इसका उसका एक नाम जी हाँ नहीं भी ही तो जो कि लिए द्वारा
"""
_KOREAN = """
    그것은 이것은 그는 그녀는 바로 정답은 답은 네 예 아니요
"""
_JAPANESE = """
    は が を に で と の も や へ か ね よ です でした だ だった である であった という といいます といい から まで より
    にあります にある にいます には では とは のは それは これは ですね ですよ といわれます
"""
_COUNTERS = """
    年 月 日 人 個 个 つ 回 年間 世紀 世纪 メートル キロ 米 公里 歳 岁 号 位
"""
_ASKING = """
    哪个城市 哪座城市 哪個城市 什么时候 什麼時候 哪一年 何时 何時 哪里 哪裡 哪儿 哪个 哪個 哪位 哪年 什么 什麼 多少 谁 誰 几
"""
FUNCTION = {
    "LATIN": SMALL | frozenset(_LATIN.split()),
    "ARABIC": frozenset(_ARABIC.split()),
    "DEVANAGARI": frozenset(_HINDI.split()),
    "HANGUL": frozenset(_KOREAN.split()),
}
"""By the first word of the Unicode names of a script's letters."""
HIRAGANA = frozenset(_JAPANESE.split())
"""Runs of hiragana that stand between the words of an answer."""
COUNTERS = frozenset(_COUNTERS.split())
"""What stands behind a number."""
ASKING = tuple(_ASKING.split())
"""Words of Chinese questions in whose place the answer has what is asked for, the longer ones first."""
EMPTY_HAN = frozenset("的是在了和与與及为為位于於有被由叫不也都就而其之这這那它他她我你们們")
"""Characters that make Chinese text a sentence, and not a name."""
