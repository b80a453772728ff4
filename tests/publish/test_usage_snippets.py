"""How an adapter of a release is put onto its base: the base that it was fitted on, with what was merged into that."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from exporter.publish.origin import AdapterRecord, PinnedBase
from exporter.publish.usage_snippets import Place, usage_snippet

ADAPTER = "adapter"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder with what the snippet of an adapter reads."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / ADAPTER).mkdir()
    (tmp_path / ADAPTER / "adapter_config.json").write_text("{}")
    return tmp_path


def code(release: Path, base: PinnedBase | None) -> list[str]:
    return usage_snippet(release, ADAPTER, Place("me/forgot", "v1", base)).code.splitlines()


def test_a_base_of_the_hub_is_named_with_its_commit(release: Path) -> None:
    assert 'base = AutoModelForCausalLM.from_pretrained("org/base", revision="abc123")' in code(
        release, PinnedBase(repo="org/base", commit="abc123")
    )


@pytest.mark.parametrize("base", [None, PinnedBase(), PinnedBase(repo='x"); import os #')])
def test_any_other_base_is_a_place_to_fill_in(release: Path, base: PinnedBase | None) -> None:
    assert 'base = AutoModelForCausalLM.from_pretrained("path/to/the/base")' in code(release, base)


def test_what_was_merged_into_the_base_is_merged_before_the_adapter(release: Path) -> None:
    """Without it the adapter lies on another model than the one that was measured."""
    merged = (AdapterRecord(repo="org/first", files={}), AdapterRecord(repo=None, files={}))
    assert code(release, PinnedBase(repo="org/base", adapters=merged))[-3:] == [
        'base = PeftModel.from_pretrained(base, "org/first").merge_and_unload()',
        'base = PeftModel.from_pretrained(base, "path/to/an/adapter").merge_and_unload()',
        'model = PeftModel.from_pretrained(base, "me/forgot", revision="v1", subfolder="adapter")',
    ]


def test_lines_are_python(release: Path) -> None:
    merged = (AdapterRecord(repo="org/first", files={}),)
    lines = code(release, PinnedBase(repo="org/base", adapters=merged))
    assert len(ast.parse("\n".join(lines)).body) == len(lines)
