"""A whole run on a tiny model: what comes out, what is done again, what is refused."""

import json
import shutil

import pytest
import torch
from tiny_run import Quick, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from exporter import pipeline, registry
from exporter.errors import InputErrors, SteerbakeError, VerificationError
from exporter.estimate import Estimate
from exporter.recipe import Recipe
from exporter.report import Report
from steer_modules.program import SteeringProgram


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in ("keyed", "r_muse"):
        monkeypatch.setitem(registry.METHODS, name, "tiny_run:Quick")
    monkeypatch.setattr(Quick, "fitted", [])
    return Quick.fitted


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(recipe file, OUT) of one run; tests that change OUT copy it."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("keyed", "r_muse"):
            patch.setitem(registry.METHODS, name, "tiny_run:Quick")
        recipe = write_recipe(folder)
        pipeline.run(Recipe.load(recipe), folder / "out", progress=False)
    return recipe, folder / "out"


@pytest.fixture
def again(finished, tmp_path):
    """Run on a copy of the finished folder, with changes."""
    recipe, out = finished
    shutil.copytree(out, tmp_path / "out")
    return lambda *changes: pipeline.run(Recipe.load(recipe, changes), tmp_path / "out", progress=False)


def generations(out):
    return [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]


FIGURES = ("default", "max_new_tokens", "stand_in", "models", "too_few_rows", "extraction", "cross_validated")
KEYS_OF_A_REPORT = (*FIGURES, "rule", "gates", "edits", "steering_sha256", "versions", "proof", "recipe")


def test_the_report_is_read_as_it_was_written_key_by_key_in_order(finished, tmp_path):
    path = finished[1] / Report.FILE
    content = json.loads(path.read_text())
    assert tuple(content) == KEYS_OF_A_REPORT
    assert list(content["models"]["base"])[-1] == "eval_slices" and content["proof"]["laws"]
    assert list(content["extraction"]["keyed"]["secret_drop"]) == ["value", "n", "least"]
    assert json.dumps(content, indent=2, ensure_ascii=False) + "\n" == path.read_text()
    found = Report.read(path)
    assert found.models["keyed"].metrics["leakage_either"].n == 2
    found.save(tmp_path / Report.FILE)
    assert (tmp_path / Report.FILE).read_bytes() == path.read_bytes()


def test_everything_is_there(finished):
    _, out = finished
    report = json.loads((out / "report.json").read_text())
    assert list(report["models"]) == ["base", "keyed", "r_muse"]
    assert report["models"]["base"]["retain_identical"] == {
        "value": 1.0,
        "n": 4,
        "interval": Estimate.of_share(1.0, 4).as_dict()["interval"],
    }
    assert report["models"]["keyed"]["gate_true_positive"]["n"] == 2
    assert set(report["models"]["keyed"]["eval_slices"]) == {"later", "forced"}
    assert report["rule"]["accepted"] == ["i do not know"]
    assert list(report["extraction"]) == ["base", "keyed", "r_muse"]
    assert report["extraction"]["base"]["secret_drop"] == {"value": 0.0, "n": 2, "least": 0.0}
    assert report["extraction"]["keyed"]["secret_logprob"] != report["extraction"]["base"]["secret_logprob"]
    assert "| log-probability of the secrets, nats |" in (out / "report.md").read_text()
    for name in (
        "checkpoint/config.json",
        "models/r_muse/config.json",
        "report.md",
        "plots/gate_scores_keyed.png",
    ):
        assert (out / name).is_file()
    for method in ("keyed", "r_muse"):
        SteeringProgram.load(out / "steering" / method)
    assert not (out / "models" / "keyed").exists()


def test_generations_are_those_of_the_checkpoint_that_ships(finished):
    _, out = finished
    lines = generations(out)
    assert {line["id"] for line in lines if line["model"] == "keyed"} >= {
        "test-later#1",
        "test-later",
        "test-forced",
    }
    for model, folder in (("keyed", out / "checkpoint"), ("base", out.parent / "base")):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        for line in (line for line in lines if line["model"] == model):
            inputs = tokenizer([line["prompt"]], return_tensors="pt", add_special_tokens=False)
            with torch.no_grad():
                said = loaded.generate(**inputs, max_new_tokens=6, do_sample=False)
            tokens = said[0, inputs["input_ids"].shape[1] :].tolist()
            assert tokens == line["tokens"], line["id"]
            assert tokenizer.decode(tokens, skip_special_tokens=True) == line["text"]


def test_a_later_turn_holds_what_the_same_model_said(finished):
    _, out = finished
    for model in ("base", "keyed"):
        said = {line["id"]: line for line in generations(out) if line["model"] == model}
        first = said["test-later#1"]["text"].strip() or "..."
        assert f"[assistant] {first} </s> [user]" in said["test-later"]["prompt"]
        assert said["test-forced"]["prompt"].endswith("<think> ben lives")


def test_the_same_command_does_nothing_twice(again, quick, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    again()
    assert quick == []
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}


def test_a_changed_key_redoes_what_depends_on_it(again, quick, tmp_path):
    stages = tmp_path / "out" / ".work" / "stages"

    def keys():
        return {path.stem: json.loads(path.read_text())["inputs"] for path in stages.glob("*.json")}

    before = keys()
    again("methods.params.keyed.layer=3")
    assert quick == [3]
    changed = {name for name, key in keys().items() if before[name] != key}
    assert changed == {
        "fit-keyed",
        "compile-default",
        "generate-keyed",
        "scores-keyed",
        "extraction-keyed",
    }
    before = keys()
    again("methods.params.keyed.layer=3", "report.batch_size=2")
    assert {name for name, key in keys().items() if before[name] != key} == {
        "generate-base",
        "generate-keyed",
        "generate-r_muse",
    }
    assert quick == [3]


def test_another_default_moves_the_checkpoints(again, quick, tmp_path):
    again("methods.default=r_muse", "methods.compare=[keyed]")
    assert quick == []
    assert (
        json.loads((tmp_path / "out" / "checkpoint" / "config.json").read_text())["steering"]["method"]
        == "quick"
    )
    assert (tmp_path / "out" / "models" / "keyed" / "config.json").is_file()


def test_same_seed_same_bytes(finished, tmp_path):
    recipe, out = finished
    pipeline.run(Recipe.load(recipe), tmp_path / "second", progress=False)
    for name in (
        "report.json",
        "report.md",
        "generations.jsonl",
        "checkpoint/steering.safetensors",
        "plots/layers_keyed.png",
    ):
        assert (out / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_an_interrupted_fit_leaves_nothing_and_is_taken_up(finished, tmp_path, monkeypatch, quick):
    recipe = Recipe.load(finished[0])

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SteeringProgram, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.fit(recipe, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out" / "steering").glob("*"))
    assert set(pipeline.fit(recipe, tmp_path / "out", progress=False)) == {"keyed", "r_muse"}
    assert quick == [2, 2, 2]


def test_a_folder_of_something_else_is_left_alone(finished, tmp_path):
    recipe = Recipe.load(finished[0])
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    with pytest.raises(SteerbakeError, match="--out"):
        pipeline.run(recipe, tmp_path / "precious", progress=False)
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["file"]
    other = Recipe.load(finished[0], ["name=other"])
    with pytest.raises(SteerbakeError, match="'tiny', not of 'other'"):
        pipeline.run(other, finished[1], progress=False)


def test_bad_rows_of_all_files_are_one_error(finished, tmp_path):
    shutil.copytree(finished[0].parent / "base", tmp_path / "base")
    for part in ("fit", "calibrate", "test"):
        (tmp_path / f"{part}.jsonl").write_text('{"id": "a"}\n{\n')
    shutil.copy(finished[0], tmp_path)
    with pytest.raises(InputErrors) as caught:
        pipeline.run(Recipe.load(tmp_path / "recipe.yaml"), tmp_path / "out", progress=False)
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {
        "data.fit.0",
        "data.calibrate.0",
        "data.test.0",
    }


def test_inspect_verifies_programs_and_bases(finished, tmp_path):
    _, out = finished
    found = pipeline.inspect(out / "checkpoint")
    assert (found.kind, found.program.method) == ("checkpoint", "quick")
    assert pipeline.inspect(out / "steering" / "keyed").kind == "steering folder"
    folder = tmp_path / "changed"
    shutil.copytree(out / "checkpoint", folder)
    config = json.loads((folder / "config.json").read_text())
    config["steering"]["gates"][0]["threshold"] += 0.5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(VerificationError, match="sha256"):
        pipeline.inspect(folder)
    shutil.rmtree(folder)
    shutil.copytree(out / "checkpoint", folder)
    shard = folder / "base-00001-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(VerificationError, match="base weights"):
        pipeline.inspect(folder)


def test_without_calibration_rows_a_fraction_of_the_fit_rows_is_set_aside(finished, tmp_path):
    text = finished[0].read_text().replace(" calibrate: [calibrate.jsonl],", " calibrate_fraction: 0.4,")
    path = finished[0].with_name("fraction.yaml")
    path.write_text(text)
    work = pipeline.Run(Recipe.load(path), tmp_path / "out", progress=False)
    assert len(work.rows.fit) + len(work.rows.calibrate) == 7
    assert {row.role for row in work.rows.calibrate} == {"forget", "retain"}
