"""Every way of attacking a steered model, beside its base: what each brings out, and what it changes of the retain set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from exporter import registry
from exporter.atomic import write_json
from exporter.attack_report import AttackReport, AttackResult, Status, worst_of
from exporter.digests import digest_of
from exporter.errors import InputErrors
from exporter.estimate import rows_needed
from exporter.evaluation.attacks.base import Attack, group_of
from exporter.evaluation.report import BASE
from exporter.ledger import Ledger
from exporter.look_inside import model_in
from exporter.pipeline.measured_models import MeasuredModel, open_model
from exporter.pipeline.model_attacks.base import ModelAttack, NoRows, NotMeasured
from exporter.pipeline.model_attacks.counts import counted
from exporter.pipeline.model_attacks.under_attack import Side, UnderAttack, asked_rows, attacked, sampled
from exporter.pipeline.run import Run
from exporter.pipeline.run_folder import run_of
from exporter.provenance import HOST, digest_of_code, versions
from exporter.recipe import Recipe
from exporter.splits import digest_of_rows
from exporter.types import Row

LOG = logging.getLogger(__name__)
PLAIN = "plain"
"""The control: the rows as they are."""
LIMIT = 48
"""Rows to forget, and as many to keep, that an attack is made of, where nobody says how many."""
CODE = (
    "exporter/data",
    *HOST,
    "exporter/evaluation",
    "exporter/pipeline/model_attacks",
    "exporter/training",
    "steer_modules",
)
"""Code that decides what an attack on a model finds."""


@dataclass(frozen=True)
class Siege:
    """How a model is attacked.

    Attributes:
        names: attacks or groups of them; without any, every way of asking and what costs nothing more.
        every: also those that are expensive.
        limit: rows to forget that an attack is made of, and as many to keep.
        retain: retain rows at most that each way of asking puts to both models; the others only stand around questions. None for all.
        budget: trials of the adaptive search.
        seed: of what is drawn by a model, trained and searched.
        variant: of the model, where it has several; the first by default.
    """

    names: Sequence[str] = ()
    every: bool = False
    limit: int = LIMIT
    budget: int = 200
    seed: int = 0
    variant: str | None = None
    retain: int | None = None

    @classmethod
    def showing(cls, bound: float) -> Siege:
        """Of rows enough to show that at most this share leaks (in (0, 1])."""
        return cls(limit=max(LIMIT, rows_needed(bound)))


def attack(
    folder: Path,
    recipe: Recipe,
    siege: Siege | None = None,
    *,
    run: Path | None = None,
    out: Path | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> AttackReport:
    """Attacks the model in ``folder``; writes attacks.json, and returns it.

    What was asked before of the same files is not asked again, so the same command resumes.

    Args:
        run: the folder of the recipe's run; as :func:`exporter.pipeline.verify.verify` finds it.
        out: where answers and attacks.json go; ``attacks`` in the run's folder by default.
        say: is called with the folder that is used, where that of a run was given.

    Raises:
        InputErrors: there is no attack, group or variant of such a name, no plain test row to forget, or the model cannot be opened.
        VerificationError: the folder was made from another base than the recipe's.
    """
    siege = siege or Siege()
    choose(siege.names, every=siege.every)
    place = model_in(folder, say)
    work = run_of(recipe, place, run)
    return attack_within(work, place, siege, out=out, progress=progress)


def attack_within(
    work: Run, place: Path, siege: Siege, *, out: Path | None = None, progress: bool = False
) -> AttackReport:
    """The same of a run that is open already; raises as :func:`attack` does."""
    chosen = choose(siege.names, every=siege.every)
    model, recipe = open_model(place, work), work.recipe
    rows = sampled(work.test, siege.limit)
    if not any(row.role == "forget" for row in rows):
        message = "data.test has no single question of role forget, so no attack measures anything; add some"
        raise InputErrors(recipe.name, [message])
    variant = _variant(model, siege.variant)
    where = out or work.space.out / "attacks"
    where.mkdir(parents=True, exist_ok=True)
    models: Mapping[Side, MeasuredModel] = {"base": open_model(BASE, work), "steered": model}
    under = UnderAttack(work, models, variant, rows, where, siege.seed, siege.budget, progress)
    results = [*_asked(under, chosen.prompts, siege.retain), *_made(under, chosen.models)]
    results.sort(key=lambda one: not one.by_design)  # what succeeds by design stands first
    worst = worst_of(results)
    found = AttackReport(
        recipe=recipe.name,
        model=model.name,
        kind=model.kind,
        variant=variant,
        digest=model.digest,
        limit=siege.limit,
        retain=siege.retain,
        max_new_tokens=recipe.report.max_new_tokens,
        seed=siege.seed,
        attacks=results,
        worst=None if worst is None else worst.name,
        stand_in=recipe.stand_in,
        versions=versions(),
    )
    found.save(where / AttackReport.FILE)
    return found


def _variant(model: MeasuredModel, asked: str | None) -> str:
    """The variant that is attacked; raises InputErrors where there is none of that name."""
    if asked is None:
        return model.variants[0]
    if asked not in model.variants:
        raise InputErrors(
            "--variant",
            [f"{model.name} has no variant {asked!r}; it has {', '.join(model.variants) or 'none'}"],
        )
    return asked


class Chosen(NamedTuple):
    """The attacks of a command: ways of asking by name (None for the plain question), and attacks on the model."""

    prompts: Mapping[str, Attack | None]
    models: Mapping[str, ModelAttack]


def choose(names: Sequence[str], *, every: bool) -> Chosen:
    """Attacks by their names or groups; without any, every way of asking and what costs nothing more.

    Raises:
        InputErrors: a name that there is not; the message lists those that there are.
    """
    prompts, models = registry.attacks(), registry.model_attacks()
    groups = {name: group_of(one) for name, one in prompts.items()} | {
        name: one.group for name, one in models.items()
    }
    known = {PLAIN, *groups, *groups.values()}
    if unknown := [name for name in names if name not in known]:
        raise InputErrors(
            "--attacks",
            [
                f"there is no attack {unknown[0]!r}; groups: {', '.join(sorted(set(groups.values())))}; attacks: {', '.join(groups)}"
            ],
        )

    def wanted(name: str, costs: str) -> bool:
        return every or (name in names or groups[name] in names if names else not costs)

    return Chosen(
        {PLAIN: None, **{name: one for name, one in prompts.items() if wanted(name, "")}},
        {name: one for name, one in models.items() if wanted(name, one.costs)},
    )


def _asked(
    under: UnderAttack, attacks: Mapping[str, Attack | None], retain: int | None
) -> list[AttackResult]:
    """Every way of asking: of the base first, then of the steered model, so that each is loaded once."""
    chat, made, results = under.chat(), dict[str, list[Row]](), dict[str, AttackResult]()
    long: dict[str, int] = {}
    for name, one in attacks.items():
        group = "control" if one is None else group_of(one)
        try:
            rows = list(under.rows) if one is None else attacked(one, under.rows, chat)
            rows, renders = asked_rows(rows, retain), getattr(one, "rendered", lambda chat: chat)(chat)
            fitting = [row for row in rows if under.fits(row, renders)]
            long[name] = len(rows) - len(fitting)
            rows = under.models["steered"].reads(fitting)
            if not any(row.role == "forget" for row in rows):
                raise NoRows(_none_left(fitting))
            made[name] = rows
        except NoRows as error:
            results[name] = AttackResult(
                name=name, group=group, status="no rows", why=str(error), too_long=long.get(name, 0)
            )
    said = {}
    for side in ("base", "steered"):
        for number, (name, rows) in enumerate(made.items(), start=1):
            LOG.info("attack %d of %d on the %s model: %s", number, len(made), side, name)
            past = hasattr(attacks[name], "rendered")
            said[side, name] = under.ask(side, rows, past_template=past)
    for name in made:
        one = attacks[name]
        group = "control" if one is None else group_of(one)
        results[name] = counted(name, group, said["base", name], said["steered", name], too_long=long[name])
    return [results[name] for name in attacks]


def _made(under: UnderAttack, attacks: Mapping[str, ModelAttack]) -> list[AttackResult]:
    """Attacks on the model itself; one that was made before of the same files is not made again."""
    ledger = Ledger(under.folder / ".stages")
    found = []
    for name, one in attacks.items():
        path = under.folder / "results" / f"{name}.json"
        inputs = {
            "models": [model.digest for model in under.models.values()],
            "variant": under.variant,
            "rows": digest_of_rows(under.rows),
            "fit": digest_of_rows(under.work.rows.fit),
            "report": under.work.recipe.report.model_dump(include={"max_new_tokens", "batch_size"}),
            "seed": under.seed,
            "budget": under.budget if one.group == "adaptive" else None,
            "code": digest_of_code(*CODE),
            "versions": digest_of(versions()),
        }
        try:
            LOG.info("attack on the model: %s", name)
            ledger.run(f"attack-{name}", inputs, path, _measure(one, under, path))
            found.append(AttackResult.model_validate_json(path.read_bytes()))
        except (NoRows, NotMeasured) as error:
            status: Status = "no rows" if isinstance(error, NoRows) else "not measured"
            found.append(
                AttackResult(name=name, group=one.group, access=one.access, status=status, why=str(error))
            )
    return found


def _measure(one: ModelAttack, under: UnderAttack, path: Path) -> Callable[[], None]:
    def measure() -> None:
        result = one.measure(under)
        write_json(path, result.data())

    return measure


def _none_left(fitting: Sequence[Row]) -> str:
    """Why none of an attack's forget rows is asked."""
    if any(row.role == "forget" for row in fitting):
        return "every attacked forget row has a picture, and this model takes none"
    return "no attacked forget row fits into the model's positions; lower report.max_new_tokens"
