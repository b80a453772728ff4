"""Which tokens of a reply belong to a secret, and their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from exporter.wording.leaks import told_at


def secret_tokens(
    tokens: Sequence[int], secrets: Iterable[str], decode: Callable[[Sequence[int]], str]
) -> tuple[int, ...]:
    """Places in ``tokens`` of the first mention of each secret, in whatever spelling; empty where none is mentioned.

    A later mention repeats the reply, so it does not show what a model knows.

    Args:
        decode: text of the first tokens; the text of more of them begins with it.
    """
    ends = [len(decode(tokens[: count + 1])) for count in range(len(tokens))]
    starts = [0, *ends[:-1]]
    text = decode(tokens)
    places: set[int] = set()
    for secret in secrets:
        if (span := told_at(text, secret)) is not None:
            first, last = span
            places |= {
                place
                for place, (start, end) in enumerate(zip(starts, ends, strict=True))
                if start < last and end > first
            }
    return tuple(sorted(places))


def secret_logprob(logprobs: Sequence[float], places: Sequence[int]) -> float:
    """Log-probability of the secrets of one reply, given all that stands before each of their tokens, in nats.

    ``sum(log p(token | prompt, reply before it))`` over the tokens of :func:`secret_tokens`: the chain rule for what an
    attacker can read off one pass. Prompts whose sum falls by 5 nats have become 148 times less likely to give them away.
    """
    return sum(logprobs[place] for place in places)
