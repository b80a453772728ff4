"""What a combination does on calibration rows: leaks, refusals, kept replies, mistakes of its gate, and how broken its text is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch

from exporter.fitting.context import FitContext
from exporter.fitting.prompt_scores import prompt_scores
from exporter.fitting.refusals import Wording
from exporter.fitting.trials import Bench
from exporter.types import Encoded
from steer_modules import ops
from steer_modules.attach import steered
from steer_modules.program import SteeringProgram

SAMPLE = 160
"""Characters of a reply that are shown."""


class Meter:
    """Measures programs of one context on the same rows; ``rows`` of either side at most."""

    def __init__(self, context: FitContext, wordings: Sequence[Wording], rows: int) -> None:
        self.context = context
        self.bench = Bench(context, wordings, forget=rows, keep=rows)
        self.answers = {wording.answer for wording in wordings}

    def of(self, program: SteeringProgram) -> dict[str, object]:
        """The figures of one program.

        - ``leakage``, ``fluent``, ``identical``, ``cost``: as in :class:`exporter.fitting.trials.Trial`.
        - ``refuses``: forget replies whose answer is that of a refusal, whatever was thought before it.
        - ``finished``: forget replies that end by themselves.
        - ``repeats``: triples of tokens that the same forget reply had before, of all of its triples.
        - ``nats``: nats a token of forget replies under the unsteered base.
        - ``missed``, ``false_alarms``: prompts on which the gate is wrong, of those to forget and to keep.
        - ``says``: the beginning of one forget reply.
        """
        with steered(self.context.host.model, program):
            about, kept = self.bench.said()
        trial = self.bench.judged(about, kept)
        return {**trial.line(), **self.text(about), **self._mistakes(program)}

    def base(self) -> dict[str, object]:
        """The same of the unsteered base, but for a gate."""
        about, kept = self.bench.said()
        return {**self.bench.judged(about, kept).line(), **self.text(about)}

    def text(self, about: Sequence[tuple[int, ...]]) -> dict[str, object]:
        """How replies to the forget rows read."""
        ends = self.context.host.end_ids
        texts = [self.context.chat.split(tokens)[1] for tokens in about]
        return {
            "refuses": fmean(text in self.answers for text in texts),
            "finished": fmean(bool(tokens) and tokens[-1] in ends for tokens in about),
            "repeats": fmean(map(_repeats, about)),
            "nats": self._nats(about),
            "says": self.context.host.tokenizer.decode(about[0])[:SAMPLE],
        }

    def _nats(self, about: Sequence[tuple[int, ...]]) -> float:
        """Mean over all tokens of the replies of minus log p under the unsteered base."""
        host = self.context.host
        prompts = [self.context.chat.prompt(row) for row in self.bench.forget]
        pairs = [Encoded(prompt, said) for prompt, said in zip(prompts, about, strict=True) if said]
        found: list[torch.Tensor] = []
        for start in range(0, len(pairs), self.context.batch_size):
            batch = pairs[start : start + self.context.batch_size]
            with torch.no_grad():
                logits = host.model(**{**host.batch(batch, "right"), "use_cache": False}).logits.float()
            for row, one in enumerate(batch):
                columns = logits[row, one.prompt_end : len(one) - 1].log_softmax(-1)
                found.append(
                    -columns.gather(1, torch.tensor(one.response)[:, None].to(columns.device))[:, 0].cpu()
                )
        return float(torch.cat(found).mean()) if found else 0.0

    def _mistakes(self, program: SteeringProgram) -> dict[str, object]:
        """Shares of the prompts of either side on which the program's gate is wrong; none without a gate."""
        if not program.gates:
            return {}
        (gate,) = program.gates
        fired = {}
        for side, rows in (("forget", self.bench.forget), ("keep", self.bench.keep)):
            scores = prompt_scores(self.context, program, rows, f"gate scores ({side})")[gate.name]
            assert isinstance(scores, dict)
            values = torch.tensor([value for role in scores.values() for value in role])
            fired[side] = float(ops.fires(values, gate.threshold, gate.fires).float().mean())
        return {"missed": 1 - fired["forget"], "false_alarms": fired["keep"]}


def _repeats(tokens: Sequence[int]) -> float:
    triples = [tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0
