"""Before a model is loaded: everything that would be refused later is told, all of it at once."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import sound_recipe
import torch
import yaml
from safetensors.torch import load_file
from sound_recipe import edit, one, problems, rows_of, write
from tiny_run import PUBLISH

from exporter import pipeline, usable_base
from exporter.errors import CompileError, InputErrors, SteerbakeError
from exporter.host import ModelHost
from exporter.pipeline import disk
from exporter.pipeline.preflight import preflight
from exporter.recipe import Recipe

sound, recipe = sound_recipe.sound, sound_recipe.recipe


def test_a_sound_recipe_is_told_in_short(recipe: Path) -> None:
    found = pipeline.check_recipe(recipe)
    assert found.problems == ()
    assert found.rows["fit"] == {"forget": 2, "retain": 4, "unknown": 1}
    assert found.base["model_type"] == "llama" and found.base["layers"] == 4
    assert found.room is not None and found.room.free > 0
    assert found.steps[0] == "fit keyed" and found.steps[-1] == "report"
    json.dumps(found.data())
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", [pipeline.run, pipeline.fit])
def test_run_and_fit_refuse_before_a_model_is_loaded(recipe: Path, command: Any) -> None:
    (recipe.parent / "base" / "model.safetensors").unlink()
    with pytest.raises(InputErrors, match="save_pretrained"):
        command(Recipe.load(recipe), recipe.parent / "out", progress=False)
    assert not (recipe.parent / "out").exists()


def test_everything_wrong_in_all_parts_is_one_message(recipe: Path) -> None:
    folder = recipe.parent
    edit(folder / "base" / "config.json", lambda config: config.update(model_type="mamba"))
    (folder / "base" / "model.safetensors").write_bytes(b"no")
    fit = [row for row in rows_of(folder / "fit.jsonl") if row["role"] != "unknown"]
    write(folder / "fit.jsonl", fit)
    write(folder / "test.jsonl", [{**fit[0], "id": "seen"}, *rows_of(folder / "test.jsonl")])
    found = problems(recipe, "methods.params.keyed.layer=9", "methods.params.keyed.subject.rank=99")
    for start, part in (
        ("base: ", "'mamba' cannot be steered"),
        ("base: ", "model.safetensors"),
        ("methods.params.keyed.layer", "layers 0 to 3, received 9"),
        ("methods.params.keyed.subject.rank", "32, received 99"),
        ("test row 'seen'", "row 'fit-"),
        ("data.fit", "role unknown"),
    ):
        assert any(line.startswith(start) and part in line for line in found), (start, part, found)


def test_a_recipe_that_the_schema_refuses_is_looked_at_all_the_same(recipe: Path) -> None:
    """What a first user met one refusal at a time: no data.test, a question in two parts, no row of role unknown."""
    folder = recipe.parent
    rows = [row for row in rows_of(folder / "fit.jsonl") if row["role"] != "unknown"]
    write(folder / "fit.jsonl", rows)
    text = recipe.read_text().replace(", test: [test.jsonl]", "").replace("name: tiny", "name: tiny\nsped: 1")
    recipe.write_text(text)
    found = problems(recipe)
    for part in (
        "sped: unknown key",
        "data.test: this key is required",
        "data.fit: no single-question row of role unknown",
    ):
        assert any(part in line for line in found), (part, found)
    with pytest.raises(InputErrors) as caught:
        pipeline.load_recipe(recipe)
    assert set(caught.value.problems) == set(found)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda base: (base / "config.json").unlink(), "no config.json"),
        (lambda base: (base / "config.json").write_text("{"), "cannot be read"),
        (lambda base: (base / "config.json").write_text('{"model_type": "llama"}'), "architectures"),
        (lambda base: (base / "model.safetensors").rename(base / "weights.safetensors"), "save_pretrained"),
        (lambda base: (base / "model.safetensors").rename(base / "model.pth"), "save_pretrained"),
        (lambda base: (base / "adapter_config.json").write_text("{}"), "adapter"),
        (lambda base: (base / "tokenizer.json").unlink(), "tokenizer"),
        (lambda base: (base / "chat_template.jinja").unlink(), "chat_template.jinja"),
        (
            lambda base: edit(base / "config.json", lambda told: told.update(architectures=["LlamaForTokenClassification"])),
            "LlamaForTokenClassification",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_base_is_one_sentence(recipe: Path, change: Any, part: str) -> None:
    change(recipe.parent / "base")
    assert part in " ".join(problems(recipe))


def test_a_base_whose_twin_breaks_a_law_is_told_with_all_the_rest(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (
        CompileError("it breaks the law of padding"),
        ZeroDivisionError("it breaks the law of padding"),
    ):

        def breaks(_config: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(import_module("exporter.pipeline.preflight"), "prove_family", breaks)
        found = problems(recipe, "methods.params.keyed.layer=9")
        assert len(found) == 2 and found[0].startswith("base: ") and "the law of padding" in found[0]


def test_a_package_of_a_quantised_base_is_named(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usable_base, "find_spec", lambda _: None)
    (recipe.parent / "base" / "config.json").write_text(
        json.dumps(
            json.loads((recipe.parent / "base" / "config.json").read_text())
            | {"quantization_config": {"quant_method": "bitsandbytes"}}
        )
    )
    assert "pip install bitsandbytes" in " ".join(problems(recipe))


def test_a_base_of_bin_files_is_no_problem_and_its_copy_takes_room(recipe: Path) -> None:
    base = recipe.parent / "base"
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    found = pipeline.check_recipe(recipe)
    assert found.problems == ()
    assert found.room is not None and found.room.needed["base"] == (base / "pytorch_model.bin").stat().st_size


def test_adapters_are_looked_at_with_all_the_rest(recipe: Path) -> None:
    prompt = recipe.parent / "prompt"
    prompt.mkdir()
    (prompt / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    (prompt / "adapter_model.safetensors").touch()
    (recipe.parent / "base" / "chat_template.jinja").unlink()
    found = problems(recipe, f"base.adapters=[{prompt}]")
    assert len(found) == 2 and found[0].startswith("base.adapters: ") and "PROMPT_TUNING" in found[0]


def test_a_pad_token_that_the_model_has_not_is_told_with_all_the_rest(recipe: Path) -> None:
    base = recipe.parent / "base"
    edit(base / "config.json", lambda config: config.update(pad_token_id=10_000))
    edit(base / "config.json", lambda config: config.update(quantization_config={"quant_method": "gptq"}))
    found = problems(recipe)
    assert len(found) == 2 and all(line.startswith("base: ") for line in found)
    assert "gptq" in found[0] and "pad_token_id 10000" in found[1]


def test_rows_longer_than_the_positions_are_named_by_id(recipe: Path) -> None:
    base, folder = recipe.parent / "base" / "config.json", recipe.parent
    edit(base, lambda config: config.update(max_position_embeddings=20))
    control = problems(recipe)
    rows = rows_of(folder / "test.jsonl")
    write(folder / "test.jsonl", [*rows, {**rows[2], "id": "endless", "question": "where " * 30}])
    found = [line for line in problems(recipe) if line not in control]
    assert len(found) == 1 and "20 positions" in found[0] and "endless" in found[0], found


def test_ids_that_the_embedding_does_not_have_are_named_by_row(recipe: Path) -> None:
    edit(recipe.parent / "base" / "config.json", lambda config: config.update(vocab_size=28))
    assert "resize_token_embeddings" in " ".join(problems(recipe))


@pytest.mark.parametrize("role", ["forget", "retain", "unknown"])
def test_a_role_that_every_method_needs_is_missed_by_name(recipe: Path, role: str) -> None:
    for part in ("fit", "calibrate"):
        path = recipe.parent / f"{part}.jsonl"
        write(path, [row for row in rows_of(path) if row["role"] != role])
    found = problems(recipe)
    assert any(line.startswith("data.fit") and role in line and "keyed" in line for line in found), found


def test_a_question_to_forget_and_to_keep_is_a_contradiction(recipe: Path) -> None:
    path = recipe.parent / "fit.jsonl"
    rows = rows_of(path)
    write(path, [*rows, {**rows[0], "id": "kept", "role": "retain"}])
    assert all(part in one(recipe) for part in ("row 'kept' (retain)", "row 'fit-ada' (forget)"))


def test_targets_that_cannot_be_made_are_named_with_what_is_missing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = yaml.safe_load(recipe.read_text()) | yaml.safe_load(PUBLISH)
    told["publish"]["targets"] = ["onnx", "stock", "gguf"]
    recipe.write_text(yaml.safe_dump(told))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setattr(import_module("exporter.pipeline.preflight"), "find_spec", lambda _: None)
    found = " ".join(problems(recipe))
    assert "onnxruntime" in found and "pip install" in found and "convert_hf_to_gguf.py" in found


def test_a_full_disk_is_told_with_numbers(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(recipe.parent)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    found = one(recipe)
    assert found.startswith("disk: about ") and "1.0 MB free" in found and "--out" in found


def test_a_folder_of_something_else_is_told_with_the_rest(recipe: Path) -> None:
    out = recipe.parent / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    (recipe.parent / "base" / "chat_template.jinja").unlink()
    found = pipeline.check_recipe(recipe, (), out).problems
    assert len(found) == 2 and "--out" in found[0]


def test_recipes_of_one_name_have_folders_of_their_own(sound: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(sound.parent, tmp_path / name)
    out = tmp_path / "runs" / "tiny"
    first, second = (Recipe.load(tmp_path / name / sound.name) for name in ("a", "b"))
    pipeline.Run(first, out, progress=False)
    assert any(
        "--out" in line for line in pipeline.check_recipe(tmp_path / "b" / sound.name, (), out).problems
    )
    with pytest.raises(SteerbakeError, match="--out"):
        pipeline.Run(second, out, progress=False)
    pipeline.Run(first, out, progress=False)
    shutil.move(tmp_path / "a", tmp_path / "moved")
    pipeline.Run(Recipe.load(tmp_path / "moved" / sound.name), out, progress=False)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["methods.params.keyed={subject: null}"], "subject: "),
        (["methods.params.keyed={layer: 0, subject: {layers: [2]}}"], "layer: 0 "),
        (["methods.params.keyed={gate: {scores: [magic]}}"], "score magic"),
        (["methods.params.r_muse={scoring_layer: -1}"], "layers 0 to 3, received -1"),
        (["methods.params.keyed={refusal_source: few_shot}"], "5 forget rows"),
    ],
)
def test_parameters_that_can_never_fit_are_refused(recipe: Path, changes: list[str], part: str) -> None:
    assert part in one(recipe, *changes)


@pytest.mark.parametrize("method", ["ga", "manu"])
def test_a_search_of_edits_that_has_nothing_to_keep_is_told_before_the_fit(recipe: Path, method: str) -> None:
    """The fit would compare how much is forgotten, and nothing else."""
    rows = [row for row in rows_of(recipe.parent / "calibrate.jsonl") if row["role"] == "forget"]
    write(recipe.parent / "calibrate.jsonl", rows)
    chosen = [f"methods.default={method}", "methods.compare=[]"]
    told = one(recipe, *chosen)
    assert "calibrate" in told and f"methods.params.{method}." in told and "retain" in told
    key = "share=0.1" if method == "manu" else "learning_rate=0.001"
    assert not pipeline.check_recipe(recipe, [*chosen, f"methods.params.{method}.{key}"]).problems


def test_a_model_with_learned_positions_is_not_asked_past_their_end(tmp_path: Path) -> None:
    import tiny

    from exporter.types import Encoded, Prompt

    host = ModelHost(tiny.build("gpt2"), None)
    long = Encoded(Prompt("", tuple([3] * 257)))
    with pytest.raises(SteerbakeError, match=r"257 tokens.* 256 positions"):
        host.batch([long], "left")
    control = ModelHost(tiny.build("llama"), type("Padded", (), {"pad_token_id": 0, "eos_token_id": None})())
    assert isinstance(control.batch([long], "left")["input_ids"], torch.Tensor)


def test_publish_tells_what_it_needs_with_all_the_rest(recipe: Path) -> None:
    (recipe.parent / "base" / "chat_template.jinja").unlink()
    with pytest.raises(InputErrors) as caught:
        pipeline.publish(Recipe.load(recipe), recipe.parent / "out", pipeline.Request(dry_run=True))
    told = " ".join(caught.value.problems)
    assert "publish: " in told and "publish.forgotten" in told and "chat_template.jinja" in told
    assert not (recipe.parent / "out").exists()


def test_bounds_that_so_few_test_rows_cannot_show_are_told_with_the_rest(recipe: Path) -> None:
    told = yaml.safe_load(recipe.read_text()) | yaml.safe_load(PUBLISH)
    told["publish"] |= {"targets": [], "require": {"leakage_either": 0.05}}
    recipe.write_text(yaml.safe_dump(told))
    assert "73 rows" in " ".join(problems(recipe))
    loaded = Recipe.load(recipe)
    out = recipe.parent / "out"
    assert not [
        line for line in preflight(loaded, out, publishing=True, forced=True).problems if "73" in line
    ]
    assert not [line for line in preflight(loaded, out).problems if "73" in line]
