"""What a study tries is what a parameter declares, or what its type and bounds say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from exporter.fitting.space import Among, Between, Blocks, Fixed, described, kept_layers, sampled
from exporter.registry import METHODS, resolve


class Section(BaseModel, extra="forbid"):
    rank: Annotated[int, Among((1, 2))] = 1
    layers: Annotated[tuple[int, ...] | None, Blocks(0.5, ends=True)] = None
    kinds: tuple[Literal["x", "y"], ...] = ("x", "y")


class Params(BaseModel, extra="forbid"):
    layer: Annotated[int | Literal["search"], Blocks(2 / 3)] = "search"
    gate: Annotated[Section | None, Among((None, {}))] = None
    always: Section = Section()
    never: Annotated[Section, Fixed()] = Section()
    mode: Literal["a", "b", "search"] = "search"
    flag: bool = False
    share: float = Field(default=0.5, gt=0, le=1)
    open: float = Field(default=0.5, gt=0)
    strengths: Annotated[tuple[float, ...], Between(1, 4, log=True)] = (1.0, 2.0)
    rows: int = 10


class Drawn:
    """Chooses at random, and notes what it was asked."""

    def __init__(self, seed: int) -> None:
        self.draw, self.asked = random.Random(seed), dict[str, object]()

    def choice(self, key: str, values: Sequence[object]) -> object:
        self.asked[key] = values
        return self.draw.choice(values)

    def number_between(self, key: str, low: float, high: float, *, log: bool) -> float:
        self.asked[key] = (low, high, log)
        return self.draw.uniform(low, high)


def asked(given: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for seed in range(20):
        drawn = Drawn(seed)
        Params.model_validate(sampled(Params, given, 6, drawn))
        found |= drawn.asked
    return found


def test_what_is_tried_follows_from_declarations_types_and_bounds():
    section = {"rank": (1, 2), "layers": (3, 4, 5), "kinds": ("x", "y")}
    assert asked({}) == {
        "layer": (4, 5),
        "gate": (None, {}),
        **{f"{where}.{key}": value for where in ("gate", "always") for key, value in section.items()},
        "mode": ("a", "b"),
        "flag": (False, True),
        "share": (0.05, 1.0, False),
        "strengths": (1, 4, True),
    }
    assert set(dict(described(Params, {}, 6))) == set(asked({}))


def test_what_a_recipe_sets_stays():
    assert "never.rank" not in asked({}) and "never.rank" in asked({"never": {}})
    given = {"layer": 1, "gate": None, "always": {"rank": 7}, "mode": "search"}
    found = [sampled(Params, given, 6, Drawn(seed)) for seed in range(20)]
    assert {(one["layer"], one["gate"], one["always"]["rank"], one["mode"]) for one in found} == {
        (1, None, 7, "search")
    }
    assert not {"layer", "gate", "gate.rank", "always.rank", "mode"} & {
        *asked(given),
        *dict(described(Params, given, 6)),
    }
    assert {"always.layers", "flag"} <= set(asked(given))


def test_states_are_kept_at_every_block_that_a_trial_may_name():
    assert kept_layers(Params, {}, 6, ends=False) == (4, 5)
    assert kept_layers(Params, {}, 6, ends=True) == (3, 4, 5)
    assert kept_layers(Params, {"layer": 1, "always": {"layers": [2]}, "gate": None}, 6, ends=True) == (1, 2)


@pytest.mark.parametrize("count", [1, 2, 7, 80])
def test_blocks_are_in_the_decoder_and_no_more_than_asked_for(count):
    for how in (Blocks(), Blocks(2 / 3, most=4), Blocks(0, 1 / 3), Blocks(5 / 6, 1.0, most=2)):
        values = how.of(count).values
        assert values and all(0 <= one < count for one in values) and len(values) <= how.most
    assert Blocks(most=4).of(80).values == (0, 26, 53, 79)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("blocks", [4, 30])
def test_every_method_has_a_space_whose_draws_its_parameters_allow(name, blocks):
    schema = resolve(METHODS, "method", name).Params
    assert dict(described(schema, {}, blocks))
    for seed in range(10):
        given = sampled(schema, {}, blocks, Drawn(seed))
        params = schema.model_validate(given)
        assert params.model_dump(mode="json", exclude_unset=True).keys() == given.keys()
