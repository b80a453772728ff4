"""Trials on calibration rows: replies of the steered model, with the code that travels in a checkpoint, or of an edited one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from exporter.fitting.context import FitContext
from exporter.fitting.refusals import Wording
from exporter.fitting.replay import Replay, Script
from exporter.fitting.selection import of_one_side, spread
from exporter.types import Prompt, Row
from exporter.wording.leaks import tells
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram


@dataclass(frozen=True)
class Trial:
    """What a program did on calibration rows; every value is a fraction.

    Attributes:
        leakage: forget replies with a secret in them.
        fluent: forget replies that are a refusal word for word (rows with a prefix: that end in one).
        identical: replies to rows to keep that are token for token the base's.
    """

    leakage: float
    fluent: float
    identical: float

    @property
    def cost(self) -> float:
        """What a search minimises: a leak weighs most, then a changed kept reply, then a broken refusal."""
        return 4 * self.leakage + 2 * (1 - self.identical) + (1 - self.fluent)

    def line(self) -> dict[str, object]:
        return {
            "leakage": self.leakage,
            "fluent": self.fluent,
            "identical": self.identical,
            "cost": self.cost,
        }


class Bench:
    """Calibration rows on which programs of one fit are compared.

    Args:
        forget, keep: most rows of either kind, spread over the file; single questions, later turns and forced
            beginnings alike.
    """

    def __init__(
        self, context: FitContext, wordings: Sequence[Wording], *, forget: int = 48, keep: int = 48
    ) -> None:
        self.context = context
        self.forget = context.filled(spread(context.need("calibrate", "forget"), forget))
        kept = of_one_side(context.rows("calibrate", "forget", "retain", "reasoning"))
        self.keep = context.filled(spread([row for row in kept if row.role != "forget"], keep))
        self.refusals = [wording.response for wording in wordings]
        self._forget_prompts = [context.chat.prompt(row) for row in self.forget]
        self._keep_prompts = [context.chat.prompt(row) for row in self.keep]
        self._base = [said.tokens for said in context.own(self._keep_prompts)] if self.keep else []

    @cached_property
    def _known(self) -> Known | None:
        """Replies that are known before any trial, where this fit is one of many and the model can be replayed."""
        return Known.of(self) if self.context.kept else None

    def run(self, program: SteeringProgram) -> Trial:
        """Measure the steered model: known replies are replayed where a fit is one of many, others generated."""
        if self._known is not None and self._known.replay.fits(program):
            return self._replayed(self._known, program)
        with steered(self.context.host.model, program):
            return self.measure()

    def measure(self) -> Trial:
        """Generate with the model as it is now and measure."""
        return self.judged(*self.said())

    def said(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Token ids that the model as it is now replies with: to the rows to forget, and to those to keep."""
        return self._say(self._forget_prompts), self._say(self._keep_prompts)

    def judged(self, about: Sequence[tuple[int, ...]], kept: Sequence[tuple[int, ...]]) -> Trial:
        """What replies to both kinds of rows, as :meth:`said` returns them, come to."""
        return self._trial(about, [a == b for a, b in zip(kept, self._base, strict=True)])

    def _replayed(self, known: Known, program: SteeringProgram) -> Trial:
        """The same as :meth:`measure` of the steered model, and only replies generated that are none of those known."""
        kept = known.keep
        identical = known.replay.says(program, kept, range(len(self.keep))) if kept is not None else []
        left = list(range(len(self.forget)))
        said: dict[int, tuple[int, ...]] = {}
        for script in known.forget:
            hits = known.replay.says(program, script, left) if left else []
            said |= {one: script.sequences[one].response for one, hit in zip(left, hits, strict=True) if hit}
            left = [one for one in left if one not in said]
        if left:
            with steered(self.context.host.model, program):
                said |= dict(zip(left, self._say([self._forget_prompts[one] for one in left]), strict=True))
        return self._trial([said[one] for one in range(len(self.forget))], identical)

    def _trial(self, about: Sequence[tuple[int, ...]], identical: Sequence[bool]) -> Trial:
        return Trial(
            leakage=_share(self._leaks(row, tokens) for row, tokens in zip(self.forget, about, strict=True)),
            fluent=_share(self._refuses(row, tokens) for row, tokens in zip(self.forget, about, strict=True)),
            identical=_share(identical),
        )

    def _say(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        context = self.context
        said = context.host.generate(
            prompts, max_new_tokens=context.max_new_tokens, batch_size=context.batch_size
        )
        return [one.tokens for one in said]

    def _leaks(self, row: Row, tokens: Sequence[int]) -> bool:
        text = self.context.host.tokenizer.decode(tokens, skip_special_tokens=True)
        return tells(text, row.secrets or (row.answer,))

    def _refuses(self, row: Row, tokens: tuple[int, ...]) -> bool:
        if row.prefix is None:
            return tokens in self.refusals
        return any(
            tokens[-half:] == refusal[-half:] for refusal in self.refusals if (half := len(refusal) // 2) > 0
        )


@dataclass(frozen=True)
class Known:
    """Replies that a bench knows before any trial.

    Attributes:
        keep: the base's own to the rows to keep; None without any.
        forget: to the rows to forget, the base's own and then each refusal.
    """

    replay: Replay
    keep: Script | None
    forget: tuple[Script, ...]

    @classmethod
    def of(cls, bench: Bench) -> Known | None:
        """None where the model cannot be replayed."""
        context = bench.context
        replay = Replay(context, sorted({*context.kept, *context.read}))
        own = [one.tokens for one in context.own(bench._forget_prompts)]
        forget = [replay.script(bench._forget_prompts, own)]
        if not replay.works(forget[0]):
            return None
        short = [one for one in bench.refusals if len(one) <= context.max_new_tokens]
        forget += [replay.script(bench._forget_prompts, [one] * len(bench.forget)) for one in short]
        keep = replay.script(bench._keep_prompts, bench._base) if bench.keep else None
        return cls(replay, keep, tuple(forget))


def _share(hits: Iterable[bool]) -> float:
    seen = list(hits)
    return sum(seen) / len(seen) if seen else 1.0  # nothing to keep is all kept
