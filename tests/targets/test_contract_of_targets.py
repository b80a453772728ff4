"""Every registered target goes through the same steps on one tiny model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import tiny
import tiny_stock
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from exporter import registry
from exporter.errors import SteerbakeError
from exporter.host import ModelHost
from exporter.inspection import examine
from exporter.pipeline.loaded_target import logits_of, opened
from exporter.publish.file_descriptions import holds
from exporter.publish.files import targets_in
from exporter.publish.usage_snippets import Place, usage_snippet
from exporter.targets.base import AnyTarget, TargetOptions
from exporter.targets.base_weights import BaseWeights
from exporter.targets.gguf.tools import has_runtime
from exporter.targets.values import Completions, Reference, Sampling
from exporter.types import Prompt
from steer_modules.program import SteeringProgram

HOME = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("llama_cpp_stand_in")
ASKED = {
    "checkpoint": {"steering": "steering"},
    "onnx": {},
    "stock": {},
    "gguf": {"types": ("f16",), "llama_cpp": STAND_IN},
}
"""Options of each target, where its defaults will not do here."""
NEEDS_LLAMA_CPP = {"gguf"}
EVERY = tuple(registry.TARGETS)


class Bed(NamedTuple):
    """One steered model as every target: the release has the checkpoint at its root and the others in folders of their names."""

    base: Path
    release: Path
    program: SteeringProgram
    host: ModelHost
    prompts: list[Prompt]

    def folder(self, name: str) -> Path:
        return self.release if name == registry.REFERENCE else self.release / name


NAMES = ["<pad>", "<s>", "</s>", *(f"t{place}" for place in range(3, tiny.VOCAB - 1)), "<unk>"]
"""Tokens by id."""


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(
        models.BPE(
            {name: place for place, name in enumerate(NAMES)}, [], unk_token="<unk>", ignore_merges=True
        )
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def options_of(target: AnyTarget, home: Path) -> TargetOptions:
    asked = dict(ASKED[target.name])
    if "steering" in asked:
        asked["steering"] = home / "steering"
    found: TargetOptions = target.Options(**asked)
    return found


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    home = tmp_path_factory.mktemp("contract")
    host, program, _ = tiny_stock.bed("llama", home, layer=1, num_hidden_layers=2)
    tokenizer().save_pretrained(home / "base")
    (home / "steering").mkdir()
    program.save(home / "steering")
    context = SimpleNamespace(calibration=lambda *_, **__: (host, tiny_stock.CALIBRATION_SET))
    context.rendered = lambda *_: SimpleNamespace(turns=None, prompts=[])
    release = home / "release"
    for name, target in registry.targets().items():
        if name not in EVERY:
            continue  # of a package that is installed here
        whole = {None: home / "base", registry.REFERENCE: release}
        source = whole[target.requires] if target.requires in whole else release / target.requires
        out = release if target.requires is None else release / name
        assert target.export(source, out, options_of(target, home), context) == out
    prompts = [one.prompt for one in tiny_stock.conversations(6, 5)]
    prompts = [Prompt(" ".join(NAMES[token] for token in one.ids), one.ids) for one in prompts]
    return Bed(home / "base", release, program, ModelHost.load(release, dtype=torch.float32), prompts)


def test_every_target_is_tried_here() -> None:
    assert set(ASKED) == set(registry.TARGETS)


@pytest.mark.parametrize("name", EVERY)
def test_it_says_what_it_is(name: str) -> None:
    target = registry.target(name)
    assert target.name == name and target.title and target.marker and target.artifact
    assert target.requires in (None, *registry.TARGETS) and (target.requires is None) == (
        name == registry.REFERENCE
    )
    assert issubclass(target.Options, TargetOptions)
    assert {*target.Options.flags(), *target.Options.recipe_keys()} <= {*target.Options.model_fields}


@pytest.mark.parametrize("name", EVERY)
def test_its_marker_is_its_own(bed: Bed, name: str) -> None:
    folder = bed.folder(name)
    assert registry.kind_of(folder) == name and targets_in(bed.release)[name] == folder
    assert [one for one in EVERY if registry.target(one).is_at(folder)] == [name]


@pytest.mark.parametrize("name", EVERY)
def test_it_knows_before_a_fit_what_it_needs(bed: Bed, name: str) -> None:
    target, weights = registry.target(name), BaseWeights.read(bed.base)
    config = json.loads((bed.base / "config.json").read_text())
    target.check_family(config)
    options = options_of(target, bed.base.parent)
    target.check(options, config, weights)
    assert target.disk(options, 1000, 4000) > 0 and target.lower(bed.program) == []
    twice = SimpleNamespace(edits=[*bed.program.edits, *bed.program.edits])
    assert bool(target.lower(twice)) == (name in ("stock", "gguf"))
    with pytest.raises(SteerbakeError, match="already exists"):
        target.export(bed.release, bed.folder(name), options, SimpleNamespace())


@pytest.mark.parametrize("name", EVERY)
def test_what_it_wrote_opens_and_answers(bed: Bed, name: str) -> None:
    target, section = registry.target(name), examine(bed.release).section
    loaded = target.open(bed.folder(name), Reference(section, bed.host))
    assert loaded.kind == name and loaded.generators and list(loaded.wrong) == []
    other = {**section, "sha256": "0" * 64}
    if target.requires is not None:
        assert target.open(bed.folder(name), Reference(other, bed.host)).wrong, "the control"
    if name in NEEDS_LLAMA_CPP and not has_runtime():
        pytest.skip("llama-cpp-python is not installed")
    for generator in loaded.generators.values():
        assert all(one.tokens for one in generator.generate(bed.prompts, max_new_tokens=4))
    tables = logits_of(loaded, bed.host, {"text": bed.prompts})
    assert bool(tables) == target.parity.logits and not any(one["failures"] for one in tables.values())
    found = target.check_loads(loaded, Completions.of(bed.host, bed.prompts[:2]))
    assert found.holds, found.message


@pytest.mark.parametrize("name", EVERY)
def test_it_can_be_talked_to_where_it_says_so(bed: Bed, name: str) -> None:
    said: list[str] = []
    model = registry.target(name).chat(bed.folder(name), dtype=None, say=said.append)
    if model is None:
        return
    told: list[int] = []
    reply = model.stream(bed.prompts[0], told.append, max_new_tokens=3, sampling=Sampling())
    assert said and reply.tokens and list(reply.tokens)[: len(told)] == told


@pytest.mark.parametrize("name", EVERY)
def test_its_description_names_only_what_is_there(bed: Bed, name: str) -> None:
    target, folder = registry.target(name), bed.folder(name)
    snippet = usage_snippet(bed.release, name, Place(None, None))
    assert snippet.target == name and snippet.title == target.title
    for word in re.findall(r"[\w.-]+\.(?:py|gguf|onnx|json)\b", snippet.code):
        assert (folder / word).is_file(), word
    for part in re.findall(r'subfolder="(\w+)"|^cd \S+/(\w+)$', snippet.code, re.MULTILINE):
        assert (bed.release / "".join(part)).is_dir()
    prefix = "" if folder == bed.release else f"{name}/"
    for path in target.named_files(folder):
        assert (folder / path).is_file()
        assert holds(prefix + path).holds, path
    assert all(
        isinstance(text, str) for path in folder.iterdir() if path.is_file() for text in target.texts(path)
    )


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_what_was_tampered_with_is_refused(bed: Bed, tmp_path: Path, name: str, damage: str) -> None:
    section, target = examine(bed.release).section, registry.target(name)
    folder = Path(shutil.copytree(bed.folder(name), tmp_path / name))
    named = (folder / path for path in target.named_files(folder))
    smallest = min(named, key=lambda path: (path.stat().st_size == 0, path.stat().st_size))
    if damage == "missing":
        smallest.unlink()
    else:
        content = bytearray(smallest.read_bytes())
        content[-1] ^= 1
        smallest.write_bytes(content)
    with pytest.raises(SteerbakeError):
        target.check_loads(opened(name, folder, section, bed.host), Completions.of(bed.host, bed.prompts[:1]))
