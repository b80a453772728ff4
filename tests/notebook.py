"""What a notebook has: a tiny model with its tokenizer, loaded, its rows, and what it says to a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Quick, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

import exporter
from exporter import Settings, SteeringProgram, registry

SETTINGS = Settings(reasoning_template="<think> {reasoning} </think> {answer}", max_new_tokens=6)
"""A recipe's defaults, but for the length."""


def load(base: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)


def fit(folder: Path, model: Any, tokenizer: Any, **options: Any) -> SteeringProgram:
    """A fit on the rows of a folder."""
    options = {"calibrate": folder / "calibrate.jsonl", "settings": SETTINGS, **options}
    return exporter.fit(model, tokenizer, folder / "fit.jsonl", **options)


def prompts(name):
    return f"<s> [user] where does {name} live ? [assistant]"


def ids_of(tokenizer, name):
    return tokenizer(prompts(name), return_tensors="pt", add_special_tokens=False).input_ids


def said(model, tokenizer, name, **options):
    ids = ids_of(tokenizer, name)
    out = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, **options)
    return out[0, ids.shape[1] :].tolist()


def logits(model, ids, **options):
    with torch.no_grad():
        return model(input_ids=ids, **options).logits


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A method that fits in a pass, under the names of slower ones."""
    for name in ("keyed", "r_muse"):
        monkeypatch.setitem(registry.METHODS, name, "tiny_run:Quick")
    monkeypatch.setattr(Quick, "fitted", [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Base, rows and recipe."""
    place = tmp_path_factory.mktemp("api")
    write_recipe(place)
    return place


@pytest.fixture
def loaded(folder):
    return load(folder / "base")


@pytest.fixture
def fitted(folder, loaded):
    return fit(folder, *loaded)
