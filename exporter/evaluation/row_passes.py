"""What a model makes of a row's answers, and of its raw text, in one pass over each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class ForcedAnswer(NamedTuple):
    """An answer of T tokens that was forced on a model behind the row's prompt, without its end token.

    Attributes:
        tokens: [T].
        likeliest: the model's most likely token in the place of each, [T].
        logprobs: log-probability that the model gives to each, [T], in nats.
    """

    tokens: tuple[int, ...]
    likeliest: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def probability(self) -> float:
        """``p(answer | question)^(1/T)``, the length-normalised probability of TOFU (https://arxiv.org/abs/2401.06121)."""
        return math.exp(self.mean_logprob)

    @property
    def mean_logprob(self) -> float:
        """Of a token, in nats."""
        return math.fsum(self.logprobs) / len(self.logprobs)


class RowPasses(NamedTuple):
    """One row.

    Attributes:
        answer: the whole expected reply, reasoning included where the row has one: what a model that reasons would say.
        paraphrased: the answer in other words.
        perturbed: wrong ones.
        raw: log-probabilities of the tokens of question and answer as plain text, in nats: no chat template, so nothing asks the model.
        bare: the answer without reasoning, as the reworded and the wrong ones are; None where that is ``answer``.
    """

    answer: ForcedAnswer
    paraphrased: tuple[ForcedAnswer, ...]
    perturbed: tuple[ForcedAnswer, ...]
    raw: tuple[float, ...]
    bare: ForcedAnswer | None = None

    @property
    def truth_ratio(self) -> float | None:
        """``p(wrong) / p(right)`` of length-normalised probabilities (TOFU, https://arxiv.org/abs/2401.06121); None without wrong answers.

        As open-unlearning computes it: the geometric mean over the wrong answers above, over the reworded right one, or the right one
        where none is reworded, below, plus 1e-10.
        """
        if not self.perturbed:
            return None
        right = _geometric(self.paraphrased or (self.bare or self.answer,))
        return _geometric(self.perturbed) / (right + 1e-10)

    def data(self) -> dict[str, object]:
        """As plain data; :meth:`read` reads it back."""
        return {
            "answer": list(self.answer),
            "paraphrased": [list(one) for one in self.paraphrased],
            "perturbed": [list(one) for one in self.perturbed],
            "raw": list(self.raw),
            "bare": [] if self.bare is None else list(self.bare),
        }

    @classmethod
    def read(cls, data: object) -> RowPasses:
        """From what :meth:`data` made; JSON has lists for tuples.

        Raises:
            ValueError, LookupError: it is something else.
        """
        if not isinstance(data, Mapping) or not all(isinstance(one, list | tuple) for one in data.values()):
            raise ValueError("lists by name are needed")
        several = {key: tuple(map(_answer, data[key])) for key in ("paraphrased", "perturbed")}
        raw = tuple(finite(one) for one in data["raw"])
        bare = _answer(data["bare"]) if data["bare"] else None
        return cls(_answer(data["answer"]), several["paraphrased"], several["perturbed"], raw, bare)


def finite(value: object) -> float:
    """A number; raises ValueError for anything else, infinities and not-a-number among it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a number is needed, not {value!r}")
    return float(value)


def _answer(found: object) -> ForcedAnswer:
    """T tokens, T likeliest ones and T log-probabilities, at least one of each."""
    if not isinstance(found, list | tuple) or len(found) != 3:
        raise ValueError("an answer has three parts")
    parts = [list(part) if isinstance(part, list | tuple) else [] for part in found]
    if len({len(part) for part in parts}) != 1 or not parts[0]:
        raise ValueError("an answer has as many tokens as log-probabilities")
    if not all(type(one) is int for part in parts[:2] for one in part):
        raise ValueError("tokens are integers")
    tokens, likeliest, logprobs = parts
    return ForcedAnswer(tuple(tokens), tuple(likeliest), tuple(map(finite, logprobs)))


def _geometric(answers: Sequence[ForcedAnswer]) -> float:
    return math.exp(math.fsum(one.mean_logprob for one in answers) / len(answers))
