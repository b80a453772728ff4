"""The card says what was forgotten, how to load it, what steering does not do, and what was measured; nothing more of the forget rows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt
from published import MEASURES, REPO, origin, provenance, tag, verification, write_release

from exporter.errors import VerificationError
from exporter.publish import metadata
from exporter.publish.card import Card, render, write_card
from exporter.publish.measures import measured, percent


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("card"))


def made(release: Path, told: dict[str, Any] | None = None, **changes: Any) -> Card:
    content = provenance(release, **changes.pop("publication", {}))
    content["base"].update(changes.pop("base", {}))
    verified = verification(release) if told is None else told
    values = {"repo_id": REPO, "revision": tag(content), "targets": ["onnx", "checkpoint"], **changes}
    return Card.of(origin(content), verified, **values)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of each code block."""
    tokens = MarkdownIt("commonmark").parse(text)
    return [(token.info, token.content) for token in tokens if token.type == "fence"]


def test_the_first_screen_has_the_words_the_limit_and_three_pinned_lines_a_target(release: Path) -> None:
    card = made(release)
    screen = render(release, card).text.split("## Results")[0]
    assert "**Made to forget:** where two people live" in screen
    assert (
        "Steering hides; it does not erase." in screen
        and "base weights in this repository still hold" in screen
    )
    codes = dict(blocks(screen))
    assert list(codes) == ["python", "sh"] and screen.index("from transformers") < screen.index("hf download")
    assert all(len(code.strip().splitlines()) == 3 for code in codes.values())
    assert codes["python"].count(f'revision="{card.place.revision}"') == 2
    assert f"--revision {card.place.revision} " in codes["sh"]


def test_the_three_lines_load_the_steered_model(release: Path) -> None:
    card = replace(made(release), targets=("checkpoint",))
    code = dict(blocks(str(render(release, card))))["python"]
    names: dict[str, Any] = {}
    exec(
        code.replace(f'"{REPO}"', repr(str(release))), names
    )  # from the folder itself, which has no revisions
    assert names["model"].steering.section["sha256"] == card.section["sha256"]
    assert (
        names["tokenizer"].decode(names["tokenizer"]("tell me").input_ids, skip_special_tokens=True)
        == "tell me"
    )
    with pytest.raises(ValueError, match="trust_remote_code"):
        exec(code.replace(f'"{REPO}"', repr(str(release))).replace(", trust_remote_code=True", ""), {})


def test_the_three_lines_load_a_stock_checkpoint(release: Path) -> None:
    stock = release / "stock"
    shutil.copytree(release.parent / "base", stock, dirs_exist_ok=True)
    card = made(release, targets=["stock", "checkpoint"])
    codes = [code for language, code in blocks(str(render(release, card))) if language == "python"]
    names: dict[str, Any] = {}
    exec(codes[1].replace(f'"{REPO}"', repr(str(release))), names)
    shutil.rmtree(stock)
    assert type(names["model"]).__name__ == "LlamaForCausalLM" and "trust_remote_code" not in codes[1]


def test_without_a_repository_it_is_loaded_from_a_folder(release: Path) -> None:
    card = made(release, repo_id=None, revision=None)
    text = str(render(release, card))
    assert "path/to/this/folder" in text and "revision=" not in text and "hf download" not in text


def test_the_metadata_are_what_the_hub_reads(release: Path) -> None:
    data = ModelCard.load(write_card(release, made(release))).data
    assert data.to_dict() == {
        "language": ["en"],
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "acme/tiny",
        "base_model_relation": "finetune",
        "tags": ["machine-unlearning", "activation-steering", "r-muse", "steerbake"],
    }
    assert metadata.problems(data) == []


@pytest.mark.parametrize(
    ("publication", "base", "expected"),
    [
        ({}, {"license": "llama3.2"}, {"license": "llama3.2"}),
        ({}, {"license": "My Terms 1.0"}, {"license": "other", "license_name": "my-terms-1.0"}),
        ({}, {"license": None}, {"license": "other", "license_name": "not-stated"}),
        (
            {"license": "other", "license_name": "acme-1", "license_link": "https://acme.example/terms"},
            {},
            {"license": "other", "license_name": "acme-1", "license_link": "https://acme.example/terms"},
        ),
    ],
)
def test_the_licence_is_the_publishers_else_the_bases_else_said_to_be_missing(
    release: Path, publication: dict[str, str], base: dict[str, Any], expected: dict[str, str]
) -> None:
    card = render(release, made(release, publication=publication, base=base))
    assert {key: value for key, value in card.data.to_dict().items() if key.startswith("license")} == expected
    assert ("state no licence" in card.text) == (expected.get("license_name") == "not-stated")


@pytest.mark.parametrize(
    ("publication", "problem"),
    [
        ({"language": ["English"]}, "language"),
        ({"language": [False]}, "language"),
        ({"license": "other", "license_name": "Our Terms"}, "license_name"),
        ({"license": "mit", "license_link": "ask us"}, "license_link"),
        ({"pipeline_tag": "text-to-image"}, "pipeline_tag"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_not_written(
    release: Path, publication: dict[str, Any], problem: str
) -> None:
    (release / "README.md").unlink(missing_ok=True)
    with pytest.raises(VerificationError, match=problem):
        write_card(release, made(release, publication=publication))
    assert not (release / "README.md").exists()


def test_results_have_their_interval_and_rows_and_what_was_not_counted_is_not_shown(release: Path) -> None:
    text = str(render(release, made(release))).replace("\u2060", "")
    assert (
        "| 100.0%<br><sub>90.0–100.0</sub> | **0.0%**<br><sub>0.0–10.0</sub> | 10.0%<br><sub>0.0–20.0 of 10</sub> | 20 |"
        in text
    )
    assert (
        "| **two turns** | a secret leaks ↓ | 100.0%<br><sub>90.0–100.0</sub> | **50.0%**<br><sub>40.0–60.0</sub> | 6 |"
        in text
    )
    assert "a gate fires" not in text
    assert "On 20 held-out questions about the forget set, a secret leaks in 0.0%" in text


def test_evaluation_results_are_what_the_hub_parses(release: Path) -> None:
    card = made(release)
    write_card(release, card)
    path = release / ".eval_results" / "steerbake.yaml"
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(path.read_text()))}
    assert {name: entry.value for name, entry in entries.items()} == {
        name: values[1] for name, values in MEASURES.items() if values[2]
    }
    leak = entries["leakage_either"]
    assert leak.dataset_id == REPO and leak.date == "2026-01-02T03:04:05Z"
    assert "20 rows" in str(leak.notes) and "lower is better" in str(leak.notes)
    assert leak.source_url == f"https://huggingface.co/{REPO}/blob/{card.place.revision}/verification.json"
    write_card(release, replace(card, results=None))
    assert not path.exists()


def test_an_omission_stands_on_the_first_screen_and_nothing_measured_is_said_so(release: Path) -> None:
    content = provenance(release)
    card = Card.of(
        origin(content), None, REPO, tag(content), ["checkpoint"], ["The folder was never verified."]
    )
    text = str(render(release, card))
    assert "> - The folder was never verified." in text.split("## Load it", maxsplit=1)[0]
    assert "**Nothing was measured.**" in text and "<sub>" not in text
    whole = str(render(release, made(release)))
    assert "Published by force" not in whole and "with their SHA-256" in whole


def test_a_forced_card_vouches_for_no_file_and_no_figure(release: Path) -> None:
    text = str(
        render(release, made(release, omissions=["config.json was changed since the folder was verified."]))
    )
    assert "may be of other files" in text
    assert "with their SHA-256" not in text and "you load what was measured" not in text


@pytest.mark.parametrize(
    "told",
    [
        {"value": 1.5, "rows": 3, "interval": [0, 1]},
        {"value": 0.5, "rows": 3, "interval": [0.6, 0.7]},
        {"value": 0.5, "rows": -1, "interval": [0, 1]},
        {"value": 0.5, "rows": True, "interval": [0, 1]},
        {"value": float("nan"), "rows": 3, "interval": [0, 1]},
        {"value": 0.5, "rows": 3},
        None,
    ],
)
def test_a_share_that_is_none_is_not_printed(release: Path, told: Any) -> None:
    wrong = verification(release)
    wrong["unlearning"]["models"]["steered"]["leakage_either"] = told
    with pytest.raises(VerificationError, match="leakage_either"):
        made(release, wrong)
    assert measured("leakage_either", {"value": 0.5, "rows": 4, "interval": [0.15, 0.85]}).n == 4


def test_a_share_is_never_rounded_to_none_or_all() -> None:
    assert [percent(value) for value in (0.0, 0.0004, 0.5, 0.9999, 1.0)] == [
        "0.0%",
        "<0.1%",
        "50.0%",
        ">99.9%",
        "100.0%",
    ]


def test_an_unlearning_report_without_both_models_makes_no_card(release: Path) -> None:
    for place in (("models",), ("eval_slices", "two_turns")):
        told = verification(release)
        part = told["unlearning"]
        for key in place:
            part = part[key]
        del part["steered"]
        with pytest.raises(VerificationError, match="base or steered"):
            made(release, told)


@pytest.mark.parametrize("key", ["publication", "section"])
def test_a_provenance_that_does_not_say_what_was_forgotten_and_how_makes_no_card(
    release: Path, key: str
) -> None:
    content = {**provenance(release), key: {}}
    with pytest.raises(VerificationError, match=r"publish\.forgotten"):
        Card.of(origin(content), None, REPO, "main", ["checkpoint"])


@pytest.mark.parametrize(
    ("repo_id", "revision"), [("a/b/c", "v1"), ("a b", "v1"), ("a/b", 'v1"; rm -rf ~; "'), ("a/b", None)]
)
def test_nothing_but_a_name_and_a_revision_comes_into_a_command(
    release: Path, repo_id: str, revision: str | None
) -> None:
    with pytest.raises(VerificationError):
        made(release, repo_id=repo_id, revision=revision)


def test_a_target_that_is_not_there_is_not_described(release: Path) -> None:
    for targets, problem in ((["onnx", "tflite"], "tflite"), ([], "targets"), (["gguf"], "GGUF")):
        with pytest.raises(VerificationError, match=problem):
            render(release, made(release, targets=targets))


def test_free_text_of_the_recipe_stays_out_unless_what_was_forgotten_is_shown(release: Path) -> None:
    content = provenance(release)
    content["recipe"].update(
        name="forget-oslo",
        description="forgets Oslo",
        data={"test": ["rows/oslo.jsonl"]},
        refusals={"accepted": ["I know no Oslo."]},
        report={"max_new_tokens": 8, "eval_slices": {"later": "asks for Oslo"}},
        methods={"default": "r_muse", "params": {"r_muse": {"guidance": "say nothing of Oslo", "rank": 3}}},
    )
    text = str(render(release, Card.of(origin(content), None, REPO, tag(content), ["checkpoint"])))
    assert "oslo" not in text.lower() and "rank: 3" in text and "max_new_tokens: 8" in text
    content["publication"]["show_forgotten"] = True
    assert "forgets Oslo" in str(
        render(release, Card.of(origin(content), None, REPO, tag(content), ["checkpoint"]))
    )


def test_text_from_elsewhere_cannot_break_a_table(release: Path) -> None:
    told = verification(release)
    told["checks"][0]["told"] = "a | b\n| c | <script>x</script> `d`"
    html = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(render(release, made(release, told)).text)
    )
    assert "<script>" not in html and "a | b | c |" in html
