"""From a recipe to a sealed release and to the Hub, on a tiny model: what is refused, what is found, what is done again."""

from __future__ import annotations

import json
import shutil
import stat
from importlib import import_module
from pathlib import Path

import pytest
from tiny_run import NAMES, write_publishable
from typer.testing import CliRunner

from exporter import pipeline, registry
from exporter.atomic import partial_of
from exporter.cli import app
from exporter.digests import FileDigests
from exporter.errors import CompileError, InputErrors, PublishError, VerificationError
from exporter.host import ModelHost
from exporter.pipeline.answered_by import answered_by, digests_of, note_files
from exporter.pipeline.staging import stage
from exporter.publish import provenance
from exporter.publish.files import files_of, is_described
from exporter.publish.provenance import tag_of
from exporter.publish.verification import Verification, problems_of
from exporter.recipe import Recipe
from exporter.targets.checkpoint_target import Checkpoint
from exporter.targets.values import Finding
from exporter.wording.words import contains_words

LEFT_OVER = "walt left this beside the base"
DRY = pipeline.Request(dry_run=True)
PUBLISH, PUSH = (import_module(f"exporter.pipeline.{name}") for name in ("publish", "push"))
"""The modules: in the package their names are the functions'."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("keyed", "r_muse"):
            patch.setitem(registry.METHODS, name, "tiny_run:Quick")
        yield


DONE: list[str] = []
"""What publishing ``home`` did, in order: runs that were opened, models that were loaded, from where."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A recipe, and beside it in ``run`` all that publishing it left."""
    folder = tmp_path_factory.mktemp("publish")
    recipe = write_publishable(folder)
    (folder / "base" / "train_samples.json").write_text(json.dumps([LEFT_OVER]))
    with pytest.MonkeyPatch.context() as patch:
        opened, load = pipeline.Run.__init__, ModelHost.load
        patch.setattr(pipeline.Run, "__init__", lambda *given: (DONE.append("run"), opened(*given))[1])
        told = lambda path, **more: (DONE.append(Path(path).name), load(path, **more))[1]  # noqa: E731
        patch.setattr(ModelHost, "load", told)
        pipeline.publish(Recipe.load(recipe), folder / "run", DRY, progress=False)
    return folder


@pytest.fixture
def release(home, tmp_path) -> Path:
    """A copy of the release that a test may change."""
    return Path(shutil.copytree(home / "run" / "release", tmp_path / "release"))


def steerbake(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_the_release_is_whole_verified_and_sealed(home):
    release = home / "run" / "release"
    assert problems_of(release) == []
    assert pipeline.check(release, base=home / "base").problems == []
    assert {"README.md", "report.html", "verification.json", "provenance.json", "onnx/steerbake.json"} <= set(
        files_of(release)
    )
    steering = "steering.safetensors"
    assert (release / steering).samefile(home / "run" / "checkpoint" / steering), "linked, not copied"
    told = json.loads((release / "provenance.json").read_text())
    assert told["base"]["license"] == "mit" and told["forget_rows"]["count"] == 7
    assert told["base"]["shards"].keys() == {"base-00001-of-00001.safetensors"}
    found = Verification.load(release)
    assert {check.name for check in found.checks} == {
        "known files",
        "strict loading",
        "parity",
        "leakage_either",
        "fluent_refusal",
        "retain_identical",
    }
    assert {"base", "steered", "onnx fp32"} == set(found.unlearning["models"])
    report = json.loads((home / "run" / "report.json").read_text())
    assert found.unlearning["extraction"]["steered"] == report["extraction"]["keyed"]
    for name in ("leakage_either", "retain_identical"):
        ours, theirs = found.unlearning["models"]["steered"][name], report["models"]["keyed"][name]
        assert (ours["value"], ours["rows"]) == (theirs["value"], theirs["n"])


def test_it_opens_one_run_and_loads_each_model_once_beside_the_export(home):
    """The release's own checkpoint answers for the report and for the verification; a graph is traced from another copy."""
    assert DONE == ["run", "base", "checkpoint", "release"]


@pytest.mark.parametrize("other", ["config.json", "steering.safetensors", "tokenizer.json", "model.py", None])
def test_answers_count_for_a_release_of_just_the_files_that_gave_them(home, tmp_path, other, monkeypatch):
    answers = tmp_path / "keyed.jsonl"
    answers.write_text("said\n")
    found = digests_of(home / "run" / "release")
    note_files(answers, found)
    beside = FileDigests(found.folder, {**found.files, "onnx/steerbake.json": "0" * 64})
    assert answered_by(answers, found) and answered_by(answers, beside), "the controls"
    if other is not None:
        changed = FileDigests(found.folder, {**found.files, other: "0" * 64})
        assert not answered_by(answers, changed)
        return
    with monkeypatch.context() as patch:
        patch.setattr("exporter.pipeline.answered_by.versions", lambda: {"transformers": "0"})
        assert not answered_by(answers, found)
    answers.write_text("said otherwise\n")
    assert not answered_by(answers, found)


def test_a_verification_asks_anew_what_other_files_answered(home, tmp_path, monkeypatch):
    """And comes to the same, as the checkpoint does; the control is that it asks nothing where the files agree."""
    asked: list[str] = []
    replies = import_module("exporter.pipeline.evaluation").Replies
    real = replies.of_checkpoint
    monkeypatch.setattr(replies, "of_checkpoint", lambda self, host: (asked.append("rows"), real(self, host)))
    monkeypatch.setattr(Checkpoint, "check_loads", lambda *_: Finding(True, "not what is tested here", None))
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    recipe = Recipe.load(home / "recipe.yaml", ["publish.targets=[]"])
    pipeline.publish(recipe, run, DRY, progress=False)
    assert asked == []
    before = Verification.load(run / "release").unlearning
    for kept, wanted in (("extraction/keyed.json", []), ("generations/keyed.jsonl", ["rows"])):
        (run / ".work" / f"{kept}.files.json").unlink()
        (run / ".work" / "stages" / "verify.json").unlink()
        pipeline.publish(recipe, run, DRY, progress=False)
        assert asked == wanted and Verification.load(run / "release").unlearning == before


def test_a_file_that_changes_while_a_folder_is_described_gets_no_seal(release, monkeypatch):
    before = (release / "provenance.json").read_bytes()
    monkeypatch.setattr(PUSH, "write_card", lambda folder, _: flip(folder / "steering.safetensors"))
    with pytest.raises(VerificationError, match=r"steering\.safetensors was changed"):
        pipeline.push(release, "user/x", DRY)
    assert (release / "provenance.json").read_bytes() == before


def test_a_file_that_changes_between_seal_and_upload_is_not_published(release, hub, monkeypatch):
    real = PUSH.upload

    def late(*given, **more):
        flip(release / "steering.safetensors")
        return real(*given, **more)

    monkeypatch.setattr(PUSH, "upload", late)
    with pytest.raises(PublishError, match=r"steering\.safetensors changed"):
        pipeline.push(release, "user/tiny", pipeline.Request())


def test_targets_are_built_behind_what_they_are_made_of(home, tmp_path, monkeypatch):
    """In whatever order a recipe names them."""
    built: list[str] = []

    def exported(_work: object, _publish: object, name: str, *_: object) -> Path:
        built.append(name)
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        return tmp_path / name

    monkeypatch.setattr("exporter.pipeline.staging._exported", exported)
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    work = pipeline.Run(Recipe.load(home / "recipe.yaml", ["publish.targets=[gguf, stock]"]), run)
    assert work.recipe.publish is not None
    release = stage(work, work.recipe.publish)
    assert built == ["stock", "gguf"] and (release / "gguf" / "file").read_text() == "gguf"


def test_others_may_read_all_of_it_and_the_salt_of_the_hashes_not(home):
    release, usual = home / "run" / "release", stat.S_IMODE((home / "recipe.yaml").stat().st_mode)
    every = (*release.rglob("*"), *(home / "run" / "steering").rglob("*"), *(home / "run").glob("report*"))
    found = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in every if path.is_file()}
    assert {name: mode for name, mode in found.items() if mode != oct(usual)} == {}
    assert stat.S_IMODE((home / "run" / ".work" / "salt").stat().st_mode) == 0o600


def test_what_lies_beside_a_base_or_a_checkpoint_is_not_released(home, tmp_path):
    """Neither what lay there before the run, nor what somebody put into its folder after it."""
    told = [path for path in files_of(home / "run" / "release") if "train_samples" in path]
    assert told == []
    again = Path(shutil.copytree(home, tmp_path / "home"))
    (again / "run" / "checkpoint" / "notes.txt").write_text(LEFT_OVER)
    work = pipeline.Run(Recipe.load(next(again.glob("*.yaml"))), again / "run", progress=False)
    assert work.recipe.publish is not None
    release = stage(work, work.recipe.publish.model_copy(update={"targets": []}))
    assert "config.json" in files_of(release)
    found = [path for path in files_of(release) if LEFT_OVER.encode() in (release / path).read_bytes()]
    assert found == []


def test_nothing_of_a_forget_row_or_of_this_machine_is_in_what_describes(home):
    release = home / "run" / "release"
    rows = [
        json.loads(line)
        for part in ("fit", "calibrate", "test")
        for line in (home / f"{part}.jsonl").read_text().splitlines()
    ]
    secret = {row["question"] for row in rows if row["role"] == "forget"} | set(NAMES[:2])
    here = {str(home), home.name, (home / "run" / ".work" / "salt").read_text().strip()}
    told = [path for path in files_of(release) if is_described(path) or path == "verification.json"]
    assert {"README.md", "report.html", "provenance.json", "verification.json"} <= set(told)
    for path in told:
        if not path.startswith("plots/"):
            text = (release / path).read_text()
            assert not [one for one in secret if contains_words(text, one)], path
            assert not [one for one in here if one in text], path


def test_the_same_command_does_nothing_twice(home):
    run = home / "run"
    stages = {path.name: path.stat().st_mtime_ns for path in (run / ".work" / "stages").iterdir()}
    before = {path: (run / "release" / path).read_bytes() for path in files_of(run / "release")}
    pipeline.publish(Recipe.load(home / "recipe.yaml"), run, DRY, progress=False)
    assert stages == {path.name: path.stat().st_mtime_ns for path in (run / ".work" / "stages").iterdir()}
    assert before == {path: (run / "release" / path).read_bytes() for path in files_of(run / "release")}


def test_a_model_beyond_its_bounds_is_not_published(home, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "check_loads", lambda *_: Finding(True, "not what is tested here", None))
    shutil.copytree(home / "run", tmp_path / "run")
    strict = Recipe.load(home / "recipe.yaml", ["publish.require.fluent_refusal=0.1", "publish.targets=[]"])
    with pytest.raises(VerificationError, match=r"fluent_refusal of checkpoint .*0 of 2 rows"):
        pipeline.publish(strict, tmp_path / "run", DRY, progress=False)
    release = tmp_path / "run" / "release"
    assert [check.name for check in Verification.load(release).failures] == ["fluent_refusal"]
    with pytest.raises(VerificationError, match=r"publish\.require\.fluent_refusal"):
        pipeline.push(release, "user/x", DRY)


def test_a_bound_on_reasoning_over_no_judged_row_fails_and_is_told_before_the_fit(
    home, tmp_path, monkeypatch
):
    """The tiny base reasons about nothing soundly, and its rows name no derived secrets."""
    monkeypatch.setattr(Checkpoint, "check_loads", lambda *_: Finding(True, "not what is tested here", None))
    bounded = Recipe.load(home / "recipe.yaml", ["publish.require.max_ril=0.9", "publish.require.min_rcr=0"])
    with pytest.raises(InputErrors, match=r"max_ril could be judged.*derived_secrets"):
        pipeline.publish(bounded, tmp_path / "run", DRY, progress=False)
    monkeypatch.delenv("STEERBAKE_JUDGE_MODEL", raising=False)
    judged = Recipe.load(home / "recipe.yaml", ["publish.require.judge=true"])
    with pytest.raises(InputErrors, match=r"publish.require.judge: .*STEERBAKE_JUDGE_MODEL"):
        pipeline.publish(judged, tmp_path / "run", DRY, progress=False)
    run, report = home / "run", tmp_path / "verification.json"
    found = pipeline.verify(run / "checkpoint", recipe=bounded, run=run, report=report)
    failed = {check.name: check.told for check in found.failures}
    assert set(failed) == {"max_ril", "min_rcr"}
    assert all("so nothing was shown" in told for told in failed.values())
    assert found.unlearning is not None and found.unlearning["reasoning"]["judge"] == "local rules"
    with pytest.raises(InputErrors, match="STEERBAKE_JUDGE_MODEL"):
        pipeline.verify(run / "checkpoint", recipe=judged, run=run, report=report)


def test_rows_too_few_for_what_is_required_are_told_before_the_fit(home, tmp_path):
    usual = Recipe.load(home / "recipe.yaml", ["publish.require={}"])
    with pytest.raises(InputErrors, match=r"0 of 2 rows .* 0\.658 .* 16 rows"):
        pipeline.publish(usual, tmp_path / "run", DRY, progress=False)
    assert not (tmp_path / "run" / "steering").exists()


def test_a_release_whose_bounds_were_on_shares_alone_is_told_to_be_published_again(release):
    """It may be checked still, but what two rows seemed to show then is not passed on now."""
    before = {"leakage_either": 0.05, "retain_identical": 0.95, "fluent_refusal": 0.9}
    provenance = json.loads((release / "provenance.json").read_text())
    provenance["publication"]["require"] = before
    (release / "provenance.json").write_text(json.dumps(provenance))
    assert pipeline.check(release).problems == []
    for refused in (
        lambda: pipeline.push(release, "user/x", DRY),
        lambda: pipeline.pack(release, release.with_name("x.tar.zst")),
    ):
        with pytest.raises(VerificationError, match=r"73 rows(.|\n)*did not bound intervals"):
            refused()


def test_a_recipe_that_cannot_be_published_is_refused_before_it_is_run(home, tmp_path):
    path = home / "recipe.yaml"
    for changes, request, wanted in (
        (["publish=null"], DRY, "publish: .*publish.forgotten"),
        ([], pipeline.Request(), "publish.repo: .*--repo"),
        (["publish.forgotten=where ada lives in oslo"], DRY, "publish.forgotten"),
    ):
        with pytest.raises(InputErrors, match=wanted):
            pipeline.publish(Recipe.load(path, changes), tmp_path / "run", request, progress=False)
    assert not (tmp_path / "run" / "steering").exists()
    for change, wanted in (
        ("publish.targets=[gguf]", "publish.targets: gguf .*stock"),
        ("publish.targets=[tflite]", "publish.targets.0"),
        ("publish.repo=nobody", "publish.repo"),
        ("publish.require.leakage_either=2", "publish.require.leakage_either: .*1, received 2"),
        ("publish.license_name=mine", "publish.license"),
    ):
        with pytest.raises(InputErrors, match=wanted):
            Recipe.load(path, [change])


FAULTS = {
    "a byte of the steering": (lambda folder: flip(folder / "steering.safetensors"), None),
    "a byte of a shard": (lambda folder: flip(folder / "base-00001-of-00001.safetensors"), None),
    "a byte of a graph": (lambda folder: flip(folder / "onnx" / "onnx" / "model.onnx"), "was changed"),
    "a file more": (lambda folder: (folder / "extra.txt").write_text("x"), "was added"),
    "a file less": (lambda folder: (folder / "ops.py").unlink(), "is missing"),
    "no verification": (lambda folder: (folder / "verification.json").unlink(), "never verified"),
    "no provenance": (lambda folder: (folder / "provenance.json").unlink(), "no provenance.json"),
    "another target": (
        lambda folder: (
            shutil.copytree(folder / "onnx", folder / "stock") and (folder / "stock" / "stock.json").touch()
        ),
        "parity of stock",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_not_as_it_was_verified_is_not_pushed(release, fault):
    damage, wanted = FAULTS[fault]
    assert pipeline.push(release, "user/x", DRY) is None, "the control"
    damage(release)
    status, told = steerbake("push", release, "user/x", "--dry-run")
    assert status == 2
    if wanted is None:  # a folder that does not steer is not pushed by force either
        assert steerbake("push", release, "user/x", "--dry-run", "--force")[0] == 2
        return
    assert wanted in told and "steerbake " in told and "--force" in told
    lines: list[str] = []
    pipeline.push(release, "user/x", pipeline.Request(dry_run=True, force=True), say=lines.append)
    card = (release / "README.md").read_text()
    assert "--force" in card and wanted in card and str(release) not in card


def test_what_was_forced_once_is_not_forgotten(release):
    (release / "provenance.json").unlink()
    pipeline.push(release, "user/x", pipeline.Request(dry_run=True, force=True))
    with pytest.raises(VerificationError, match=r"provenance\.json .*--force"):
        pipeline.push(release, "user/x", DRY)


def test_a_verification_without_an_unlearning_report_does_not_do(release):
    found = Verification.load(release)
    found.model_copy(update={"unlearning": None}).save(release / "verification.json")
    status, told = steerbake("push", release, "user/x", "--dry-run")
    assert status == 2 and "unlearning report" in told and "steerbake verify" in told


@pytest.mark.parametrize("moment", ["write_card", "seal"])
def test_a_push_that_is_killed_while_it_describes_loses_nothing(release, moment, monkeypatch):
    """Python's way out of a kill: nothing is cleaned up."""

    class Killed(BaseException):
        pass

    def killed(folder: Path, *_: object) -> None:
        partial_of(folder / ("README.md" if moment == "write_card" else "provenance.json")).write_text("half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(PUSH if moment == "write_card" else provenance, moment, killed)
        with pytest.raises(Killed):
            pipeline.push(release, "user/x", DRY)
    pipeline.push(release, "user/x", DRY)
    assert pipeline.check(release).problems == []


def test_a_push_arrives_whole_under_its_tag(release, hub):
    done = pipeline.push(release, "user/tiny", pipeline.Request())
    assert done.tag == tag_of(json.loads((release / "provenance.json").read_text())["files"])
    assert f'revision="{done.tag}"' in (release / "README.md").read_text()
    assert pipeline.check(release).problems == []
    again = pipeline.push(release, "user/tiny", pipeline.Request())
    assert again.commit == done.commit, "there is nothing to do"
    lines: list[str] = []
    (release / "LICENSE").write_text("Apache License\n")
    request = pipeline.Request(pr=True, force=True)
    proposed = pipeline.push(release, "user/tiny", request, say=lines.append)
    assert proposed.pr_url and proposed.tag is None
    files = json.loads((release / "provenance.json").read_text())["files"]
    assert tag_of(files) != done.tag, "a file more is another tag, so the push is not refused for the old one"
    assert f"hf repos tag create user/tiny {tag_of(files)}" in lines[-1]


def test_without_a_token_nothing_is_fitted(home, tmp_path, monkeypatch):
    monkeypatch.setattr(PUBLISH, "known_token", lambda: None)
    with pytest.raises(PublishError, match="hf auth login"):
        pipeline.publish(
            Recipe.load(home / "recipe.yaml"), tmp_path / "run", pipeline.Request("user/x"), progress=False
        )
    assert not (tmp_path / "run").exists()


def test_check_finds_what_differs_and_whose_rows_they_were(home, release, tmp_path):
    rows, salt = home / "test.jsonl", home / "run" / ".work" / "salt"
    found = pipeline.check(release, base=home / "base", salt=salt, rows=rows)
    assert found.problems == []
    assert "4 of 9 rows are among the 7" in " ".join(found.statements)
    named = " ".join(found.statements)
    assert "test-ada" in named and "test-cora" not in named
    (tmp_path / "other").write_text("0" * 64)
    assert "0 of 9 rows" in " ".join(pipeline.check(release, salt=tmp_path / "other", rows=rows).statements)
    with pytest.raises(InputErrors, match="--salt and --rows"):
        pipeline.check(release, rows=rows)
    (release / "README.md").write_text("another card")
    (release / "more").write_text("x")
    (release / "ops.py").unlink()
    status, told = steerbake("check", release)
    assert status == 1
    for line in ("README.md was changed", "more was added", "ops.py is missing"):
        assert line in told


def test_check_holds_the_shards_to_the_pinned_base(home, release, tmp_path):
    base = Path(shutil.copytree(home / "base", tmp_path / "base"))
    flip(base / "model.safetensors")
    assert "base-00001-of-00001.safetensors" in pipeline.check(release, base=base).problems[0]
    told = json.loads((release / "provenance.json").read_text())
    told["base"]["shards"]["base-00001-of-00001.safetensors"] = "0" * 64
    (release / "provenance.json").write_text(json.dumps(told))
    assert any("differs from the pinned base" in one for one in pipeline.check(release).problems)


def test_a_pack_is_the_same_bytes_and_the_same_folder(home, release, tmp_path):
    first = pipeline.pack(home / "run" / "release", tmp_path / "a.tar.zst")
    second = pipeline.pack(release, tmp_path / "b.tar.zst")
    assert first.read_bytes() == second.read_bytes()
    out = pipeline.unpack(first, tmp_path / "out")
    assert files_of(out) == files_of(release) and pipeline.check(out, base=home / "base").problems == []
    with pytest.raises(CompileError, match="already exists"):
        pipeline.unpack(first, out)
    with pytest.raises(CompileError, match="already exists"):
        pipeline.pack(release, first)


def test_what_is_not_as_published_is_neither_packed_nor_unpacked(release, tmp_path):
    from exporter.publish.pack import write_pack

    (release / "extra.txt").write_text("x")
    with pytest.raises(VerificationError, match=r"extra\.txt was added"):
        pipeline.pack(release, tmp_path / "a.tar.zst")
    write_pack(release, files_of(release), "top", tmp_path / "a.tar.zst")
    with pytest.raises(VerificationError, match=r"extra\.txt was added") as caught:
        pipeline.unpack(tmp_path / "a.tar.zst", tmp_path / "out")
    assert ".partial" not in str(caught.value)
    (release / "extra.txt").unlink()
    (release / "provenance.json").unlink()
    with pytest.raises(VerificationError, match=r"no provenance\.json"):
        pipeline.pack(release, tmp_path / "b.tar.zst")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.zst", "release"]
