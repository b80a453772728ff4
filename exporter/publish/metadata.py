"""The metadata of a card, and the Hub's rules for it, which hold without a network too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from exporter.publish.measures import joined

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
    cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl
    apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
    unknown other
    """.split()  # noqa: SIM905 - a hundred identifiers, one a line, would be a hundred lines
)
"""Identifiers that the Hub accepts (its validation of May 2026)."""
RELATIONS = ("adapter", "merge", "quantized", "finetune")
TASKS = (
    "text-generation",
    "image-text-to-text",
    "any-to-any",
    "audio-text-to-text",
    "document-question-answering",
    "image-to-text",
    "question-answering",
    "summarization",
    "translation",
    "video-text-to-text",
    "visual-question-answering",
)
"""The Hub's tasks whose answer is text."""
TAGS = ("machine-unlearning", "activation-steering", "r-muse", "steerbake")
EDIT_TAGS = ("machine-unlearning", "lora", "steerbake")
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
_REPO = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*/)?[A-Za-z0-9][A-Za-z0-9_.-]*(?<![.-])")
_NAME = re.compile(r"[a-z0-9.-]+")
_LINK = re.compile(r"https?://[^\s/]+\S*|LICEN[SC]E(\.[A-Za-z]+)?")


def licensed(
    publication: Mapping[str, Any], base: Mapping[str, Any], *, has_file: bool
) -> tuple[dict[str, str], str]:
    """(``license``, ``license_name`` and ``license_link`` of the metadata, a sentence for the reader).

    The publisher's licence where one is named, else the base's, else ``other`` with a sentence that says so.

    Args:
        has_file: whether the folder holds a file LICENSE.
    """
    own = publication.get("license")
    source = publication if own else base
    name = str(own or base.get("license") or "")
    if files := base.get("license_files"):
        beside = f" The terms are in {joined(files)}, copied from the base."
    else:
        beside = ""
    if not name and beside:
        link = {"license_link": "LICENSE"} if has_file else {}
        statement = f"The base's card has no licence.{beside}"
        return {"license": "other", "license_name": "see-license-file", **link}, statement
    if not name:
        statement = "The base's files state no licence. Ask its authors for permission before you use or share this model."
        return {"license": "other", "license_name": "not-stated"}, statement
    extra = {key: str(source[key]) for key in ("license_name", "license_link") if source.get(key)}
    known = name if name in LICENSES else "other"
    if known == "other":
        extra.setdefault("license_name", re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-") or "other")
        if has_file:
            extra.setdefault("license_link", "LICENSE")
    shown = extra.get("license_name", known) if known == "other" else known
    statement = f"`{shown}`, {'chosen by the publisher' if own else 'as the base has it'}.{beside}"
    return {"license": known, **extra}, statement


def problems(data: ModelCardData) -> list[str]:
    """What the Hub would refuse, or not show, in a card's metadata: one sentence each."""
    return [problem for rule in (_licence, _language, _base, _rest) for problem in rule(data.to_dict())]


def is_repo_id(name: object) -> bool:
    """Whether the Hub takes this as the name of a repository: ``name`` or ``owner/name``."""
    return (
        isinstance(name, str)
        and _REPO.fullmatch(name) is not None
        and len(name) <= 96
        and not any(odd in name for odd in ("--", "..", ".git"))
    )


def _licence(data: Mapping[str, object]) -> Iterator[str]:
    if data.get("license") not in LICENSES:
        yield f"license: {data.get('license')!r} is not a licence identifier of the Hub; use other, with license_name and license_link"
    if data.get("license") == "other" and not _NAME.fullmatch(str(data.get("license_name") or "")):
        yield (
            "license_name: with license other, must be lower case letters, digits, points and dashes; received "
            f"{data.get('license_name')!r}"
        )
    link = data.get("license_link")
    if link is not None and not _LINK.fullmatch(str(link)):
        yield f"license_link: must be LICENSE, LICENSE.md or a URL; received {link!r}"


def _language(data: Mapping[str, object]) -> Iterator[str]:
    languages = data.get("language")
    if not isinstance(languages, list) or not languages:
        yield f"language: must be a list of codes of two or three letters, such as [en]; received {languages!r}"
        return
    for code in languages:
        if not isinstance(code, str) or not _LANGUAGE.fullmatch(code):
            yield f'language: must be a code of two or three lower case letters (in YAML, write "no" in quotes); received {code!r}'


def _base(data: Mapping[str, object]) -> Iterator[str]:
    base, relation = data.get("base_model"), data.get("base_model_relation")
    if base is not None and not is_repo_id(base):
        yield f"base_model: must be a repository, owner/name; received {base!r}"
    if relation not in (None, *RELATIONS):
        yield f"base_model_relation: must be one of {', '.join(RELATIONS)}; received {relation!r}"
    if (base is None) != (relation is None):
        yield "base_model and base_model_relation must be given together; give both or neither"


def _rest(data: Mapping[str, Any]) -> Iterator[str]:
    if data.get("pipeline_tag") not in TASKS:
        yield f"pipeline_tag: must be one of {', '.join(TASKS)}; received {data.get('pipeline_tag')!r}"
    if data.get("library_name") != "transformers":
        yield f"library_name: must be transformers, which loads the folder; received {data.get('library_name')!r}"
    for tag in data.get("tags") or ():
        if not isinstance(tag, str) or not tag.strip() or tag != tag.strip():
            yield f"tags: must be short strings; received {tag!r}"
