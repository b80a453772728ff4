"""Check of every text of a release: it must contain nothing of a forget row and no local path."""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from exporter import registry
from exporter.errors import VerificationError
from exporter.model_folder import inner
from exporter.publish.files import files_of, is_verified
from exporter.verify.secrecy import Secrecy
from exporter.wording.words import words

_VOCABULARY = re.compile(
    r"(tokenizer[\w.]*\.json|vocab\.\w+|merges\.txt|added_tokens\.json|emoji\.json|tekken\.json|.*\.(model|tiktoken)|tokenizer\.model.*)"
)
"""Files of every word that a tokenizer knows; those are the base's, and cannot be left out."""
_TEXT = (".md", ".txt", ".rst", ".jinja", ".html", ".yaml", ".yml", "")
_HOME = re.compile(r"(?<![\w.])/(home|Users)/[\w.-]+/|\b[A-Za-z]:\\+Users\\+\w|\bfile:///")


def refuse_texts(release: Path, secrecy: Secrecy | None, places: Iterable[Path], *, described: bool) -> None:
    """Raises VerificationError if a file of a release contains such text; the message names each file and the fix.

    Args:
        secrecy: what the forget rows hold; None where their publisher shows them.
        places: folders of this machine that no file may name.
        described: look at the files that describe the others, or else at all others.
    """
    here = {str(one) for place in places for one in (place.absolute(), place.resolve())} | {str(Path.home())}
    own = _own_words() if described else frozenset[str]()
    wrong = []
    for name in files_of(release):
        if is_verified(name) == described or name.endswith(".py"):  # code is compared byte for byte elsewhere
            continue
        texts = list(_texts(release / name))
        if _names_place(release / name, here) or any(map(_HOME.search, texts)):
            wrong.append(f"{name} contains the path of a local folder")
        if secrecy is not None and any(secrecy.tells_plainly(text, own) for text in texts):
            wrong.append(f"{name} contains a secret, an answer or a question of a forget row")
    if wrong:
        raise VerificationError(
            f"{release} is not published: {'; '.join(wrong)}; remove it from that file of the base (or from the recipe's texts) and "
            "publish again"
        )


def vocabulary_told(release: Path, secrecy: Secrecy | None) -> list[str]:
    """Files whose added tokens name what was forgotten: they stay, since a tokenizer without them is another one."""
    if secrecy is None:
        return []
    found = []
    for name in ("tokenizer.json", "added_tokens.json", "tokenizer_config.json"):
        path = release / name
        if path.is_file() and any(map(secrecy.tells_plainly, _added(_parsed(path)))):
            found.append(name)
    return found


def _added(content: object) -> Iterator[str]:
    """The texts of tokens that were added to a tokenizer's own."""
    if not isinstance(content, dict):
        return
    added = content.get("added_tokens", content.get("added_tokens_decoder"))
    if added is None:
        yield from (key for key, value in content.items() if isinstance(value, int))
        return
    for one in added.values() if isinstance(added, dict) else added:
        yield str(one.get("content", "") if isinstance(one, dict) else one)


def _texts(path: Path) -> Iterator[str]:
    """The texts that a file holds beside weights and vocabulary."""
    suffix = path.suffix.lower()
    if suffix == ".json" and path.name != "tokenizer_config.json" and not _VOCABULARY.fullmatch(path.name):
        yield from _strings(_parsed(path))
    elif path.name == "tokenizer_config.json":
        content = _parsed(path)
        words_of = ("added_tokens_decoder", "extra_special_tokens", "additional_special_tokens")
        yield from _strings(
            {key: value for key, value in content.items() if key not in words_of}
            if isinstance(content, dict)
            else content
        )
    elif suffix == ".safetensors":
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            yield from _strings(json.loads(file.read(length)).get("__metadata__") or {})
    elif suffix in _TEXT and not _VOCABULARY.fullmatch(path.name):
        yield path.read_text(encoding="utf-8", errors="replace")
    for target in registry.targets().values():
        yield from target.texts(path)


def _parsed(path: Path) -> object:
    """What a JSON file holds; its text, in a list, where it is none."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return [text]


def _strings(content: object) -> Iterator[str]:
    for place, value in inner(content):
        yield place.rpartition(".")[2]
        if isinstance(value, str):
            yield value


def _names_place(path: Path, places: Iterable[str]) -> bool:
    """Whether the bytes of a file hold a path of this machine, weights and vocabulary included."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # "/root" alone is a word of many vocabularies; with what lies in it, it is a place.
            return any(
                content.find(f"{place.rstrip('/')}/".encode()) >= 0 for place in places if len(place) > 1
            )


@lru_cache(maxsize=1)
def _own_words() -> frozenset[str]:
    """Words of the templates of card and page, and of what is filled in: they name nobody."""
    home = Path(__file__).resolve().parent.parent
    sources = [
        *(home / "publish").rglob("*"),
        *(home / "evaluate").rglob("*.py"),
        *(home / "verify").glob("*.py"),
        *Path(__file__).parent.glob("*.py"),
    ]
    return frozenset(
        word
        for source in sources
        if PurePosixPath(source).suffix in (".py", ".jinja", ".css")
        for word in words(source.read_text(encoding="utf-8"))
    )
