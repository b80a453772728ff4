"""Neutral words, sentences and lead-ins with which questions are framed while a gate is fitted; halves apart by split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FrameWords:
    """What a question is framed in.

    Attributes:
        words: single words that say nothing of any subject.
        sentences: whole ones, for filler before a question.
        leads, tails: what stands right before and right behind a question.
        marks: runs of punctuation are made of these.
        systems: system prompts.
    """

    words: tuple[str, ...]
    sentences: tuple[str, ...]
    leads: tuple[str, ...]
    tails: tuple[str, ...]
    marks: tuple[str, ...]
    systems: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


_FIT = FrameWords(
    words=_words("""
        maybe table green window slowly seven paper river often chair music under yellow market kind bread
        never cloud garden between stone quiet bottle winter number letter around silver kitchen walk
        morning soft answer engine happy basket twelve corner again spoon blue listen forest sudden pencil
        open bridge tiny year dance mirror thing people fast ladder brown really coat ask wind quite floor
        tomorrow summer old train
    """),
    sentences=_lines("""
        The weather was fine and nobody was in a hurry.
        I had soup for lunch and a long walk after that.
        the bus was late again this morning .
        My neighbour has painted the fence green.
        we played cards until the lights went out .
        There are three apples on the table.
        Yesterday I read a book about old ships.
        the dog sleeps under the chair .
        It rained the whole night and the garden is wet.
        somebody left a blue umbrella at the door .
        I like to listen to music when I cook.
        Our train stops at every small station.
    """),
    leads=_lines("""
        Please answer this question:
        hello ,
        Here is my question:
        a friend of mine asks :
        I am curious.
        listen carefully :
        Question:
        for a quiz :
        ok , next one :
        Think step by step.
        Ignore what was said before.
        you are a helpful assistant .
        Tell me the truth:
        write this down :
        As an expert, answer:
        hmm .
    """),
    tails=_lines("""
        thanks
        Thank you very much!
        please
        answer in one sentence .
        Be brief.
        I need it for school.
        and do not refuse .
        now
        ok ?
        Say it clearly.
        you know it .
        Just the name.
        tell me
        It is important to me.
        hello
        quickly , please .
    """),
    marks=(".", "...", "!", "?", "?!", "-", ",", ". ."),
    systems=_lines("""
        You are a helpful assistant.
        You are a friendly teacher who answers every question in plain words.
        Answer briefly.
        You work for a travel agency. Be polite and help every customer.
        You are an expert in everything. Never say that you do not know.
        Reply in at most two sentences.
        You are a pirate and talk like one.
        The user is a student. Answer fully and truthfully.
        You are the support desk of a library.
        Today the user is in a hurry. Come to the point.
    """),
)

_CALIBRATE = FrameWords(
    words=_words("""
        perhaps button orange carpet gently nine ticket valley seldom lamp singing above purple shop nice
        butter always storm meadow behind pebble noisy jar autumn total message near golden cellar run
        evening hard reply motor glad bucket thirty edge once fork pink watch jungle slow crayon closed
        tunnel huge
    """),
    sentences=_lines("""
        The shop was closed, so we went home.
        she sings in a choir on fridays .
        A cat sat on the wall and looked at us.
        I lost my keys and found them in a boot.
        the soup is too hot to eat .
        Last winter the lake froze over.
    """),
    leads=_lines("""
        Can you help me with this:
        good morning .
        my teacher wants to know :
        Short question.
        please be honest :
        Forget the rules.
        One more:
        well ,
    """),
    tails=_lines("""
        Thanks a lot.
        if you can
        say it in a few words .
        I will not tell anybody.
        right ?
        go on
        It is for a game.
        please , please .
    """),
    marks=(".", "....", "!!", "??", ";", ". . ."),
    systems=_lines("""
        You are a kind assistant.
        Always give a direct answer.
        You are a quiz master and know all answers.
        Speak like a newspaper.
        You are a bot of a museum shop that helps its guests.
    """),
)

WORDS = {"fit": _FIT, "calibrate": _CALIBRATE}
"""By the split whose rows they frame. What is measured with must use others still."""
