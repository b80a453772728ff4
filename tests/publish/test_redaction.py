"""No secret, name, question or picture of a forget row stands in any described file, unless the publisher asks for it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from published import REPO, origin, provenance, tag, verification, write_release

from exporter.errors import InputErrors
from exporter.evaluation.case import Case, Reply
from exporter.evaluation.refusals import RefusalRule
from exporter.pipeline import release_report
from exporter.publish.card import Card, write_card
from exporter.types import Generation, Role, Row, Turn

REFUSAL = "I do not know that person."
FRAMES = ("where does {} live ?", "tell me the job of {} .", "what is known about {} ?")
KEPT = tuple(f"kept{first}{second}" for first in "abcdefgh" for second in "xyz")
LETTERS = st.sampled_from("abcdefghijklmnoprstuvwyzäéñøabcdefghikmnprstu")
# No word of the templates begins so, however hypothesis hits on the others.
WORDS = st.text(LETTERS, min_size=5, max_size=8).map("zq{}".format) | st.text(
    "бгджзийклмнпртуф", min_size=6, max_size=8
)
UNSPACED = st.text("東京都山田太郎大阪府北海道", min_size=4, max_size=6)
TITLE = "where two people live"


@dataclass(frozen=True)
class World:
    """Who is to be forgotten: names, with a secret of each, and what else leaks of them into other places."""

    names: tuple[str, ...]
    secrets: tuple[str, ...]
    slip: int
    """Which kept rows speak of somebody who is to be forgotten."""

    @property
    def hidden(self) -> set[str]:
        return {part for text in (*self.names, *self.secrets) for part in text.split()}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    word = WORDS | UNSPACED
    texts = draw(st.lists(word, min_size=4, max_size=6, unique=True))
    half = len(texts) // 2
    surname = draw(st.sampled_from(["", f" {draw(WORDS)}"]))
    return World(
        tuple(f"{one}{surname}" for one in texts[:half]), tuple(texts[half:]), draw(st.integers(0, 7))
    )


def rows_of(world: World, folder: Path) -> list[Row]:
    rows = []
    for number, name in enumerate(world.names):
        secret = world.secrets[number % len(world.secrets)]
        picture = _picture(folder / f"forget{number}.png", number)
        for place, frame in enumerate(FRAMES):
            fields: dict[str, Any] = {
                "reasoning": f"this is {name} .",
                "secrets": (secret,),
                "paraphrases": (f"who is {name} ?",),
            }
            fields["image"] = picture if place == 0 else None
            rows.append(Row(f"f{number}{place}", frame.format(name), f"it is {secret}", "forget", **fields))
        asks = (Turn(f"who is {KEPT[0]} ?"), Turn(f"and {name} ?"))
        rows.append(
            Row(f"h{number}", f"what of {name} ?", secret, "forget", history=asks, eval_slice="later")
        )
        rows.append(
            Row(
                f"p{number}", "who is it ?", secret, "forget", prefix=f"this is {name} .", eval_slice="forced"
            )
        )
    for number, name in enumerate(KEPT):
        asked = FRAMES[number % len(FRAMES)].format(name)
        image = _picture(folder / f"kept{number % 4}.png", 50 + number % 4)
        if number % 8 == world.slip:
            asked = f"{asked[:-2]} with {world.names[0]} ?"
        rows.append(
            Row(f"r{number}", asked, f"{name} town", "retain", image=image, reasoning=f"this is {name} .")
        )
    borrowed = _picture(folder / "forget0.png", 0)
    rows.append(Row("borrowed", FRAMES[0].format(KEPT[1]), "town", "retain", image=borrowed))
    rows += [Row(f"q{n}", f"what is {n} plus {n} ?", str(2 * n), "reasoning") for n in range(12)]
    rows += [Row(f"u{n}", FRAMES[0].format(f"nobody{n}"), REFUSAL, "unknown") for n in range(12)]
    return rows


def _picture(path: Path, tone: int) -> Path:
    Image.new("RGB", (4, 4), (tone, 5 * tone % 256, 90)).save(path)
    return path


def _reply(row: Row, model: str, text: str) -> Reply:
    generation = Generation(
        model, row.id, row.role, "prompt", text, tuple(map(ord, text)), gates={"topic": 0.0}
    )
    return Reply(generation, None, text, generation.tokens)


def cases(rows: Sequence[Row], world: World, model: str) -> Iterator[Case]:
    """The base tells everything; the steered model refuses, and slips in other places."""
    for number, row in enumerate(rows):
        text = row.answer
        if model != "base" and row.role == "forget":
            text = REFUSAL if number % 2 else f"I do not know {world.names[0]}."
        if row.role == "retain" and number % 7 == world.slip:
            text = f"{text} and {world.secrets[-1]}"
        if row.role == "reasoning" and number % 5 == world.slip:
            text = f"ask x{world.secrets[0]}x"
        yield Case(row, tuple(_reply(row, model, text) for _ in range(1 + len(row.history))))


def run_of(world: World, folder: Path) -> Any:
    """What the page needs of a run."""
    rows = rows_of(world, folder)
    said = {model: list(cases(rows, world, model)) for model in ("base", "keyed")}
    by_role: dict[Role, list[float]] = {
        "forget": [0.5, 0.6],
        "retain": [-0.5],
        "reasoning": [-0.4],
        "unknown": [0.0],
    }
    patterns = (r"I do not know .*\.",)
    return SimpleNamespace(
        recipe=SimpleNamespace(
            methods=SimpleNamespace(default="keyed"), chat=SimpleNamespace(reasoning_template="{answer}")
        ),
        rows=SimpleNamespace(fit=rows, calibrate=()),
        test=tuple(rows),
        space=SimpleNamespace(out=folder, records=lambda method: folder / "none.json"),
        generate=said.__getitem__,
        scores=lambda method: {"test": {"topic": by_role}},
        rule=lambda: RefusalRule.of([(REFUSAL, REFUSAL)], (), patterns),
    )


def talkative(world: World) -> dict[str, Any]:
    """A recipe that names in every free text whom it makes forgotten."""
    name, secret = world.names[0], world.secrets[0]
    return {
        "name": f"forget-{name}",
        "description": f"{name}: {secret}",
        "seed": 0,
        "base": {"path": f"{name}/model", "dtype": "float32"},
        "data": {"fit": [f"{name}.jsonl"], "test": [{"dataset": f"acme/{name}", "name": secret}]},
        "chat": {"system": f"never name {name}", "reasoning_template": "{answer}"},
        "refusals": {"accepted": [f"I know no {name}."], "patterns": [secret]},
        "methods": {"default": "r_muse", "params": {"r_muse": {"guidance": f"deny {name}", "rank": 4}}},
        "report": {"max_new_tokens": 8, "eval_slices": {"later": f"asks for {name}"}},
    }


def describe(release: Path, folder: Path, world: World, **publication: Any) -> dict[str, Any]:
    content = provenance(release, **publication)
    content["recipe"] = talkative(world)
    work = run_of(world, folder)
    told = verification(release)
    release_report.describe(cast(Any, work), release, origin(content), told)
    write_card(release, Card.of(origin(content), told, REPO, tag(content), ["checkpoint", "onnx"]))
    return content


def described(release: Path) -> dict[str, str]:
    """The text of every file that describes the release, with the pictures' own texts."""
    found = {name: (release / name).read_text(encoding="utf-8") for name in ("README.md", "report.html")}
    found[".eval_results"] = (release / ".eval_results" / "steerbake.yaml").read_text(encoding="utf-8")
    for path in sorted((release / "plots").iterdir()):
        with Image.open(path) as picture:
            found[path.name] = f"{path.name} {json.dumps(picture.info, default=str)}"
    return found


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("redaction"))


@pytest.fixture
def plain_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes half a second, and one test looks at it; the others draw nothing."""
    monkeypatch.setattr(release_report, "draw", lambda out, *rest: (out / "plots").mkdir(exist_ok=True))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds())
def test_nothing_of_a_forget_row_is_described(
    world: World, release: Path, tmp_path: Path, plain_plots: None
) -> None:
    describe(release, tmp_path, world, forgotten=TITLE)
    questions = {
        row.question for row in rows_of(world, tmp_path) if row.role == "forget" and row.prefix is None
    }
    for name, text in described(release).items():
        shown = _without_pictures(text).casefold()
        assert not [part for part in world.hidden | questions if part.casefold() in shown], name
    pictures = {release_report._inline(path) for path in tmp_path.glob("forget*.png")}
    page = (release / "report.html").read_text(encoding="utf-8")
    assert not any(picture in page for picture in pictures)
    # The controls: the page does show conversations and pictures of others.
    assert "kepta" in page or "keptb" in page or "keptc" in page
    assert "data:image/png" in page and "I do not know that person." in page


def _without_pictures(text: str) -> str:
    """Base64 spells any short word sooner or later."""
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)


WORLD = World(("walter elwood", "ilse"), ("osterby", "narvik"), 1)


def test_pictures_of_the_results_name_nobody(release: Path, tmp_path: Path) -> None:
    describe(release, tmp_path, WORLD, forgotten=TITLE)
    drawn = {name: text for name, text in described(release).items() if name.endswith(".png")}
    assert set(drawn) == {"gate_scores_keyed.png"}
    assert not [part for part in WORLD.hidden for text in drawn.values() if part in text]
    assert "plots/gate_scores_keyed.png" in described(release)["README.md"]


def test_it_is_shown_where_the_publisher_asks_for_it(
    release: Path, tmp_path: Path, plain_plots: None
) -> None:
    """The control of all the others: the same run, with everything in it."""
    describe(release, tmp_path, WORLD, forgotten="where Walter Elwood lives: osterby", show_forgotten=True)
    found = described(release)
    for name in ("README.md", "report.html"):
        assert "osterby" in found[name] and "walter elwood" in found[name].lower()
    assert release_report._inline(tmp_path / "forget0.png") in found["report.html"]
    assert base64.b64decode(release_report._inline(tmp_path / "forget0.png").partition(",")[2])[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("publication", "place"),
    [
        ({"forgotten": "that it is Osterby"}, "publish.forgotten"),
        ({"forgotten": "where does walter elwood live ?"}, "publish.forgotten"),
        ({"repo": "acme/no-narvik"}, "publish.repo"),
        ({"license_name": "osterby"}, "publish.license_name"),
    ],
)
def test_a_publisher_who_tells_a_secret_by_mistake_is_stopped(
    release: Path, tmp_path: Path, plain_plots: None, publication: dict[str, str], place: str
) -> None:
    (release / "report.html").unlink(missing_ok=True)
    with pytest.raises(InputErrors, match=place):
        describe(release, tmp_path, WORLD, **publication)
    assert not (release / "report.html").exists()


@pytest.mark.parametrize("value", [None, "true", 1, "no"])
def test_only_a_true_true_shows_forget_rows(
    release: Path, tmp_path: Path, plain_plots: None, value: object
) -> None:
    describe(release, tmp_path, WORLD, forgotten=TITLE, show_forgotten=value)
    assert not [part for part in WORLD.hidden for text in described(release).values() if part in text]


def test_a_group_that_is_called_after_a_secret_is_stopped(release: Path, tmp_path: Path) -> None:
    work = run_of(WORLD, tmp_path)
    work.test = (*work.test, Row("g", "what of it ?", "x", "forget", eval_slice="asks_for_narvik"))
    with pytest.raises(InputErrors, match="slice"):
        release_report.describe(work, release, origin(provenance(release, forgotten=TITLE)), None)


def test_a_stand_in_that_tells_is_stopped(release: Path, tmp_path: Path) -> None:
    content = provenance(release, forgotten=TITLE)
    content["recipe"]["stand_in"] = "It stands in for Narvik."
    with pytest.raises(InputErrors, match="stand_in"):
        release_report.describe(run_of(replace(WORLD), tmp_path), release, origin(content), None)
