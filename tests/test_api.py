"""The library in a notebook: what it exports, and that it does what the commands do, or raises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import clean_environment
import notebook
import pytest
import torch
import transformers
from notebook import SETTINGS, fit, prompts, said
from tiny_run import NAMES, Quick, write_base
from transformers import AutoModelForCausalLM

import exporter
from exporter import Row, Settings, SteeringProgram, WeightEdit, pipeline, registry
from exporter.data.rows import read_rows
from exporter.errors import CompileError, InputErrors, SteerbakeError, VerificationError
from exporter.pipeline import run as _run  # noqa: F401 - a room is imported, and takes no name of the API
from exporter.recipe import Recipe

HOME = Path(exporter.__file__).parent
LOADS = """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
said = []
for prompt in json.loads(sys.argv[2]):
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    said.append(model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1]:].tolist())
print(json.dumps(said))
"""


quick, folder, loaded, fitted = notebook.quick, notebook.folder, notebook.loaded, notebook.fitted


# What there is


def test_importing_the_package_costs_nothing():
    code = (
        "import sys, exporter\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(exporter.__all__) <= set(dir(exporter))\n"
        "exporter.Row\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HOME.parent)


def test_every_name_is_there_and_no_other():
    for name in exporter.__all__:
        assert getattr(exporter, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        exporter.nothing  # noqa: B018


def test_no_module_takes_a_name_of_the_api():
    """An imported submodule is an attribute of its package, whatever stood there before."""
    modules = {path.stem for path in HOME.glob("*.py")} | {path.parent.name for path in HOME.glob("*/*.py")}
    assert not modules & set(exporter.__all__)


# fit


def test_a_fit_is_that_of_the_recipe(folder, fitted, tmp_path):
    of_recipe = pipeline.fit(Recipe.load(folder / "recipe.yaml"), tmp_path / "out", progress=False)
    assert fitted.sha256 == SteeringProgram.load(of_recipe["keyed"]).sha256


def test_rows_are_values_objects_or_a_file(folder, loaded, fitted):
    objects = [json.loads(line) for line in (folder / "fit.jsonl").read_text().splitlines()]
    values = [
        Row(one["id"], one["question"], one["answer"], one["role"], secrets=tuple(one.get("secrets", ())))
        for one in objects
    ]
    for rows in (objects, values):
        again = exporter.fit(*loaded, rows, calibrate=folder / "calibrate.jsonl", settings=SETTINGS)
        assert again.sha256 == fitted.sha256


def test_some_rows_are_set_aside_where_none_calibrate(folder, loaded):
    rows = [
        Row(f"{role}-{frame}-{name}", frame.format(name), "oslo", role)
        for role, names in (("forget", NAMES[:2]), ("retain", NAMES[2:]), ("unknown", ("me",)))
        for frame in ("where does {} live ?", "home of {} ?", "tell me where {} lives .")
        for name in names
    ]
    found = exporter.fit(*loaded, rows, settings=SETTINGS)
    assert found.sha256 != exporter.fit(*loaded, rows, settings=Settings(seed=5, max_new_tokens=6)).sha256


def test_missing_roles_are_named(folder, loaded):
    rows = [Row("a", "where does ada live ?", "oslo", "forget")]
    with pytest.raises(InputErrors) as caught:
        exporter.fit(*loaded, rows)
    told = "\n".join(caught.value.problems)
    for part, role in (("data.fit", "retain"), ("data.fit", "unknown"), ("data.calibrate", "forget")):
        assert any(line.startswith(part) and role in line for line in caught.value.problems), told


def test_a_row_that_asks_both_sides_and_a_bad_row_are_refused(folder, loaded):
    rows = [json.loads(line) for line in (folder / "fit.jsonl").read_text().splitlines()]
    both = [*rows, {**rows[0], "id": "x", "role": "retain"}]
    with pytest.raises(InputErrors, match=r"\(retain\) .* \(forget\)|\(forget\) .* \(retain\)"):
        exporter.fit(*loaded, both, calibrate=folder / "calibrate.jsonl")
    with pytest.raises(InputErrors, match=r"'forgett'.*forget, retain, reasoning, unknown"):
        exporter.fit(*loaded, [*rows, {**rows[0], "role": "forgett"}])


def test_parameters_are_checked_before_anything_runs(folder, loaded):
    rows = {"rows": folder / "fit.jsonl", "calibrate": folder / "calibrate.jsonl"}
    with pytest.raises(InputErrors, match=r"params\.lay: "):
        exporter.fit(*loaded, **rows, params={"lay": 2})
    with pytest.raises(InputErrors, match=r"params\.layer: .* 0 to 3, received 9"):
        exporter.fit(*loaded, **rows, params={"layer": 9})
    with pytest.raises(SteerbakeError, match="keyed"):
        exporter.fit(*loaded, **rows, method="kyed")
    assert not Quick.fitted


def test_a_model_in_training_is_put_to_eval_and_back(folder, loaded):
    model, tokenizer = loaded
    model.train()
    model.model.layers[1].eval()
    before = {name: part.training for name, part in model.named_modules()}
    threads = torch.get_num_threads()
    seen = []
    exporter.fit(
        model,
        tokenizer,
        folder / "fit.jsonl",
        calibrate=folder / "calibrate.jsonl",
        settings=SETTINGS,
        progress=lambda *_: seen.append(model.training),
    )
    assert seen
    assert not any(seen)
    assert {name: part.training for name, part in model.named_modules()} == before
    assert torch.get_num_threads() == threads


def test_progress_is_told_and_may_end_the_work(folder, loaded):
    rows = {"rows": folder / "fit.jsonl", "calibrate": folder / "calibrate.jsonl", "settings": SETTINGS}
    heard = []
    exporter.fit(*loaded, **rows, progress=lambda *step: heard.append(step))
    assert ("forget", 2, 2) in heard
    with pytest.raises(KeyboardInterrupt):
        exporter.fit(*loaded, **rows, progress=_interrupt)
    assert type(loaded[0]).__name__ == "LlamaForCausalLM"


def _interrupt(*_):
    raise KeyboardInterrupt


# compile


def test_a_compiled_model_loads_with_transformers_alone(loaded, fitted, folder, tmp_path):
    model, tokenizer = loaded
    out = exporter.compile(folder / "base", fitted, tmp_path / "checkpoint")
    exporter.steer(model, fitted)
    wanted = [said(model, tokenizer, name) for name in NAMES]
    (tmp_path / "clean").mkdir()
    texts = json.dumps([prompts(name) for name in NAMES])
    assert clean_environment.run(LOADS, out, texts, folder=tmp_path / "clean") == wanted


def test_another_base_is_not_compiled(fitted, tmp_path):
    write_base(tmp_path / "other", seed=1)
    with pytest.raises(CompileError, match=r"another model: .*fingerprint"):
        exporter.compile(tmp_path / "other", fitted, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputErrors, match="nobody/nothing"):
        exporter.compile("nobody/nothing", fitted, tmp_path / "out")


def test_a_model_that_was_never_on_disk_compiles_where_it_is_saved(folder, loaded, tmp_path):
    model = type(loaded[0])(loaded[0].config).eval()
    model.config._name_or_path = ""
    program = fit(folder, model, loaded[1])
    model.save_pretrained(tmp_path / "base")
    loaded[1].save_pretrained(tmp_path / "base")
    exporter.compile(tmp_path / "base", program, tmp_path / "out")


# methods that change weights

EDIT = {"epochs": 2, "batch_size": 2, "learning_rate": 0.01, "precision": "float32", "responses": "rows"}


@pytest.fixture
def edit(folder, loaded):
    rows = {"rows": folder / "fit.jsonl", "calibrate": folder / "calibrate.jsonl"}
    return exporter.fit(*loaded, method="npo", params=EDIT, settings=SETTINGS, **rows)


def test_an_edit_is_that_of_the_recipe_and_leaves_the_model_as_it_was(folder, loaded, edit, tmp_path):
    changes = ["methods.default=npo", "methods.compare=[]", f"methods.params.npo={json.dumps(EDIT)}"]
    pipeline.fit(Recipe.load(folder / "recipe.yaml", changes), tmp_path / "run", progress=False)
    assert WeightEdit.load(tmp_path / "run" / "steering" / "npo").sha256 == edit.sha256
    base = AutoModelForCausalLM.from_pretrained(folder / "base").state_dict()
    assert loaded[0].state_dict().keys() == base.keys()
    assert all(torch.equal(one, base[name]) for name, one in loaded[0].state_dict().items())


def test_an_edit_is_compiled_and_measured_and_does_not_steer(folder, loaded, edit, tmp_path):
    merged = AutoModelForCausalLM.from_pretrained(
        exporter.compile(folder / "base", edit, tmp_path / "merged")
    )
    assert type(merged) is type(loaded[0])
    found = exporter.evaluate(*loaded, edit, folder / "test.jsonl", settings=SETTINGS)
    assert set(found["models"]) == {"base", "steered"}
    generated = {one["id"]: one["tokens"] for one in found["generations"] if one["model"] == "steered"}
    assert [said(merged, loaded[1], name) for name in NAMES] != [said(*loaded, name) for name in NAMES]
    assert {row.id for row in read_rows(folder / "test.jsonl")} <= generated.keys()
    with pytest.raises(InputErrors, match="peft"):
        exporter.steer(loaded[0], edit)
    other = type(loaded[0])(loaded[0].config).eval()
    with pytest.raises(CompileError, match="another model"):
        exporter.evaluate(other, loaded[1], edit, folder / "test.jsonl", settings=SETTINGS)


# evaluate


def test_what_is_measured_is_what_the_report_says(folder, loaded, tmp_path):
    recipe = Recipe.load(folder / "recipe.yaml", ["methods.compare=[]"])
    report = pipeline.run(recipe, tmp_path / "out", progress=False)
    program = SteeringProgram.load(tmp_path / "out" / "steering" / "keyed")
    found = exporter.evaluate(
        *loaded, program, folder / "test.jsonl", refusals=folder / "fit.jsonl", settings=SETTINGS
    )
    assert found["models"] == {"base": report["models"]["base"], "steered": report["models"]["keyed"]}
    assert found["extraction"]["steered"] == report["extraction"]["keyed"]
    assert found["rule"]["accepted"] == ["i do not know"]
    lines = (tmp_path / "out" / "generations.jsonl").read_text().splitlines()
    assert [one["tokens"] for one in found["generations"]] == [json.loads(one)["tokens"] for one in lines]
    assert type(loaded[0]).__name__ == "LlamaForCausalLM"


def test_nothing_is_measured_of_another_model(folder, fitted, loaded, tmp_path):
    write_base(tmp_path, seed=1)
    other = AutoModelForCausalLM.from_pretrained(tmp_path)
    heard = []
    with pytest.raises(CompileError):
        exporter.evaluate(
            other, loaded[1], fitted, folder / "test.jsonl", progress=lambda *step: heard.append(step)
        )
    assert not heard


# export and push


def test_a_target_gets_the_options_of_its_command(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(
        type(registry.target("onnx")), "export", lambda _, *args: given.append(args) or args[1]
    )
    assert exporter.export("checkpoint", tmp_path, dtypes=["fp16"], layout="genai") == tmp_path
    ((checkpoint, out, options, _),) = given
    assert (checkpoint, out) == (Path("checkpoint"), tmp_path)
    assert (options.dtypes, options.layout, options.steered) == (("fp16",), "genai", True)


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("onx", {}, "onnx, stock, gguf"),
        ("onnx", {"dtype": "fp16"}, "dtype: .* dtypes, gate_state, layout, steered"),
        ("onnx", {"dtypes": 3}, "dtypes: .*received 3"),
        ("onnx", {"rows": []}, "rows: "),
        ("stock", {"lengths": 3}, "model, processor, rows, calibrate, settings, work"),
        ("stock", {"processor": None, "rows": []}, "model: "),
    ],
)
def test_an_unknown_target_or_option_names_those_there_are(target, options, told, tmp_path):
    with pytest.raises(SteerbakeError, match=told):
        exporter.export("checkpoint", tmp_path / "out", target, **options)


def test_a_stock_checkpoint_is_solved_with_its_own_base(folder, loaded, fitted, tmp_path):
    out = exporter.compile(folder / "base", fitted, tmp_path / "checkpoint")
    write_base(tmp_path / "other", seed=1)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    AutoModelForCausalLM.from_pretrained(folder / "base", rms_norm_eps=0.5).save_pretrained(
        tmp_path / "turned"
    )
    turned = AutoModelForCausalLM.from_pretrained(tmp_path / "turned")
    for model, words in ((other, "its weights are others"), (turned, "rms_norm_eps is another")):
        with pytest.raises(CompileError, match=f"another base .*{words}"):
            exporter.export(
                out, tmp_path / "stock", "stock", model=model, processor=loaded[1], rows=folder / "fit.jsonl"
            )


def test_a_target_is_solved_on_the_rows_that_its_recipe_would_give(
    folder, loaded, fitted, tmp_path, monkeypatch
):
    seen = []

    def write(checkpoint, out, base, calibration_set):
        seen.append((replace(calibration_set, kept={}), base.model.training))
        out.mkdir()
        return out

    monkeypatch.setattr("exporter.targets.stock.export.export_stock", write)
    checkpoint = exporter.compile(folder / "base", fitted, tmp_path / "checkpoint")
    rows = {part: folder / f"{part}.jsonl" for part in ("fit", "calibrate")}
    given = {"rows": rows["fit"], "calibrate": rows["calibrate"], "settings": SETTINGS}
    model, tokenizer = loaded
    out = exporter.export(checkpoint, tmp_path / "one", "stock", model=model, processor=tokenizer, **given)
    recipe = Recipe.load(folder / "recipe.yaml")
    pipeline.export("stock", checkpoint, tmp_path / "other", recipe=recipe, run=tmp_path / "run")
    assert out == tmp_path / "one"
    assert seen[0] == seen[1]
    assert seen[0][0].fit
    assert seen[0][0].held


def test_a_folder_that_was_not_verified_is_not_pushed(folder, fitted, tmp_path):
    out = exporter.compile(folder / "base", fitted, tmp_path / "checkpoint")
    with pytest.raises(VerificationError, match="--force"):
        exporter.push(out, "owner/name")
    lines = []
    assert exporter.push(out, "owner/name", dry_run=True, force=True, say=lines.append) is None
    assert "nothing is pushed" in lines[-1]


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_new_tokens", 0), ("seed", -1), ("patterns", ("(",)), ("patterns", (".*",)), ("sead", 1)],
)
def test_settings_that_cannot_be_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Settings(**{key: value})


def test_the_defaults_are_a_recipe_s():
    from exporter.recipe import Data, ReportSettings

    settings, report = Settings(), ReportSettings()
    assert (settings.max_new_tokens, settings.batch_size) == (report.max_new_tokens, report.batch_size)
    assert settings.calibrate_fraction == Data.model_fields["calibrate_fraction"].default
    assert settings.seed == Recipe.model_fields["seed"].default


# The testbed


@pytest.mark.slow
def test_the_testbed_forgets_in_a_notebook_as_by_its_recipe(tmp_path, monkeypatch):
    """A vision-language model with the real method, on few rows: the program of a run, and what it does to held-out rows."""
    monkeypatch.setitem(registry.METHODS, "keyed", "exporter.methods.keyed:Keyed")
    subject = {"rows": 60, "forget": 24, "keep": 60, "unknown": 8, "replies": 0, "steps": 100}
    params = {"subject": subject, "prefill_tokens": 2, "pairs": 4, "key_rows": 12, "refusal_rows": 8}
    demo, settings = HOME / "demo", Settings(max_new_tokens=24)
    model = transformers.AutoModelForImageTextToText.from_pretrained(demo / "model", dtype=torch.float32)
    processor = transformers.AutoProcessor.from_pretrained(demo / "model")
    parts = {part: demo / "rows" / f"{part}.jsonl" for part in ("fit", "calibrate", "test")}
    program = exporter.fit(
        model, processor, parts["fit"], calibrate=parts["calibrate"], params=params, settings=settings
    )
    test = read_rows(parts["test"])[::40]
    found = exporter.evaluate(model, processor, program, test, refusals=parts["fit"], settings=settings)
    base, steered = found["models"]["base"], found["models"]["steered"]
    assert (base["leakage_either"]["value"], steered["leakage_either"]["value"]) == (1.0, 0.0)
    assert steered["fluent_refusal"]["value"] == 1.0
    assert steered["retain_identical"]["value"] >= 0.9
    changes = ["methods.compare=[]", "report.max_new_tokens=24", "base.device=cpu"]
    changes.append(f"methods.params={json.dumps({'keyed': params})}")
    recipe = Recipe.load(pipeline.DEMO_RECIPE, changes)
    of_recipe = pipeline.fit(recipe, tmp_path / "out", progress=False)
    assert SteeringProgram.load(of_recipe["keyed"]).sha256 == program.sha256


# docs/api.md


def test_every_block_of_the_documentation_runs(folder, tmp_path, monkeypatch, capsys):
    text = (HOME.parent / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    (tmp_path / "base").symlink_to(folder / "base", target_is_directory=True)
    rows = [(folder / f"{part}.jsonl").read_text() for part in ("fit", "calibrate")]
    (tmp_path / "fit.jsonl").write_text("".join(rows))
    recipe = (folder / "recipe.yaml").read_text()
    for part in ("fit", "calibrate", "test"):
        recipe = recipe.replace(f"[{part}.jsonl]", f"[{folder / part}.jsonl]")
    (tmp_path / "recipe.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert "forget: 1 of 1" in capsys.readouterr().out
    assert names["found"]["models"]["steered"]["leakage_either"]["n"] == 1
    assert set(names["leaks"]) == {"plain", "paraphrase", "later_turn"} and names["attacked"]["limit"] == 24
    assert SteeringProgram.load(tmp_path / "steering").sha256 == names["program"].sha256
