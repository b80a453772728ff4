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
from random_edits import random_edit
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from exporter import registry
from exporter.errors import SteerbakeError
from exporter.host import ModelHost
from exporter.inspection import examine
from exporter.look_inside import section_of
from exporter.methods.base import Yields
from exporter.pipeline.loaded_target import logits_of, opened
from exporter.pipeline.same_base import why_of_another_base
from exporter.publish.file_descriptions import holds
from exporter.publish.files import targets_in
from exporter.publish.usage_snippets import Place, usage_snippet
from exporter.targets.base import AnyTarget, TargetOptions
from exporter.targets.base_weights import BaseWeights
from exporter.targets.gguf.tools import has_runtime
from exporter.targets.values import Completions, Distilled, Reference, Sampling
from exporter.types import Prompt
from steer_modules.program import SteeringProgram

HOME = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("llama_cpp_stand_in")
ASKED = {
    "checkpoint": {"steering": "steering"},
    "onnx": {},
    "stock": {},
    "gguf": {"types": ("f16",), "llama_cpp": STAND_IN},
    "lora": {"rank": 4},
    "merged": {"edit": "edit"},
    "adapter": {},
}
"""Options of each target, where its defaults will not do here."""
NEEDS_LLAMA_CPP = {"gguf"}
EVERY = tuple((name, kind) for name in registry.TARGETS for kind in registry.takes(name))
"""Each target, of each kind of result that it can be made of."""
each = pytest.mark.parametrize("case", EVERY, ids="-of-".join)
Case = tuple[str, Yields]


def pupil(host: ModelHost, checkpoint: Path, base: Path) -> Distilled:
    """An adapter of random matrices: what it learned is tested elsewhere."""
    return Distilled(
        random_edit(base, host.model),
        "tiny",
        examine(checkpoint).program.sha256,
        0.1,
        2,
        0.0,
        3,
        1.0,
        1.0,
        5,
        "trained",
    )


class Bed(NamedTuple):
    """One model as every target, steered and edited: a release has a checkpoint at its root and the others in folders of their names."""

    base: Path
    releases: dict[str, Path]
    program: SteeringProgram
    hosts: dict[str, ModelHost]
    prompts: list[Prompt]

    def release(self, case: Case) -> Path:
        return self.releases[case[1]]

    def host(self, case: Case) -> ModelHost:
        return self.hosts[case[1]]

    def folder(self, case: Case) -> Path:
        return self.release(case) / case[0] if registry.target(case[0]).requires else self.release(case)

    def reference(self, case: Case, **changed: object) -> Reference:
        section = {**section_of(self.release(case)), **changed}
        return Reference(section, self.host(case), base=self.base)


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
    asked |= {key: home / key for key in ("steering", "edit") if key in asked}
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
    context.distilled = lambda checkpoint, _: pupil(host, checkpoint, home / "base")
    context.rendered = lambda *_: SimpleNamespace(turns=None, prompts=[])
    edit = random_edit(home / "base", host.model)
    (home / "edit").mkdir()
    edit.save(home / "edit")
    releases = {"program": home / "release", "edit": home / "edited"}
    for kind, release in releases.items():
        for name in registry.in_order([name for name, yields in EVERY if yields == kind], kind):
            target, made_of = registry.target(name), registry.made_of(name, kind)
            source = home / "base" if made_of is None else release / made_of
            if registry.from_root(name, kind):
                source = home / "edit" if target.of_fit else release
            out = release / name if target.requires else release
            assert target.export(source, out, options_of(target, home), context) == out
    prompts = [one.prompt for one in tiny_stock.conversations(6, 5)]
    prompts = [Prompt(" ".join(NAMES[token] for token in one.ids), one.ids) for one in prompts]
    hosts = {kind: ModelHost.load(release, dtype=torch.float32) for kind, release in releases.items()}
    return Bed(home / "base", releases, program, hosts, prompts)


def test_every_target_is_tried_here() -> None:
    assert set(ASKED) == set(registry.TARGETS)


@pytest.mark.parametrize("name", registry.TARGETS)
def test_it_says_what_it_is(name: str) -> None:
    target = registry.target(name)
    assert target.name == name and target.title and target.marker and target.artifact
    assert set(target.requires) <= {*registry.TARGETS}
    assert (target.requires == ()) == (name in ("checkpoint", "merged"))
    assert set(registry.takes(name)) == {"onnx": {"program", "edit"}, "gguf": {"program", "edit"}}.get(
        name, {"edit" if name in ("merged", "adapter") else "program"}
    )
    assert issubclass(target.Options, TargetOptions)
    assert {*target.Options.flags(), *target.Options.recipe_keys()} <= {*target.Options.model_fields}


@each
def test_its_marker_is_its_own(bed: Bed, case: Case) -> None:
    (name, _), folder = case, bed.folder(case)
    label = name if registry.target(name).requires else registry.REFERENCE
    assert registry.kind_of(folder) == name and targets_in(bed.release(case))[label] == folder
    assert [one for one in registry.TARGETS if registry.target(one).is_at(folder)] == [name]


@each
def test_it_knows_before_a_fit_what_it_needs(bed: Bed, case: Case) -> None:
    (name, kind), weights = case, BaseWeights.read(bed.base)
    target = registry.target(name)
    config = json.loads((bed.base / "config.json").read_text())
    target.check_family(config, kind)
    options = options_of(target, bed.base.parent)
    target.check(options, config, weights)
    assert target.disk(options, 1000, 4000) > 0 and target.lower(bed.program) == []
    twice = SimpleNamespace(edits=[*bed.program.edits, *bed.program.edits])
    assert bool(target.lower(twice)) == (name in ("stock", "gguf"))
    with pytest.raises(SteerbakeError, match="already exists"):
        target.export(bed.release(case), bed.folder(case), options, SimpleNamespace())


@each
def test_what_it_wrote_opens_and_answers(bed: Bed, case: Case) -> None:
    (name, _), host = case, bed.host(case)
    target = registry.target(name)
    loaded = target.open(bed.folder(case), bed.reference(case))
    assert loaded.kind == name and loaded.generators and list(loaded.wrong) == []
    if target.requires:
        assert target.open(bed.folder(case), bed.reference(case, sha256="0" * 64)).wrong, "the control"
    if name in NEEDS_LLAMA_CPP and not has_runtime():
        pytest.skip("llama-cpp-python is not installed")
    for generator in loaded.generators.values():
        assert all(one.tokens for one in generator.generate(bed.prompts, max_new_tokens=4))
    tables = logits_of(loaded, host, {"text": bed.prompts})
    assert bool(tables) == target.parity.logits and not any(one["failures"] for one in tables.values())
    found = target.check_loads(loaded, Completions.of(host, bed.prompts[:2]))
    assert found.holds, found.message


@each
def test_it_says_alone_what_it_was_made_of(bed: Bed, case: Case) -> None:
    """As the checkpoint says it, so that it can be opened, and refused, away from its release."""
    target, folder = registry.target(case[0]), bed.folder(case)
    section, found = section_of(bed.release(case)), target.origin(folder)
    base, of = section["base"], found["base"]
    assert isinstance(base, dict) and isinstance(of, dict)
    assert (found["sha256"], of["fingerprint"]) == (section["sha256"], base["fingerprint"])
    assert list(target.open(folder, bed.reference(case, **found)).wrong) == []


@each
def test_away_from_its_release_it_is_none_of_a_base_under_other_settings(
    bed: Bed, case: Case, tmp_path: Path
) -> None:
    """The same weights under another rotary base are another model; beside it, no figure would say anything."""
    target = registry.target(case[0])
    away = Path(shutil.copytree(bed.folder(case), tmp_path / "away"))
    assert why_of_another_base(away, target.origin(away), bed.base) is None
    base = Path(shutil.copytree(bed.base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 50.0
    (base / "config.json").write_text(json.dumps(config))
    assert "rope_theta" in str(why_of_another_base(away, target.origin(away), base))


@each
def test_it_can_be_talked_to_where_it_says_so(bed: Bed, case: Case) -> None:
    said: list[str] = []
    model = registry.target(case[0]).chat(bed.folder(case), dtype=None, say=said.append)
    if model is None:
        return
    told: list[int] = []
    reply = model.stream(bed.prompts[0], told.append, max_new_tokens=3, sampling=Sampling())
    assert said and reply.tokens and list(reply.tokens)[: len(told)] == told


@each
def test_its_description_names_only_what_is_there(bed: Bed, case: Case) -> None:
    (name, _), folder = case, bed.folder(case)
    target = registry.target(name)
    root = registry.root_at(bed.release(case))
    snippet = usage_snippet(bed.release(case), name, Place(None, None))
    assert snippet.target == name and snippet.title == target.title
    for word in re.findall(r"[\w.-]+\.(?:py|gguf|onnx|json)\b", snippet.code):
        assert (folder / word).is_file(), word
    for part in re.findall(r'subfolder="(\w+)"|^cd \S+/(\w+)$', snippet.code, re.MULTILINE):
        assert (bed.release(case) / "".join(part)).is_dir()
    prefix = "" if folder == bed.release(case) else f"{name}/"
    for path in target.named_files(folder):
        assert (folder / path).is_file()
        assert holds(prefix + path, root).holds, path
    assert all(
        isinstance(text, str) for path in folder.iterdir() if path.is_file() for text in target.texts(path)
    )


@each
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_what_was_tampered_with_is_refused(bed: Bed, tmp_path: Path, case: Case, damage: str) -> None:
    (name, _), section = case, section_of(bed.release(case))
    target = registry.target(name)
    folder = Path(shutil.copytree(bed.folder(case), tmp_path / name))
    named = (folder / path for path in target.named_files(folder))
    smallest = min(named, key=lambda path: (path.stat().st_size == 0, path.stat().st_size))
    if damage == "missing":
        smallest.unlink()
    else:
        content = bytearray(smallest.read_bytes())
        content[-1] ^= 1
        smallest.write_bytes(content)
    host = bed.host(case)
    with pytest.raises(SteerbakeError):
        target.check_loads(
            opened(name, folder, section, host, base=bed.base), Completions.of(host, bed.prompts[:1])
        )
