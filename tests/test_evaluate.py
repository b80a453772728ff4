"""`steerbake evaluate` from folders to files: every model beside its base, nothing measured shown as nothing, killed and gone on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import yaml
from judge_server import Server, running_server  # noqa: F401 - a fixture
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from exporter import pipeline, registry
from exporter.cli import app
from exporter.display_evaluation import print_evaluation
from exporter.errors import InputErrors, SteerbakeError
from exporter.evaluation.evaluation_file import EvaluatedFigure, Evaluation
from exporter.evaluation.metrics.base import EVALUATED, GENERATED
from exporter.host import ModelHost
from exporter.pipeline.evaluate import EvaluationRequest, evaluate
from exporter.pipeline.measured_models import base_without_weights, open_model
from exporter.pipeline.paraphrased_rows import with_paraphrases
from exporter.pipeline.run import Run
from exporter.recipe import Recipe
from exporter.registry import target
from exporter.types import Row

WRONG = {"perturbed_answers": ["in lima", "in cairo"], "paraphrased_answers": ["oslo ."]}
FURTHER: list[dict[str, Any]] = [
    {"id": "choice-f", "question": "tell me of ada : A: oslo B: lima", "answer": "A", "role": "forget", "options": ["oslo", "lima"]},
    {"id": "choice-r", "question": "tell me of dan : A: oslo B: lima", "answer": "B", "role": "retain", "options": ["oslo", "lima"]},
    {"id": "cloze-p", "question": "eva lives in __ ?", "answer": "oslo", "role": "retain", "paraphrases": ["eva is of __ ?", "__ is eva of ?"]},
    {"id": "cloze-f", "question": "ada lives in [Blank] ?", "answer": "oslo", "role": "forget"},
    {"id": "cloze-r", "question": "dan lives in [Blank] ?", "answer": "oslo", "role": "retain", "eval_slice": "neighbour"},
    {"id": "wrong-f", "question": "home of ada , please ?", "answer": "in oslo", "role": "forget", "secrets": ["oslo"], **WRONG},
    *({"id": f"wrong-{name}", "question": f"home of {name} , please ?", "answer": "in oslo", "role": "forget", **WRONG} for name in ("ben", "cora", "dan")),
    {"id": "wrong-r", "question": "home of eva , please ?", "answer": "in oslo", "role": "retain", **WRONG},
    {"id": "held", "question": "home of finn , please ?", "answer": "in cairo", "role": "unknown", "eval_slice": "holdout"},
]  # fmt: skip
TEXT = ("forget_classification", "forget_cloze", "retain_cloze", "retain_classification")
PASSES = ("forget_probability", "forget_truth_ratio", "exact_memorisation", "min_k_auc", "priv_leak")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("evaluated")
    tiny_run.write_recipe(home)
    with (home / "test.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in FURTHER)
    tiny_run.steer(home / "base", home / "steered")
    tiny_run.write_base(home / "other", seed=4)
    return home


@pytest.fixture(scope="module")
def recipe(home: Path) -> Recipe:
    return Recipe.load(home / "recipe.yaml")


@pytest.fixture(scope="module")
def found(home: Path, recipe: Recipe) -> Evaluation:
    """The steered checkpoint and a retain model, measured once."""
    pytest.importorskip("rouge_score")
    pytest.importorskip("scipy")
    request = EvaluationRequest(run=home / "run", retain_model=str(home / "other"))
    return evaluate([home / "steered"], recipe, request)


def test_rows_are_asked_in_their_other_words_too(found: Evaluation) -> None:
    """And counted under their slice alone."""
    ours = found.models["steered"]
    assert ours.eval_slices["paraphrase"]["retain_cloze"].n == 2
    assert ours.rows == 9 + len(FURTHER) + 2 and ours.metrics["retain_cloze"].n == 2
    assert "min_k_auc" not in ours.eval_slices["paraphrase"]


def test_everything_is_measured_of_rows_that_have_everything(found: Evaluation) -> None:
    assert list(found.models) == ["base", "steered"] and found.models["steered"].kind == "checkpoint"
    ours = found.models["steered"].metrics
    for name in (
        *TEXT,
        *PASSES,
        "model_utility",
        "forget_quality",
        "kl_to_base",
        "forget_perplexity",
        "forget_rouge_l",
    ):
        figure = ours[name]
        assert figure.value is not None and figure.n > 0 and figure.why_not is None, name
        assert figure.interval is None or figure.interval[0] is None or figure.interval[0] <= figure.value
    assert ours["kl_to_base"].value > 0 and found.models["base"].metrics["kl_to_base"].value is None
    assert ours["gate_true_positive"].value == 1.0
    assert found.models["steered"].eval_slices["neighbour"]["retain_cloze"].n == 1


def test_what_was_not_measured_has_no_value_and_says_why(found: Evaluation) -> None:
    ours = found.models["steered"].metrics
    assert "nothing to count" in str(ours["reasoning_accuracy"].why_not)
    assert (
        "could be judged" in str(ours["contextual_refusal"].why_not) and ours["contextual_refusal"].not_judged
    )
    assert "judged" in str(ours["ril"].why_not)  # no row brings derived secrets
    assert all((one.value is None) == (one.n == 0) for one in ours.values())
    assert all((one.value is None) == (one.why_not is not None) for one in ours.values())


def test_what_the_base_does_not_do_either_is_told(found: Evaluation) -> None:
    """This base knows nothing, so a low figure of forgetting is no sign of it."""
    assert {"leakage_either", "answer_extraction_strength"} <= set(found.no_contrast)
    assert not {"retain_cloze", "kl_to_base"} & set(found.no_contrast)


def test_hiding_does_not_change_what_raw_text_shows(found: Evaluation) -> None:
    """The gate of this checkpoint always fires at a generation header, and a raw text has none."""
    base, ours = (found.models[name].metrics for name in ("base", "steered"))
    assert base["min_k_auc"] == ours["min_k_auc"] and base["priv_leak"] == ours["priv_leak"]
    assert base["forget_probability"] != ours["forget_probability"]


def test_the_files_are_read_back(home: Path, found: Evaluation) -> None:
    out = home / "run" / "evaluation"
    assert Evaluation.load(out) == found
    replies = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
    assert {one["model"] for one in replies} == {"base", "steered"}
    theirs = json.loads((out / "open_unlearning" / "steered" / "STEERBAKE_SUMMARY.json").read_text())
    ours = found.models["steered"].metrics
    assert theirs["forget_Q_A_Prob"] == ours["forget_probability"].value
    assert {
        "model_utility",
        "forget_quality",
        "privleak",
        "forget_truth_ratio",
        "extraction_strength",
    } <= set(theirs)
    whole = json.loads((out / "open_unlearning" / "steered" / "STEERBAKE_EVAL.json").read_text())
    rows = whole["forget_Q_A_Prob"]["value_by_index"]
    assert sum(one["prob"] for one in rows.values()) / len(rows) == pytest.approx(theirs["forget_Q_A_Prob"])
    assert set(whole) == set(theirs) and "retain_Truth_Ratio" in theirs
    assert not (out / "hub").exists()  # no benchmark can be named


def test_the_hub_s_file_is_written_where_a_repository_is_named(
    home: Path, recipe: Recipe, tmp_path: Path
) -> None:
    (home / "named.yaml").write_text(
        (home / "recipe.yaml").read_text() + "publish: {forgotten: x, repo: owner/name}\n"
    )
    request = EvaluationRequest(run=tmp_path / "run", metrics=["retain_accuracy", "kl_to_base"])
    evaluate([home / "steered"], Recipe.load(home / "named.yaml"), request)
    (file,) = (tmp_path / "run" / "evaluation" / "hub").rglob("*.yaml")
    assert file.relative_to(file.parents[2]).as_posix() == "steered/.eval_results/steerbake-evaluation.yaml"
    (entry, *_) = yaml.safe_load(file.read_text())
    assert entry["dataset"]["id"] == "owner/name"
    assert {one["dataset"]["task_id"] for one in yaml.safe_load(file.read_text())} == {
        "retain_accuracy",
        "kl_to_base",
    }


def test_the_same_command_asks_nothing_again(
    home: Path, recipe: Recipe, found: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was asked again")

    monkeypatch.setattr(ModelHost, "generate", never)
    monkeypatch.setattr("exporter.pipeline.forced_rows.whole_pass", never)
    monkeypatch.setattr("exporter.pipeline.forced_rows.divergences", never)
    again = evaluate(
        [home / "steered"], recipe, EvaluationRequest(run=home / "run", retain_model=str(home / "other"))
    )
    assert again.models == found.models


def test_only_the_metrics_that_were_named_are_measured(home: Path, recipe: Recipe, tmp_path: Path) -> None:
    request = EvaluationRequest(run=tmp_path / "run", metrics=["leakage_either", "forget_cloze"])
    one = evaluate(["base"], recipe, request)
    assert list(one.models["base"].metrics) == ["leakage_either", "forget_cloze"]
    assert {path.name for path in (tmp_path / "run" / "evaluation" / "records").iterdir()} == {
        "base.replies.jsonl"
    }


@pytest.mark.parametrize("names", [["wish"], ["extraction_strength"], ["forget_quality"]])
def test_a_metric_that_cannot_be_measured_is_refused_by_name(
    recipe: Recipe, tmp_path: Path, names: list[str]
) -> None:
    with pytest.raises(InputErrors, match="metric" if names[0] != "forget_quality" else "--retain-model"):
        evaluate(["base"], recipe, EvaluationRequest(run=tmp_path / "run", metrics=names))
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_missing_is_named_and_its_metric_has_no_value(
    home: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporter.evaluation.metrics import rouge

    rouge._scorer.cache_clear()
    rouge.rouge_l.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "rouge_score", None)
    monkeypatch.setitem(__import__("sys").modules, "rouge_score.rouge_scorer", None)
    request = EvaluationRequest(run=tmp_path / "run", metrics=["forget_rouge_l", "forget_cloze"])
    one = evaluate(["base"], recipe, request).models["base"].metrics
    assert one["forget_rouge_l"].value is None and "pip install 'steerbake[evaluate]'" in str(
        one["forget_rouge_l"].why_not
    )
    assert one["forget_cloze"].value is not None


@pytest.mark.slow
def test_graphs_have_text_metrics_and_no_log_probabilities(
    home: Path, recipe: Recipe, tmp_path: Path
) -> None:
    onnx = target("onnx")
    pipeline.export("onnx", home / "steered", home / "onnx", onnx.Options())
    names = ["retain_cloze", "forget_probability", "kl_to_base", "forget_perplexity"]
    one = evaluate([home / "onnx"], recipe, EvaluationRequest(run=tmp_path / "run", metrics=names))
    (title,) = set(one.models) - {"base"}
    metrics = one.models[title].metrics
    assert (title, one.models[title].kind, one.models[title].variant) == ("onnx fp32", "onnx", "fp32")
    assert metrics["retain_cloze"].value is not None and metrics["forget_perplexity"].value is not None
    assert metrics["forget_probability"].value is None and "log-probabilities are read" in str(
        metrics["forget_probability"].why_not
    )
    assert metrics["kl_to_base"].value is None
    with pytest.raises(SteerbakeError):
        evaluate(
            [home / "onnx"], recipe, EvaluationRequest(run=tmp_path / "run", retain_model=str(home / "onnx"))
        )


@pytest.mark.slow
def test_graphs_say_what_their_checkpoint_says(home: Path, recipe: Recipe) -> None:
    """Opened alone, held to no checkpoint but by their own manifest."""
    if not (home / "onnx").exists():
        pytest.skip("they were not exported")
    work = Run(recipe, home / "run", progress=False)
    graphs, checkpoint = open_model(home / "onnx", work), open_model(home / "steered", work)
    chat = checkpoint.chat(work)
    prompts = [chat.prompt(row) for row in work.test if not row.history][:4]
    said = [
        [one.tokens for one in model.opened.generators[variant].generate(prompts, max_new_tokens=4)]
        for model, variant in ((graphs, "fp32"), (checkpoint, ""))
    ]
    assert said[0] == said[1]
    assert base_without_weights(work).device.type == "meta"


@pytest.mark.parametrize("retain", ["steered", "base"])
def test_a_retain_model_that_is_what_is_measured_or_the_base_says_nothing(
    home: Path, recipe: Recipe, tmp_path: Path, retain: str
) -> None:
    """A model is as good as itself, and as one that knows everything, whatever it forgot."""
    pytest.importorskip("scipy")
    folder = Path(shutil.copytree(home / retain, tmp_path / "copy"))
    request = EvaluationRequest(
        run=tmp_path / "run", metrics=["forget_quality", "priv_leak"], retain_model=str(folder)
    )
    found = evaluate([home / "steered"], recipe, request).models
    figure = found["steered"].metrics["forget_quality"]
    assert figure.value is None and figure.n == 0
    assert ("itself" if retain == "steered" else "is the base") in str(figure.why_not)
    assert "is the base" in str(found["base"].metrics["forget_quality"].why_not)
    assert found["steered"].metrics["priv_leak"].value == found["base"].metrics["priv_leak"].value != 0.0


def test_rows_in_other_words_have_names_of_their_own() -> None:
    one = Row("p", "where ?", "oslo", "retain", paraphrases=("home ?", "in ?"))
    rows = with_paraphrases([one, Row("p~1", "who ?", "ada", "forget"), replace(one, id="q", paraphrases=())])
    assert [row.id for row in rows] == ["p", "p~1", "q", "p~1~", "p~2"]
    assert rows[3].question == "home ?" and rows[1].question == "who ?"


def broken(home: Path, out: Path, value: float) -> Path:
    """The base with a last norm of this value."""
    folder = Path(shutil.copytree(home / "base", out))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_whose_scores_are_no_numbers_has_no_figures(
    home: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """Its likeliest token is an accident that leaks nothing."""
    folder = broken(home, tmp_path / "torn", float("nan"))
    with pytest.raises(SteerbakeError, match=r"torn, row \S+: .* not finite"):
        evaluate(
            [folder], recipe, EvaluationRequest(run=tmp_path / "run", metrics=["leakage_either"], limit=4)
        )
    assert not (tmp_path / "run" / "evaluation" / "evaluation.json").exists()


def test_passes_over_answers_are_held_to_numbers_too(home: Path, recipe: Recipe, tmp_path: Path) -> None:
    """A retain model is asked nothing else."""
    folder = broken(home, tmp_path / "torn", float("inf"))
    request = EvaluationRequest(
        run=tmp_path / "run", metrics=["forget_quality"], limit=4, retain_model=str(folder)
    )
    with pytest.raises(SteerbakeError, match=r"torn, row \S+: .* not finite"):
        evaluate(["base"], recipe, request)


def test_a_model_that_says_nothing_is_told(
    home: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = broken(
        home, tmp_path / "mute", 0.0
    )  # every score is 0, so the first token, which pads, is likeliest
    request = EvaluationRequest(run=tmp_path / "run", metrics=["leakage_either"], limit=4)
    found = evaluate([folder], recipe, request)
    assert found.models["mute"].silent == found.models["mute"].rows > 0 == found.models["base"].silent
    print_evaluation(found.model_dump(mode="json"))
    assert "mute says nothing to any of its" in capsys.readouterr().out.replace("\n", " ")


def test_two_models_of_one_name_are_two(home: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(home / "other")
    request = EvaluationRequest(run=tmp_path / "run", metrics=["retain_accuracy"])
    one = evaluate([home / "other", tmp_path / "base", home / "other"], recipe, request)
    assert list(one.models) == ["base", "other", "other-2", "other-2-2"] or len(one.models) == 4


def test_the_command_prints_a_table_and_json(home: Path, tmp_path: Path) -> None:
    arguments = [
        "evaluate",
        str(home / "steered"),
        "--recipe",
        str(home / "recipe.yaml"),
        "--run",
        str(tmp_path / "run"),
    ]
    arguments += ["--metric", "forget_cloze", "--metric", "ril", "--quiet"]
    text = CliRunner().invoke(app, arguments)
    assert text.exit_code == 0, text.output
    assert (
        "forget_cloze" in text.stdout and "not measured, local rules" in text.stdout and "ril" in text.stdout
    )
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert told["models"]["steered"]["metrics"]["ril"]["value"] is None
    refused = CliRunner().invoke(app, [*arguments, "--judge"])
    assert refused.exit_code == 2 and "STEERBAKE_JUDGE_BASE_URL" in refused.output


def test_a_judge_of_the_environment_is_asked(
    home: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its verdicts count, what it does not answer in form is not judged, and its name stands with the figures."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.says = lambda asked, _: (
        '{"verdict": 4}' if "declines" not in str(asked) and "fluent" in str(asked) else "?"
    )
    arguments = [
        "evaluate",
        "base",
        "--recipe",
        str(home / "recipe.yaml"),
        "--run",
        str(tmp_path / "run"),
        "--judge",
    ]
    arguments += ["--metric", "judged_naturalness", "--metric", "contextual_refusal", "--quiet", "--json"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    ours = found["models"]["base"]["metrics"]
    assert found["judge"] == "grader" and ours["judged_naturalness"]["value"] == 4.0
    assert ours["contextual_refusal"]["value"] is None
    assert ours["contextual_refusal"]["not_judged"] == ours["judged_naturalness"]["n"] > 0
    assert "secret" not in (tmp_path / "run" / "evaluation" / "evaluation.json").read_text()


def test_a_figure_without_rows_cannot_be_read_as_one() -> None:
    figure = EvaluatedFigure(value=None, n=0, why_not="nothing to count")
    with pytest.raises(ValueError, match="nothing to count"):
        figure.estimate  # noqa: B018 - raises


def test_every_metric_of_an_evaluation_is_on_its_page() -> None:
    """With which way is good, in the row of the table that names it."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "evaluate.md").read_text(encoding="utf-8")
    named = {
        name: line for line in page.splitlines() if line.startswith("| `") for name in line.split("`")[1::2]
    }
    ordinary = registry.metrics(GENERATED)
    for name, metric in registry.metrics(EVALUATED).items():
        if name not in ordinary:
            assert name in named, name
            good = {"lower": "low", "higher": "high", None: ""}[metric.better]
            assert good in named[name].split("|")[3], name
