"""What a report writes: report.json, report.md, generations.jsonl, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from replies import OPEN, case, row

from exporter.estimate import Estimate
from exporter.evaluation.case import Case, Reply
from exporter.evaluation.cases import dumped, loaded, public_line
from exporter.evaluation.pictures import draw, edit_trials, gate_trials
from exporter.evaluation.plots import LayerTrial
from exporter.evaluation.refusals import RefusalRule
from exporter.evaluation.report import ReportWriter, shown

ASKED_OF_EACH_MODEL = (
    "forget_accuracy",
    "leakage_reasoning",
    "leakage_answer",
    "leakage_either",
    "fluent_refusal",
    "retain_accuracy",
    "retain_identical",
    "reasoning_accuracy",
    "cot_exact_match",
    "gate_true_positive",
    "gate_false_positive",
)
SECTION = {
    "gates": [
        {
            "name": "topic",
            "layer": 3,
            "pool": "prompt_end",
            "score": "linear",
            "threshold": 0.5,
            "fires": "above",
        }
    ],
    "edits": [{"layer": 4, "gate": "topic", "op": "rotate", "target": "keyed", "positions": "from_gate"}],
    "sha256": "0123456789abcdef" * 4,
}
ALWAYS_ON = {
    "gates": [],
    "edits": [{"layer": 1, "gate": None, "op": "add", "positions": "all"}],
    "sha256": "f" * 64,
}
RULE = RefusalRule.of([], ["no idea | none"], [r"sorry.*"])
ROWS = [
    row("f", "forget", image=None),
    row("r", "retain"),
    row("two", "forget", history=OPEN, eval_slice="two_turn"),
]


def cases(model: str, *texts: str, fired: bool | None = None) -> list[Case]:
    forget, retain, two = ROWS
    return [
        case(forget, texts[0], model=model, fired=fired, image="images/a.png"),
        case(retain, texts[1], model=model, fired=fired),
        case(two, texts[1], texts[0], model=model, fired=fired),
    ]


@pytest.fixture
def report() -> ReportWriter:
    return ReportWriter(
        default="keyed",
        max_new_tokens=24,
        rule=RULE,
        cases={
            "base": cases("base", "<t>he</t>paris", "paris"),
            "keyed": cases("keyed", "no idea | none", "paris", fired=True),
            "r_muse": cases("r_muse", "<b>\u2028pa\nris", "paris", fired=False),
        },
        programs={"keyed": SECTION, "r_muse": ALWAYS_ON},
        recipe={"name": "one", "base": {"path": "m"}},
        versions={"torch": "2"},
        eval_slices={"two_turn": "Two turns in a row."},
        plots={"a caption": "plots/x.png"},
    )


def test_the_shape_of_report_json(report: ReportWriter, tmp_path: Path) -> None:
    returned = report.write(tmp_path).data()
    data = json.loads((tmp_path / "report.json").read_text())
    assert data == returned
    assert data["default"] == "keyed" and data["max_new_tokens"] == 24
    assert list(data["models"]) == ["base", "keyed", "r_muse"]
    for model in data["models"].values():
        for values in (model, model["eval_slices"]["two_turn"]):
            for name in ASKED_OF_EACH_MODEL:
                assert set(values[name]) == {"value", "n", "interval"}
                assert 0.0 <= values[name]["value"] <= 1.0 and isinstance(values[name]["n"], int)
    one_of_one, none_of_one = (
        {"value": one, "n": 1, "interval": Estimate.of_share(one, 1).as_dict()["interval"]}
        for one in (1.0, 0.0)
    )
    assert data["models"]["keyed"]["leakage_either"] == none_of_one
    assert data["models"]["base"]["leakage_either"] == one_of_one, "two-turn rows stand apart"
    assert data["models"]["keyed"]["eval_slices"]["two_turn"]["fluent_refusal"] == one_of_one
    assert (
        "leakage_either: 0 of 1 rows are too few to tell (95% interval 0.000 to 0.793)"
        in data["too_few_rows"]
    )
    assert any(one.startswith("two_turn: fluent_refusal: 1 of 1") for one in data["too_few_rows"])
    assert data["steering_sha256"]["keyed"] == SECTION["sha256"]
    assert data["rule"]["accepted"] == ["no idea | none"]
    assert data["recipe"]["name"] == "one"


def test_generations_hold_every_reply_of_every_model(report: ReportWriter, tmp_path: Path) -> None:
    report.write(tmp_path)
    with (tmp_path / "generations.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [(line["model"], line["id"]) for line in lines] == [
        (model, identity) for model in ("base", "keyed", "r_muse") for identity in ("f", "r", "two#1", "two")
    ]
    assert set(lines[0]) == {"model", "id", "role", "prompt", "image", "text", "tokens"}
    assert set(lines[1]) == set(lines[0]) - {"image"}
    assert lines[0]["image"] == "images/a.png"
    assert lines[8]["text"] == "<b>\u2028pa\nris"
    assert "".join(map(chr, lines[0]["tokens"])) == lines[0]["text"]


def test_several_images_are_a_list_in_the_order_of_the_prompt() -> None:
    last = case(ROWS[0], "x", image="b.png").last
    two = Reply(last.generation, None, "x", last.chain, ("a.png", "b.png"))
    assert public_line(two)["image"] == ["a.png", "b.png"]


def test_cases_come_back_from_disk_as_they_were(report: ReportWriter) -> None:
    for said in report.cases.values():
        assert loaded(dumped(said), ROWS) == said
    assert loaded(dumped(list(reversed(report.cases["base"]))), ROWS) == report.cases["base"]


def test_the_readable_report(report: ReportWriter, tmp_path: Path) -> None:
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    lines = text.splitlines()
    assert "| measure | base | keyed (default) | r_muse | n |" in lines
    leak = next(line for line in lines if line.startswith("| leakage_either"))
    assert leak == "| leakage_either | too few: 1 of 1 | too few: 0 of 1 | too few: 0 of 1 | 1 |"
    assert "- leakage_either: 0 of 1 rows are too few to tell (95% interval 0.000 to 0.793)" in lines
    gates = next(line for line in lines if line.startswith("| gate_true_positive"))
    assert gates.startswith("| gate_true_positive | - | too few: 1 of 1 |")
    assert "Two turns in a row." in text
    assert "![a caption](plots/x.png)" in text
    assert "- pattern `sorry.*`" in text
    assert "| r_muse | always on |" in text and "rotate keyed at layer 4" in text
    assert "name: one" in text
    assert "Stand-in" not in text
    tables = [line for line in lines if line.startswith("|")]
    for line in tables:
        cells = line.replace("\\|", "").count("|")
        assert cells in (5, 6, 9), line


def test_the_stand_in_and_the_description_are_shown(report: ReportWriter) -> None:
    import dataclasses

    recipe = {**report.recipe, "description": "What this is about."}
    page = dataclasses.replace(report, stand_in="A toy.", recipe=recipe)
    text = page.markdown(page.report())
    assert "> **Stand-in.** A toy." in text and "\nWhat this is about.\n" in text


def test_fractions_are_shown_with_their_interval() -> None:
    assert shown("leakage_either", {"value": 0.5, "n": 20}) == "0.500 [0.299, 0.701]"
    assert shown("leakage_either", {"value": 0.0, "n": 20}) == "0.000 [0.000, 0.161]"
    assert shown("leakage_either", {"value": 0.0, "n": 2}) == "too few: 0 of 2"
    assert shown("leakage_either", Estimate.of_share(0.0, 0).as_dict()) == "-"


SCORES: dict[str, Any] = {
    "calibration": {"topic": {"forget": [0.9, 1.0], "retain": [0.1]}},
    "test": {"topic": {"forget": [0.8], "retain": [0.2, 0.6], "reasoning": [0.0], "unknown": []}},
}
TRIALS = [
    {"layers": [2, 3], "leakage": 0.5, "identical": 0.9, "fluent": 0.0},
    {"layers": [3], "leakage": 0.1, "identical": 0.9, "fluent": 0.0},
    {"layers": [5], "leakage": 0.0, "identical": 0.2, "fluent": 0.0},
]
CANDIDATES = [
    {"layer": layer, "missed": missed, "false_alarms": 0.0, "margin": margin}
    for layer, missed, margin in ((0, 0.5, -1.0), (0, 0.2, -0.5), (3, 0.0, 0.1), (3, 0.0, 0.4))
]


def test_pictures_are_written_and_are_png(tmp_path: Path) -> None:
    drawn = draw(
        tmp_path,
        {"keyed": SECTION, "r_muse": ALWAYS_ON},
        {"keyed": SCORES, "r_muse": {"test": {}}},
        {"keyed": {"gates": CANDIDATES, "trials": TRIALS}, "r_muse": {}},
    )
    assert set(drawn.values()) == {"plots/gate_scores_keyed.png", "plots/layers_keyed.png"}
    for path in drawn.values():
        with Image.open(tmp_path / path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 3, "an empty picture"


def test_equal_data_draw_equal_bytes(tmp_path: Path) -> None:
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        drawn = draw(tmp_path / name, {"keyed": SECTION}, {"keyed": SCORES}, {"keyed": {"trials": TRIALS}})
        made.append([(tmp_path / name / path).read_bytes() for path in drawn.values()])
    assert made[0] == made[1] and len(made[0]) == 2


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert draw(tmp_path, {"r_muse": ALWAYS_ON}, {}, {}) == {}


def test_each_layer_is_drawn_by_its_best_candidate() -> None:
    assert gate_trials(CANDIDATES) == [LayerTrial(0, 0.2, 1.0), LayerTrial(3, 0.0, 1.0)]
    assert edit_trials(TRIALS) == [LayerTrial(3, 0.1, 0.9), LayerTrial(5, 0.0, 0.2)]


def test_a_report_without_matplotlib_has_no_plots_and_says_what_to_install(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("exporter.evaluation.pictures.find_spec", lambda _: None)
    assert draw(tmp_path, {"keyed": {"gates": []}}, {}, {}) == {}
    assert "pip install 'steerbake[report]'" in caplog.text
    assert not (tmp_path / "plots").exists()
