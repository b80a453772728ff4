"""verification.json: what it does not cover, or no longer covers, is not published."""

from __future__ import annotations

import json

import pytest
from publish.folders import verified, written

from exporter.errors import VerificationError
from exporter.pipeline.bounds import bounds_on
from exporter.publish.files import VERIFICATION, files_of, is_described, is_verified
from exporter.publish.verification import Check, Verification, covered, problems_of
from exporter.recipe_bounds import Bounds


@pytest.fixture
def folder(tmp_path):
    """Everything holds."""
    written(tmp_path, "onnx")
    verified(tmp_path, "onnx").save(tmp_path / VERIFICATION)
    return tmp_path


def test_a_folder_as_it_was_verified_has_no_problem(folder):
    assert problems_of(folder) == []
    assert Verification.load(folder).data() == json.loads((folder / VERIFICATION).read_text())


def test_a_folder_that_was_never_verified_names_the_command(tmp_path):
    (problem,) = problems_of(written(tmp_path))
    assert "never verified" in problem and f"steerbake verify {tmp_path} --recipe" in problem


@pytest.mark.parametrize("path", ["steering.safetensors", "onnx/steerbake.json", "config.json"])
@pytest.mark.parametrize("fault", ["changed", "missing", "added"])
def test_a_file_that_is_not_as_it_was_verified_is_named(folder, path, fault):
    if fault == "changed":
        content = bytearray((folder / path).read_bytes())
        content[-1] ^= 1
        (folder / path).write_bytes(content)
    elif fault == "missing":
        (folder / path).unlink()
    else:
        path += ".bak"
        (folder / path).write_text("x")
    told = [problem for problem in problems_of(folder) if problem.startswith(path)]
    assert len(told) == 1 and fault in told[0] and "steerbake verify" in told[0]


def test_what_describes_may_change_and_nothing_else(folder):
    for path in ("README.md", "report.html", "provenance.json", "plots/gates.png", ".eval_results/a.yaml"):
        assert is_described(path) and not is_verified(path)
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("x")
    assert problems_of(folder) == []
    for path in (
        "plots/model.safetensors",
        "plots/a/b.png",
        "onnx/README.md",
        ".eval_results/x.py",
        "readme.md",
    ):
        assert is_verified(path)
    assert not is_verified(VERIFICATION)


def test_a_target_that_came_later_was_not_checked(folder):
    (folder / "stock").mkdir()
    (folder / "stock" / "stock.json").write_text("{}")
    told = "\n".join(problems_of(folder))
    for name in ("strict loading", "parity", "leakage_either"):
        assert f"{name} of stock was not" in told


def test_a_failed_check_is_told_with_its_sentence(folder):
    found = Verification.load(folder)
    wrong = Check(
        name="parity", target="onnx", holds=False, told="2 of 9 tokens differ; export it again", value=2
    )
    checks = [one for one in found.checks if (one.name, one.target) != ("parity", "onnx")]
    verified(folder, checks=[*checks, wrong]).save(folder / VERIFICATION)
    assert problems_of(folder) == ["parity of onnx failed: 2 of 9 tokens differ; export it again"]


@pytest.mark.parametrize("name", ["strict loading", "parity", "known files", "leakage_either"])
def test_a_check_that_was_left_out_is_missed(folder, name):
    found = Verification.load(folder)
    verified(folder, checks=[one for one in found.checks if one.name != name]).save(folder / VERIFICATION)
    assert problems_of(folder) and all(problem.startswith(f"{name} of ") for problem in problems_of(folder))


def test_without_an_unlearning_report_nobody_knows(folder):
    verified(folder, "onnx", unlearning=None).save(folder / VERIFICATION)
    (problem,) = problems_of(folder)
    assert "unlearning report" in problem


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["checks"][0].update(holds="true"),
        lambda told: told["checks"][0].update(holds=1),
        lambda told: told.update(format="steerbake-verification/2"),
        lambda told: told.update(extra=1),
        lambda told: told.pop("files"),
        lambda told: told.update(files=[]),
    ],
)
def test_what_cannot_be_trusted_is_no_verification(folder, change):
    told = json.loads((folder / VERIFICATION).read_text())
    change(told)
    (folder / VERIFICATION).write_text(json.dumps(told))
    with pytest.raises(VerificationError, match=r"verification\.json"):
        Verification.load(folder)
    assert len(problems_of(folder)) == 1


def test_half_a_verification_is_none(folder):
    whole = (folder / VERIFICATION).read_text()
    (folder / VERIFICATION).write_text(whole[: len(whole) // 2])
    assert "verification.json" in problems_of(folder)[0]


def test_numbers_that_json_does_not_know_are_words(tmp_path):
    found = Verification.of(covered(written(tmp_path)), [], {"onnx": {"logits": float("inf")}}, None, {})
    found.save(tmp_path / VERIFICATION)
    assert Verification.load(tmp_path).parity == {"onnx": {"logits": "inf"}}


def test_what_is_no_plain_file_is_refused_and_what_the_hub_adds_is_not_ours(tmp_path):
    written(tmp_path)
    for path in (".gitattributes", ".git/HEAD", ".cache/huggingface/x.lock"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    assert files_of(tmp_path) == ["config.json", "model-00001-of-00001.safetensors", "steering.safetensors"]
    (tmp_path / "linked").symlink_to(tmp_path / "config.json")
    assert "linked" in files_of(tmp_path), "as in the Hub's cache"
    (tmp_path / "out").symlink_to(tmp_path.parent)
    with pytest.raises(VerificationError, match="neither a file nor a folder"):
        files_of(tmp_path)
    (tmp_path / "out").unlink()
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    with pytest.raises(VerificationError, match="broken"):
        files_of(tmp_path)


@pytest.mark.parametrize(
    ("target", "way_out"),
    [
        ("checkpoint", "fit again with other rows"),
        ("gguf", "publish.gguf_types"),
        ("a folder of --against", "remove this target"),
    ],
)
def test_a_measure_beyond_its_bound_names_the_way_out(target, way_out):
    measured = {"value": 0.1, "rows": 20}
    models = {"one": {"leakage_either": measured, "fluent_refusal": measured, "retain_identical": measured}}
    (leak, *_) = bounds_on(models, {"one": target}, Bounds())
    assert not leak.holds
    assert way_out in leak.told and "publish.require.leakage_either" in leak.told
