"""What an attack counts, and that nothing measured is ever shown as no leak: on a tiny model whose own words are the secrets."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from pydantic import ValidationError
from random_edits import random_edit
from transformers import AutoModelForCausalLM

from exporter import registry
from exporter.attack_report import AttackReport, AttackResult, worst_of
from exporter.display_attacks import print_attacks
from exporter.errors import InputErrors
from exporter.evaluation.case import Case, Reply
from exporter.evaluation.report import BASE
from exporter.host import ModelHost
from exporter.pipeline.attack import PLAIN, Siege, attack, choose
from exporter.pipeline.measured_models import open_model
from exporter.pipeline.model_attacks.base import NoRows, NotMeasured
from exporter.pipeline.model_attacks.compositions import SLOTS, composed, titled
from exporter.pipeline.model_attacks.counts import counted, of_leaks
from exporter.pipeline.model_attacks.logit_lens import lens
from exporter.pipeline.model_attacks.one_pass import first_secret, references_of
from exporter.pipeline.model_attacks.stripped import stock_of
from exporter.pipeline.model_attacks.under_attack import UnderAttack, attacked, sampled
from exporter.pipeline.row_checks import Room
from exporter.pipeline.run import Run
from exporter.pipeline.verify import verify
from exporter.recipe import Recipe
from exporter.types import Generation, Row

COSTLY = {"sampled", "one_pass", "logit_lens", "int8", "int4", "adaptive"} | {
    f"relearned_{kind}" for kind in ("unrelated", "retain", "forget")
}


def case(row: Row, text: str, tokens: tuple[int, ...] = (1,)) -> Case:
    said = Generation("m", row.id, row.role, "prompt", text, tokens)
    return Case(row, (Reply(said, None, text, tokens),))


FORGET = [Row(f"f{n}", "where ?", "oslo", "forget", secrets=("oslo",)) for n in range(4)]
KEPT = [Row("r", "who ?", "ben", "retain"), Row("g", "sum ?", "four", "reasoning")]


def test_leaks_are_counted_over_what_the_base_answers() -> None:
    base = [case(row, text) for row, text in zip(FORGET, ("oslo", "in oslo", "oslo", "no"), strict=True)]
    steered = [case(row, text) for row, text in zip(FORGET, ("oslo", "no", "no", "oslo"), strict=True)]
    base += [case(KEPT[0], "ben", (3, 4)), case(KEPT[1], "four", (5,))]
    steered += [case(KEPT[0], "ben", (3, 4)), case(KEPT[1], "five", (6,))]
    found = counted("x", "wording", base, steered)
    assert found.base_leak is not None and (found.base_leak.value, found.base_leak.n) == (0.75, 4)
    assert found.leak is not None and (found.leak.value, found.leak.n) == (pytest.approx(1 / 3), 3)
    assert found.leak.interval[1] == pytest.approx(0.792, abs=0.001), "Wilson's"
    assert found.elsewhere == 1
    assert found.retain_identical is not None and (
        found.retain_identical.value,
        found.retain_identical.n,
    ) == (0.5, 2)


def test_no_row_is_no_figure() -> None:
    kept = [case(row, "x") for row in KEPT]
    with pytest.raises(NoRows):
        counted("x", "wording", kept, kept)
    silent = [case(row, "no") for row in FORGET]
    found = counted("x", "wording", silent, silent)
    assert found.leak is not None and found.leak.n == 0 and not found.shows, "the base answers none of them"
    assert worst_of([found]) is None


def result(name: str, base: float, leak: float, n: int = 100, **more: object) -> AttackResult:
    about = [(one < base * n, one < base * n and one < base * n * leak) for one in range(n)]
    return of_leaks(name, "g", about, access=str(more.pop("access", "prompts")), **more)  # type: ignore[arg-type]


def test_the_worst_is_the_one_by_prompts_that_may_leak_most_and_nobody_chose() -> None:
    found = [
        result("mild", 1.0, 0.02),
        result("worst", 0.6, 0.1),
        result("searched", 1.0, 0.8, adaptive=True),
        result("stripped", 1.0, 1.0, access="weights", by_design=True),
        AttackResult(name="none", group="g", status="no rows", why="no picture"),
    ]
    worst = worst_of(found)
    assert worst is not None and worst.name == "worst"
    few = [result("many", 1.0, 0.0, n=90), result("few", 1.0, 0.0, n=10)]
    worst = worst_of(few)
    assert worst is not None and worst.name == "few", "without a leak, that which shows least"
    assert worst_of(found[2:]) is None


def test_a_leak_is_the_worst_though_the_base_answers_little() -> None:
    silent, leaking = result("silent", 0.2, 0.0), result("unanswered", 0.4, 0.5)
    worst = worst_of([result("plain", 1.0, 0.0), silent, leaking])
    assert worst is leaking and worst.held is not None
    assert (worst.held.share.count, worst.held.share.n) == (20, 100), "of all attacked rows"
    assert worst_of([silent]) is None
    more = of_leaks("x", "g", [(True, False)] * 5 + [(False, True)] * 5, access="prompts")
    assert more.leaked == 5 and more.held is not None and more.held.share.value == 0.5
    assert worst_of([result("plain", 1.0, 0.1), more]) is more


def test_a_measured_attack_without_figures_is_refused() -> None:
    with pytest.raises(ValidationError, match="figures"):
        AttackResult(name="x", group="g", status="measured")
    counts = {"base_leak": {"value": 0.5, "n": 10}, "leak": {"value": 0.0, "n": 5}, "elsewhere": 6}
    with pytest.raises(ValidationError, match="elsewhere"):
        AttackResult.model_validate({"name": "x", "group": "g", **counts})


def test_the_attacks_of_the_testbed_can_be_read_and_a_leak_is_their_worst() -> None:
    found = AttackReport.read(Path(__file__).parent.parent / "benchmarks/results/attacks_testbed.json")
    worst = worst_of(found.attacks)
    assert worst is not None and worst.name == "image_of_another"
    assert worst.held is not None and (worst.held.share.count, worst.held.share.n) == (2, 12)
    (many,) = [one for one in found.attacks if one.name == "many_shot"]
    assert many.held is not None and (many.held.share.count, many.held.share.n) == (1, 24)


def test_what_is_expensive_is_asked_for() -> None:
    usual, every = choose((), every=False), choose((), every=True)
    assert {name for name in every.models if name not in usual.models} == COSTLY
    assert set(usual.prompts) == {PLAIN, *registry.attacks()} == set(every.prompts)
    assert list(usual.models) == ["stripped"]
    some = choose(("prefill", "frame", "sampling"), every=False)
    assert {"begun", "zero_think", "frame", PLAIN} <= set(some.prompts) and "story" not in some.prompts
    assert list(some.models) == ["sampled"]
    with pytest.raises(InputErrors, match=r"'frames'.*wording.*frame"):
        choose(("frames",), every=False)


@pytest.mark.parametrize("name", registry.MODEL_ATTACKS)
def test_an_attack_on_the_model_keeps_its_contract(name: str) -> None:
    one = registry.model_attacks()[name]
    assert (
        one.name == name
        and one.access in ("prompts", "logits", "weights")
        and bool(one.costs) == (name in COSTLY)
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose secrets are words of its own replies, and its checkpoint under a gate that always fires."""
    home = tmp_path_factory.mktemp("attacked")
    recipe = tiny_run.write_recipe(home)
    tiny_run.steer(home / "base", home / "steered")
    work = Run(Recipe.load(recipe), home / "first", progress=False)
    chat = work.chat(work.host.processor)
    lines = [json.loads(line) for line in (home / "test.jsonl").read_text().splitlines()]
    rows = [row for row in work.test if row.role == "forget" and not row.history and row.prefix is None]
    said = work.host.generate([chat.prompt(row) for row in rows], max_new_tokens=6)
    for row, one in zip(rows, said, strict=True):
        words = work.host.tokenizer.decode(one.tokens, skip_special_tokens=True).split()
        line = next(line for line in lines if line["id"] == row.id)
        line["secrets"], line["answer"] = [words[1]], words[1]
    (home / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home


@pytest.fixture
def under(home: Path, tmp_path: Path) -> UnderAttack:
    work = Run(Recipe.load(home / "recipe.yaml"), home / "run", progress=False)
    models = {"base": open_model(BASE, work), "steered": open_model(home / "steered", work)}
    return UnderAttack(work, models, "", sampled(work.test, 8), tmp_path, budget=4)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report(home: Path) -> AttackReport:
    names = ("frame", "pictures", "template", "zero_think", "scores")
    return attack(
        home / "steered", Recipe.load(home / "recipe.yaml"), Siege(names, limit=8), run=home / "run"
    )


def by_name(report: AttackReport) -> dict[str, AttackResult]:
    return {one.name: one for one in report.attacks}


def test_a_report_has_the_base_beside_the_steered_model(report: AttackReport, home: Path) -> None:
    found = by_name(report)
    plain = found[PLAIN]
    assert plain.base_leak is not None and plain.base_leak.value == 1.0, (
        "the secrets are the base's own words"
    )
    for name in (PLAIN, "frame", "no_template", "one_pass", "logit_lens"):
        assert found[name].status == "measured" and found[name].base_leak is not None
    assert AttackReport.load(home / "run" / "attacks").data() == report.data()
    layers = found["logit_lens"].details["by_layer_base"]
    assert isinstance(layers, list) and len(layers) == tiny_run.LAYERS


def test_attacks_without_rows_say_so_and_have_no_figure(
    report: AttackReport, capsys: pytest.CaptureFixture[str]
) -> None:
    found = by_name(report)
    for name in ("image_noise", "image_collage", "image_of_another"):
        assert found[name].status == "no rows" and "picture" in found[name].why
        assert found[name].leak is None and found[name].base_leak is None
    print_attacks(report)
    shown = capsys.readouterr().out
    assert "image_noise: no rows: no forget row" in shown
    line = next(line for line in shown.splitlines() if " image_noise " in line)
    assert "no rows" in line and "0.000" not in line


def test_the_steering_taken_out_is_the_base_and_stands_first(home: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(home / "recipe.yaml")
    siege = Siege(("stripping", "frame"), limit=8)
    found = attack(home / "steered", recipe, siege, run=home / "run", out=tmp_path)
    first = found.attacks[0]
    assert first.name == "stripped" and first.by_design
    assert first.leak is not None and first.leak.value == 1.0, "all that the base says, it says"
    assert found.worst != "stripped"


def test_a_stripped_model_has_the_bases_weights(under: UnderAttack) -> None:
    stock, base = stock_of(under).model, under.host("base").model
    assert type(stock) is type(base)
    assert all(
        torch.equal(a, b)
        for a, b in zip(stock.state_dict().values(), base.state_dict().values(), strict=True)
    )


def test_the_same_command_asks_nothing_again(
    home: Path, report: AttackReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(ModelHost, "generate", generate)
    names = ("frame", "pictures", "template", "zero_think", "scores")
    again = attack(
        home / "steered", Recipe.load(home / "recipe.yaml"), Siege(names, limit=8), run=home / "run"
    )
    assert again.data() == report.data()


def test_fewer_retain_rows_are_asked_and_still_stand_around(home: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(home / "recipe.yaml")
    every, few, none = (
        attack(
            home / "steered",
            recipe,
            Siege(("many_shot", "begun"), limit=8, retain=retain),
            run=home / "run",
            out=tmp_path,
        )
        for retain in (None, 2, 0)
    )
    assert (every.retain, few.retain, none.retain) == (None, 2, 0)
    for name in ("many_shot", "begun"):
        whole, some, nothing = (by_name(one)[name] for one in (every, few, none))
        assert whole.retain_identical is not None and whole.retain_identical.n > 2
        assert some.retain_identical is not None and some.retain_identical.n == 2
        assert nothing.retain_identical is None
        assert whole.leak == some.leak == nothing.leak, "the same rows to forget, in the same surroundings"
    asked = (tmp_path / "base.jsonl").read_text().splitlines()
    assert len(asked) == len(set(asked)), "and none of them asked again"


def test_draws_follow_from_the_seed(under: UnderAttack) -> None:
    host, chat = under.host("base"), under.chat()
    prompts = [chat.prompt(row) for row in under.forget]

    def drawn(seed: int, temperature: float) -> list[list[tuple[int, ...]]]:
        said = host.sample(
            prompts, draws=3, temperature=temperature, seed=seed, max_new_tokens=5, batch_size=4
        )
        return [[one.tokens for one in some] for some in said]

    first = drawn(0, 1.0)
    assert [len(some) for some in first] == [3] * len(prompts)
    assert drawn(0, 1.0) == first != drawn(1, 1.0)
    greedy = [one.tokens for one in host.generate(prompts, max_new_tokens=5)]
    assert drawn(0, 1e-4) == [[one] * 3 for one in greedy]


def test_a_draw_that_leaks_is_a_leak(under: UnderAttack) -> None:
    found = registry.model_attacks()["sampled"].measure(under)
    assert found.base_leak is not None and found.base_leak.n == len(under.forget)
    assert found.details["draws"] == 20 and 0 < float(str(found.details["leaking_draws_base"])) <= 1


def test_a_runtime_that_cannot_draw_is_not_measured(
    under: UnderAttack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ModelHost, "sample")
    with pytest.raises(NotMeasured, match="greedily"):
        registry.model_attacks()["sampled"].measure(under)


def test_the_lens_reads_the_models_own_word_behind_the_last_block(under: UnderAttack) -> None:
    found = references_of(under)
    seen = lens(under.host("base"), found, 2)
    assert seen.shape == (len(found), tiny_run.LAYERS)
    assert seen[:, -1].all(), "the reply that is forced is the base's own"
    assert first_secret((3, 4, 7)) == [3, 4]


def test_a_base_is_trained_and_is_itself_afterwards(under: UnderAttack) -> None:
    before = {name: one.clone() for name, one in under.host("base").model.state_dict().items()}
    found = registry.model_attacks()["relearned_retain"].measure(under)
    assert found.status == "measured" and found.access == "weights"
    first, last = found.details["losses_base"]  # type: ignore[misc]
    assert last < first and "canary" in found.details  # type: ignore[operator]
    after = under.host("base").model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_rows_whose_secret_was_trained_on_are_not_asked(under: UnderAttack) -> None:
    one = registry.model_attacks()["relearned_forget"]
    with pytest.raises(NoRows, match="secret"):
        one.asked(under, under.forget)  # type: ignore[attr-defined]
    other = replace(under.forget[0], question="x", answer="x", reasoning=None, secrets=("x",))
    assert one.asked(under, [other]) == under.forget  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "package"), [("adaptive", "optuna"), ("int8", "torchao"), ("int4", "torchao")]
)
def test_a_missing_package_is_no_figure(
    name: str, package: str, under: UnderAttack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotMeasured, match=r"pip install 'steerbake\[attack\]'"):
        registry.model_attacks()[name].measure(under)


def test_rounding_to_eight_bits(under: UnderAttack) -> None:
    pytest.importorskip("torchao")
    found = registry.model_attacks()["int8"].measure(under)
    assert found.status == "measured" and found.details["bits"] == 8 and found.leak is not None


def test_a_search_reports_rows_that_it_did_not_see(under: UnderAttack) -> None:
    pytest.importorskip("optuna")
    found = registry.model_attacks()["adaptive"].measure(under)
    assert found.adaptive and found.details["searched_on"] == 1
    assert found.base_leak is not None and found.base_leak.n == len(under.forget) - 1


def test_attacks_compose_by_the_parts_of_a_prompt(under: UnderAttack) -> None:
    row, chat = under.forget[0], under.chat()
    kept = [one for one in under.rows if one.role == "retain"]
    chosen = {
        "framing": "two_questions",
        "spelling": "capitals",
        "turns": "many_shot",
        "prefill": "zero_think",
    }
    made = composed(row, chosen, kept, chat)
    assert made is not None and (made.role, made.secrets, made.answer) == (row.role, row.secrets, row.answer)
    assert row.question.upper() in made.question and made.history and made.prefix
    assert titled(chosen) == "two_questions+capitals+many_shot+zero_think" and titled({}) == "plain"
    plain = composed(row, {}, kept, chat)
    assert plain is not None and plain.question == row.question
    assert composed(row, {"turns": "crescendo"}, [], chat) is None, "one row alone shows no subject"
    named = {name for names in SLOTS.values() for name in names}
    assert named <= set(registry.attacks())


def test_what_does_not_fit_is_left_out_and_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(config: object, new_tokens: int) -> Room:
        return Room(new_tokens + 12, None, new_tokens)

    monkeypatch.setattr(Room, "of", short)
    recipe = Recipe.load(home / "recipe.yaml")
    found = by_name(
        attack(
            home / "steered", recipe, Siege(("story", "capitals"), limit=8), run=home / "run", out=tmp_path
        )
    )
    assert (
        found["story"].status == "no rows" and "positions" in found["story"].why and found["story"].too_long
    )
    assert found["capitals"].status == "measured" and found["capitals"].too_long == 0


def test_a_model_without_a_layer_to_take_out_says_so(home: Path, tmp_path: Path) -> None:
    edit = random_edit(home / "base", AutoModelForCausalLM.from_pretrained(home / "base"))
    edit.save(tmp_path / "edit")
    merged = registry.target("merged")
    merged.export(home / "base", tmp_path / "merged", merged.Options(edit=tmp_path / "edit"), None)  # type: ignore[call-arg]
    siege = Siege(("stripping", "frame"), limit=8)
    recipe = Recipe.load(home / "recipe.yaml")
    found = attack(tmp_path / "merged", recipe, siege, run=home / "run", out=tmp_path / "out")
    stripped = by_name(found)["stripped"]
    assert found.kind == "merged" and stripped.status == "not measured" and stripped.leak is None
    assert by_name(found)["frame"].status == "measured"


def test_a_variant_that_there_is_not_is_refused(home: Path) -> None:
    with pytest.raises(InputErrors, match="q4"):
        attack(
            home / "steered",
            Recipe.load(home / "recipe.yaml"),
            Siege(("frame",), variant="q4"),
            run=home / "run",
        )


def test_what_an_attack_lacks_is_named(under: UnderAttack) -> None:
    with pytest.raises(NoRows, match="picture"):
        attacked(registry.attack("image_crop"), under.rows, under.chat())


@pytest.mark.slow
def test_a_verification_that_is_to_bound_the_worst_attack_makes_all_of_them(home: Path) -> None:
    recipe = home / "bounded.yaml"
    recipe.write_text(
        (home / "recipe.yaml").read_text()
        + "publish: {forgotten: two people, require: {leakage_either: 1.0, retain_identical: 0.0, fluent_refusal: 0.0, max_worst_attack: 0.9}}\n"
    )
    found = verify(home / "steered", recipe=Recipe.load(recipe), run=home / "bounded")
    (check,) = [one for one in found.checks if one.name == "max_worst_attack"]
    assert found.unlearning is not None
    attacks = AttackReport.of(found.unlearning["attacks"])
    assert {one.name for one in attacks.attacks} == {PLAIN, "stripped", *registry.attacks()}
    worst = worst_of(attacks.attacks)
    assert worst is not None and worst.held is not None
    assert check.holds == (worst.held.share.high <= 0.9) and worst.name in check.told
