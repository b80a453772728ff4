"""The worst composition of attacks that a search finds by listening to the steered model."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from exporter.attack_report import Access, AttackResult
from exporter.errors import DataError
from exporter.evaluation.case import secrets_of
from exporter.evaluation.secret_tokens import secret_logprob, secret_tokens
from exporter.evaluation.whole_pass import whole_pass
from exporter.fitting.selection import plain, spread
from exporter.host import ModelHost
from exporter.pipeline.model_attacks.base import NoRows, NotMeasured
from exporter.pipeline.model_attacks.compositions import SLOTS, Chosen, composed, titled
from exporter.pipeline.model_attacks.counts import counted, told
from exporter.pipeline.model_attacks.under_attack import UnderAttack, asked_of
from exporter.progress import Ticker
from exporter.types import Encoded, Row

if TYPE_CHECKING:
    from exporter.data.chat import Chat

LOG = logging.getLogger(__name__)
SEARCHED = 12
"""Forget rows that a composition is tried on."""


class Adaptive:
    """A search by Optuna's TPE over what is chosen for each slot of a prompt, towards leaks of the steered model.

    What is climbed is the share of rows that leak and, between equal shares, how likely the secret is in the expected reply. The best
    composition is then put to rows that the search did not see, and only those are counted; still it had the best of many tries, so it
    is not compared with attacks that were not chosen by the model's answers. Wordings are the held halves, as elsewhere.
    """

    name: ClassVar[str] = "adaptive"
    group: ClassVar[str] = "adaptive"
    access: ClassVar[Access] = "logits"
    costs: ClassVar[str] = "as many trials as --budget says"

    def measure(self, under: UnderAttack) -> AttackResult:
        """The best composition on fresh rows, from both models."""
        optuna = _optuna()
        seen = [case.row for case in under.ask("base", under.forget) if told(case)]
        if len(seen) < 2:
            raise NoRows(
                "the base answers fewer than two plain forget rows, so there is nothing to search on"
            )
        tried = spread(seen[::2], SEARCHED)
        fresh = [row for row in seen if row not in tried]
        kept = [row for row in plain(under.rows) if row.role in ("retain", "reasoning")]
        host, chat = under.host("steered"), under.chat()
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=under.seed, multivariate=True)
        )
        study.enqueue_trial(dict.fromkeys(SLOTS, "none"))
        known: dict[str, float] = {}
        ticker = Ticker("trials of the adaptive search", under.budget)

        def objective(trial: Any) -> float:
            chosen: Chosen = {
                slot: None if (name := trial.suggest_categorical(slot, ["none", *names])) == "none" else name
                for slot, names in SLOTS.items()
            }
            title = titled(chosen)
            if title not in known:
                rows = _made(tried, chosen, kept, chat, under)
                known[title] = value(host, chat, under, rows, len(tried)) if rows else 0.0
            ticker.advance()
            return known[title]

        study.optimize(objective, n_trials=under.budget)
        best: Chosen = {slot: None if name == "none" else name for slot, name in study.best_params.items()}
        rows = _made(fresh, best, kept, chat, under)
        if not rows:
            raise NoRows(
                f"the worst composition, {titled(best)}, can be made of no row that was not searched on"
            )
        steered = asked_of(host, under, rows, self.name)
        base = asked_of(under.host("base"), under, rows, self.name)
        details = {
            "composition": titled(best),
            "budget": under.budget,
            "tried": len(known),
            "searched_on": len(tried),
            "value_of_search": study.best_value,
        }
        return counted(
            self.name, self.group, base, steered, access=self.access, adaptive=True, details=details
        )


def value(host: ModelHost, chat: Chat, under: UnderAttack, rows: Sequence[Row], of: int) -> float:
    """What the search climbs: the share of ``of`` rows that leak, and at most half of one row's share for how likely their secrets are."""
    cases = asked_of(host, under, rows, "adaptive")
    share = sum(map(told, cases)) / of
    likely = []
    closed = [case.row for case in cases if all(turn.answer is not None for turn in case.row.history)]
    pairs = [(row, one) for row in closed if (one := _forced(chat, row)) is not None]
    batch = under.work.recipe.report.batch_size
    passes = whole_pass(host, [one for _, one in pairs], batch_size=batch) if pairs else []
    for (row, _), seen in zip(pairs, passes, strict=True):
        places = secret_tokens(seen.tokens, secrets_of(row), chat.tokenizer.decode)
        if places:
            likely.append(math.exp(secret_logprob(seen.logprobs, places) / len(places)))
    return share + (0.5 * sum(likely) / len(likely) / of if likely else 0.0)


def _made(
    rows: Sequence[Row], chosen: Chosen, kept: Sequence[Row], chat: Chat, under: UnderAttack
) -> list[Row]:
    """Composed rows that fit into the model."""
    made = [composed(row, chosen, kept, chat) for row in rows]
    return [row for row in made if row is not None and under.fits(row, chat)]


def _forced(chat: Chat, row: Row) -> Encoded | None:
    """The expected reply behind the attacked prompt; None where a prefill leaves nothing of it."""
    try:
        return chat.encode(row)
    except DataError:
        return None


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise NotMeasured("optuna is needed and is not installed: pip install 'steerbake[attack]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
