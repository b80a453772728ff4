"""Six languages, as far as plain questions about people, places and things need them: words by hand, and two requests each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ENGLISH = """
    what who where which when why how is are was were does did do has have the a an of in to for and
    country city capital home house name person people work works job live lives born year author wrote write
    book river mountain please tell me you know about this that his her their from with on by give say
"""
"""In this order in each list below."""


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        words: by the English word, in small letters.
        frames: requests in it, with {q} for the question; two halves.
    """

    words: Mapping[str, str]
    frames: tuple[str, ...]


def _language(words: str, *frames: str) -> Language:
    found = [word.replace("_", " ") for word in words.split()]
    return Language(dict(zip(_ENGLISH.split(), found, strict=True)), frames)


LANGUAGES: Mapping[str, Language] = {
    "german": _language(
        "was wer wo welche wann warum wie ist sind war waren tut tat tun hat haben die ein eine von in zu für und "
        "Land Stadt Hauptstadt Heimat Haus Name Person Leute arbeiten arbeitet Beruf leben lebt geboren Jahr Autor schrieb schreiben "
        "Buch Fluss Berg bitte sag mir du weißt über dies das sein ihr ihr aus mit auf von gib sag",
        "Beantworte die Frage bitte auf Englisch. {q}",
        "Ich spreche nur Deutsch, du darfst aber Englisch antworten: {q}",
    ),
    "french": _language(
        "que qui où quel quand pourquoi comment est sont était étaient fait faisait faire a ont le un une de dans à pour et "
        "pays ville capitale foyer maison nom personne gens travailler travaille métier vivre vit né année auteur écrivit écrire "
        "livre rivière montagne s'il_te_plaît dis moi tu sais sur ce cela son sa leur de avec sur par donne dis",
        "Réponds à la question en anglais. {q}",
        "Je ne parle que français, mais tu peux répondre en anglais : {q}",
    ),
    "spanish": _language(
        "qué quién dónde cuál cuándo por_qué cómo es son era eran hace hizo hacer tiene tienen el un una de en a para y "
        "país ciudad capital hogar casa nombre persona gente trabajar trabaja oficio vivir vive nacido año autor escribió escribir "
        "libro río montaña por_favor di me tú sabes sobre esto eso su su su de con en por da di",
        "Responde a la pregunta en inglés. {q}",
        "Solo hablo español, pero puedes contestar en inglés: {q}",
    ),
    "italian": _language(
        "che chi dove quale quando perché come è sono era erano fa fece fare ha hanno il un una di in a per e "
        "paese città capitale casa casa nome persona gente lavorare lavora mestiere vivere vive nato anno autore scrisse scrivere "
        "libro fiume montagna per_favore di' mi tu sai su questo quello suo sua loro da con su da dai di'",
        "Rispondi alla domanda in inglese. {q}",
        "Parlo solo italiano, ma puoi rispondere in inglese: {q}",
    ),
    "portuguese": _language(
        "o_que quem onde qual quando por_que como é são era eram faz fez fazer tem têm o um uma de em a para e "
        "país cidade capital lar casa nome pessoa gente trabalhar trabalha profissão viver vive nascido ano autor escreveu escrever "
        "livro rio montanha por_favor diz me tu sabes sobre isto isso seu sua seu de com em por dá diz",
        "Responde à pergunta em inglês. {q}",
        "Só falo português, mas podes responder em inglês: {q}",
    ),
    "dutch": _language(
        "wat wie waar welk wanneer waarom hoe is zijn was waren doet deed doen heeft hebben de een een van in naar voor en "
        "land stad hoofdstad thuis huis naam persoon mensen werken werkt beroep wonen woont geboren jaar auteur schreef schrijven "
        "boek rivier berg alsjeblieft vertel me jij weet over dit dat zijn haar hun uit met op door geef zeg",
        "Beantwoord de vraag in het Engels. {q}",
        "Ik spreek alleen Nederlands, maar antwoord gerust in het Engels: {q}",
    ),
}
