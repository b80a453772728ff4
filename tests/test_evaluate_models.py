"""Any folder is opened to be measured, held to its own manifest; what it answers survives a command that was killed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from random_edits import random_edit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from exporter import pipeline, registry
from exporter.digests import digest_of
from exporter.errors import SteerbakeError
from exporter.evaluation.cases import replies_of
from exporter.evaluation.row_passes import ForcedAnswer, RowPasses
from exporter.host import ModelHost
from exporter.pipeline.asked_rows import answered, batches, replies
from exporter.pipeline.forced_rows import forced
from exporter.pipeline.measured_models import MeasuredModel, base_without_weights, open_model
from exporter.pipeline.row_records import RowRecords
from exporter.pipeline.run import Run
from exporter.pipeline.same_base import why_of_another_base
from exporter.recipe import Recipe
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.values import Reference


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, recipe, a steered checkpoint, its graphs, an adapter and a merged checkpoint."""
    home = tmp_path_factory.mktemp("measured")
    tiny_run.write_recipe(home)
    tiny_run.steer(home / "base", home / "steered")
    model = AutoModelForCausalLM.from_pretrained(home / "base")
    edit = random_edit(home / "base", model)
    (home / "adapter").mkdir()
    edit.save(home / "adapter")
    merged = registry.target("merged")
    merged.export(home / "base", home / "merged", merged.Options(edit=home / "adapter"), None)
    return home


@pytest.fixture(scope="module")
def work(home: Path) -> Run:
    return Run(Recipe.load(home / "recipe.yaml"), home / "run", progress=False)


def tokens(model: MeasuredModel, work: Run, file: Path) -> list[tuple[int, ...]]:
    return [
        one.last.generation.tokens for one in answered(model, "", model.reads(work.test), work, replies(file))
    ]


def test_kinds_and_what_they_say(home: Path, work: Run, tmp_path: Path) -> None:
    """Every folder is opened alone, and an adapter says what its merged checkpoint says."""
    said = {}
    for name in ("base", home / "base", home / "steered", home / "merged", home / "adapter"):
        model = open_model(name, work)
        assert model.variants == ("",)
        said[str(name)] = (model.kind, tokens(model, work, tmp_path / "answers.jsonl"))
        assert model.host is not None
        model.close()
    kinds = [kind for kind, _ in said.values()]
    assert kinds == ["base", "model", "checkpoint", "merged", "adapter"]
    base, plain, steered, merged, adapter = (texts for _, texts in said.values())
    assert base == plain != steered
    assert merged == adapter != base


def test_a_changed_file_is_not_measured(home: Path, work: Run, tmp_path: Path) -> None:
    for name, file in (("adapter", "adapter_config.json"), ("merged", "config.json")):
        folder = Path(shutil.copytree(home / name, tmp_path / name))
        (folder / file).write_text((folder / file).read_text().replace("{", "{ ", 1))
        with pytest.raises(SteerbakeError, match=file):
            open_model(folder, work).opened  # noqa: B018 - raises
    folder = Path(shutil.copytree(home / "steered", tmp_path / "steered"))
    config = json.loads((folder / "config.json").read_text())
    del config["steering"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SteerbakeError):  # it must not be taken for a plain model
        open_model(folder, work).opened  # noqa: B018 - raises


def test_what_is_of_another_base_is_refused(home: Path, work: Run, tmp_path: Path) -> None:
    tiny_run.write_base(tmp_path / "base", seed=5)
    tiny_run.steer(tmp_path / "base", tmp_path / "steered")
    with pytest.raises(SteerbakeError, match="another base"):
        open_model(tmp_path / "steered", work)


@pytest.fixture
def turned(home: Path, tmp_path: Path) -> Path:
    """A recipe with the same base under another rotary base: the same weights, and another model."""
    folder = Path(shutil.copytree(home / "base", tmp_path / "base"))
    for file in home.glob("*.jsonl"):
        shutil.copy(file, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 50.0
    (folder / "config.json").write_text(json.dumps(config))
    return Path(shutil.copy(home / "recipe.yaml", tmp_path))


@pytest.mark.parametrize("name", ["steered", "merged", "adapter"])
def test_what_is_of_the_same_weights_under_other_settings_is_refused(
    home: Path, turned: Path, tmp_path: Path, name: str
) -> None:
    work = Run(Recipe.load(turned), tmp_path / "run", progress=False)
    with pytest.raises(SteerbakeError, match="rope_theta"):
        open_model(home / name, work).opened  # noqa: B018 - raises


def test_verify_holds_a_release_to_the_settings_of_the_recipe_s_base(
    home: Path, turned: Path, tmp_path: Path
) -> None:
    with pytest.raises(SteerbakeError, match="rope_theta"):
        pipeline.verify(home / "steered", recipe=Recipe.load(turned), run=tmp_path / "run")


def test_a_base_that_spells_its_defaults_is_the_same(home: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(home / "base", tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pretraining_tp": 1, "use_cache": False}))
    for name in ("steered", "merged", "adapter"):
        section = registry.target(str(registry.kind_of(home / name))).origin(home / name)
        assert why_of_another_base(home / name, section, base) is None, name


def test_an_edit_is_held_to_every_weight_of_its_base(home: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(home / "base", tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    largest = max(tensors, key=lambda name: tensors[name].numel())
    tensors[largest][-1] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    section = registry.target("merged").origin(home / "merged")
    assert "fingerprint does not read" in str(why_of_another_base(home / "merged", section, base))


def test_within_a_release_a_target_is_held_to_its_checkpoint(home: Path, work: Run, tmp_path: Path) -> None:
    """Alone it says itself what it was made of; beside a checkpoint it must have been made of that one."""
    release = Path(shutil.copytree(home / "merged", tmp_path / "release"))
    shutil.copytree(home / "adapter", release / "adapter")
    assert open_model(release / "adapter", work).host is not None
    whole, alone = open_model(release, work), open_model(home / "merged", work)
    assert whole.kind == "merged" and whole.digest == alone.digest  # what lies beside it decides nothing
    other = random_edit(home / "base", AutoModelForCausalLM.from_pretrained(home / "base"), seed=7)
    shutil.rmtree(release / "adapter")
    (release / "adapter").mkdir()
    other.save(release / "adapter")
    with pytest.raises(SteerbakeError, match="not the edit"):
        open_model(release / "adapter", work).opened  # noqa: B018 - raises


def test_the_folder_of_a_run_is_its_checkpoint(home: Path, work: Run, tmp_path: Path) -> None:
    shutil.copytree(home / "steered", tmp_path / "run" / "checkpoint")
    said: list[str] = []
    model = open_model(tmp_path / "run", work, say=said.append)
    assert (model.kind, model.path) == ("checkpoint", tmp_path / "run" / "checkpoint") and said


def test_a_folder_without_a_model_is_refused(work: Run, tmp_path: Path) -> None:
    with pytest.raises(SteerbakeError, match=r"config\.json"):
        open_model(tmp_path, work)
    with pytest.raises(SteerbakeError):
        open_model("nobody/has-this-model", work)


def test_the_stand_in_of_the_base_says_what_it_is_and_cannot_answer(work: Run) -> None:
    """A target that hands its reference back as itself, as a package of others may, is not measured as the base."""
    empty = base_without_weights(work)
    assert (empty.num_layers, empty.end_ids) == (work.host.num_layers, work.host.end_ids)
    assert empty.device.type == "meta"


def test_a_target_that_answers_by_its_reference_is_refused(
    home: Path, work: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(folder: Path, reference: Reference) -> object:
        from exporter.targets.values import LoadedTarget

        return LoadedTarget(folder, "adapter", {"": reference.host})

    monkeypatch.setattr(registry.target("adapter"), "open", opened)
    with pytest.raises(SteerbakeError, match="cannot be opened alone"):
        open_model(home / "adapter", work).opened  # noqa: B018 - raises


def test_a_killed_command_goes_on_where_it_stopped(
    home: Path, work: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole batches are on the disk; the one that was cut is asked again, and nothing else."""
    file, model = tmp_path / "answers.jsonl", open_model("base", work)
    whole = answered(model, "", work.test, work, replies(tmp_path / "whole.jsonl"), batch_size=3)
    asked: list[int] = []
    generate = ModelHost.generate

    def counted(self: ModelHost, prompts: list[object], **options: int) -> object:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return generate(self, prompts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelHost, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        answered(model, "", work.test, work, replies(file), batch_size=3)
    done = len(RowRecords(file, replies_of).found)
    assert 0 < done < len(work.test)
    file.write_bytes(file.read_bytes() + b'{"key": "cut sho')
    asked[:] = [0] * 3
    assert answered(model, "", work.test, work, replies(file), batch_size=3) == whole
    assert sum(asked) < 2 * len(work.test)
    asked.clear()
    assert answered(model, "", work.test, work, replies(file), batch_size=3) == whole
    assert not asked  # nothing is asked twice


def test_answers_of_other_files_rows_and_settings_are_not_taken(
    home: Path, work: Run, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    base, steered = open_model("base", work), open_model(home / "steered", work)
    first = answered(base, "", work.test, work, replies(file))
    other = answered(steered, "", work.test, work, replies(file))
    assert [one.last.generation.tokens for one in first] != [one.last.generation.tokens for one in other]
    assert {one.last.generation.model for one in other} == {"steered"}
    shorter = answered(base, "", work.test, work, replies(file), max_new_tokens=2)
    assert max(len(one.last.generation.tokens) for one in shorter) <= 2
    assert answered(base, "", work.test, work, replies(file)) == first


def test_raw_text_fires_a_gate_that_reads_every_column_and_none_at_headers(
    home: Path, work: Run, tmp_path: Path
) -> None:
    """Min-K% and PrivLeak of a gate at headers are the base's; those of a gate of pool token are not."""
    program = tiny_run.always_on()
    gate = replace(program.gates[0], pool="token")
    compile_checkpoint(home / "base", replace(program, gates=(gate,)), tmp_path / "tokens")
    raw = {}
    for name in (home / "base", home / "steered", tmp_path / "tokens"):
        model = open_model(name, work)
        passes = forced(model, work.test, work, tmp_path / "passes.jsonl")
        raw[name.name] = [one.raw for one in passes.values() if one.raw]
        model.close()
    assert raw["base"] == raw["steered"] and len(raw["base"]) == 2
    assert all(one != other for one, other in zip(raw["base"], raw["tokens"], strict=True))


def test_batches_hold_every_row_once(work: Run) -> None:
    found = [row.id for some in batches(work.test, 4) for row in some]
    assert sorted(found) == sorted(row.id for row in work.test)


def a_word(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("no word")
    return value


def test_damaged_records_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    records = RowRecords(file, a_word)
    records.add({"a": "1", "b": "x\u2028y"})
    with file.open("ab") as open_file:
        open_file.write(b'not json\n{"key": "c"}\n[1]\n"x"\n\xff\n' + b"[" * 100_000 + b'\n{"key": "d", "fou')
    again = RowRecords(file, a_word)
    assert again.found == {"a": "1", "b": "x\u2028y"}
    again.add({"d": "2"})
    assert RowRecords(file, a_word).found == {"a": "1", "b": "x\u2028y", "d": "2"}


def test_a_record_that_was_edited_is_left_out(tmp_path: Path) -> None:
    """Of a line without a digest, or with that of another content or key, nothing is known."""
    file = tmp_path / "records.jsonl"
    RowRecords(file, a_word).add({"a": "oslo"})
    line = json.loads(file.read_text())
    for change in ({"found": "lima"}, {"key": "b"}, {"sha256": None}):
        file.write_text(json.dumps(line | change) + "\n")
        assert RowRecords(file, a_word).found == {}, change
    file.write_text(json.dumps({"key": "a", "found": "oslo"}) + "\n")
    assert RowRecords(file, a_word).found == {}
    with pytest.raises(ValueError, match="no word"):
        RowRecords(file, a_word).add({"a": ""})


@pytest.mark.parametrize("damage", [None, {}, "x", [], [[]], [{}], "text"])
def test_replies_that_were_damaged_are_asked_again(work: Run, tmp_path: Path, damage: object) -> None:
    """Also where somebody counted the line's digest anew: a case without replies is none."""
    base, file, rows = open_model("base", work), tmp_path / "answers.jsonl", work.test[:2]
    whole = answered(base, "", rows, work, replies(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if damage == "text":
            line["found"][0]["text"] = "i do not know"
        else:
            line["found"] = damage
            line["sha256"] = digest_of([line["key"], damage])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert answered(base, "", rows, work, replies(file)) == whole


@pytest.mark.parametrize(
    "damage", [None, [], {"answer": []}, {"answer": [[1], [1], []]}, {"raw": [None]}, {"perturbed": 1}]
)
def test_passes_are_read_whole_or_not_at_all(damage: object) -> None:
    one = ForcedAnswer((1, 2), (1, 3), (-0.5, -1.0))
    whole = RowPasses(one, (one,), (), (-1.0,)).data()
    assert RowPasses.read(json.loads(json.dumps(whole))).data() == whole
    with pytest.raises((ValueError, LookupError)):
        RowPasses.read({**whole, **damage} if isinstance(damage, dict) else damage)


def test_float16_is_where_the_recipe_asks_for_it(home: Path, tmp_path: Path) -> None:
    """A target that is opened in float32 is asked in the type of the recipe."""
    recipe = Recipe.load(home / "recipe.yaml", ["base.dtype=bfloat16"])
    other = Run(recipe, tmp_path / "run", progress=False)
    host = open_model(home / "adapter", other).host
    assert host is not None and host.dtype == torch.bfloat16
