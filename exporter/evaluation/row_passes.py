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
    def read(cls, data: Mapping[str, Sequence[object]]) -> RowPasses:
        """From what :meth:`data` made; JSON has lists for tuples."""

        def answer(found: object) -> ForcedAnswer:
            assert isinstance(found, list | tuple), "written by data"
            return ForcedAnswer(*(tuple(part) for part in found))

        several = {key: tuple(map(answer, data[key])) for key in ("paraphrased", "perturbed")}
        raw = tuple(float(str(one)) for one in data["raw"])
        bare = answer(data["bare"]) if data["bare"] else None
        return cls(answer(data["answer"]), several["paraphrased"], several["perturbed"], raw, bare)


def _geometric(answers: Sequence[ForcedAnswer]) -> float:
    return math.exp(math.fsum(one.mean_logprob for one in answers) / len(answers))
