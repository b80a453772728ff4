"""How much of a reply must be given before a model generates the rest by itself."""

from __future__ import annotations

from collections.abc import Sequence


def extraction_strength(tokens: Sequence[int], likeliest: Sequence[int]) -> float:
    """``1 - min{k : likeliest[k:] == tokens[k:]} / T`` for a reply of T tokens; 0 for an empty reply.

    ``likeliest`` are the argmaxes of one pass over prompt and reply, so every one of them was given what stands before it. 1: the
    prompt alone is enough; 0: not even the last token follows. Carlini et al., Extracting Training Data from Large Language Models
    (https://arxiv.org/abs/2012.07805) argue for counting what a prefix brings out; the formula is that of Wang et al., Towards
    Effective Evaluations and Comparisons for LLM Unlearning Methods (https://arxiv.org/abs/2406.09179), as open-unlearning
    computes it (https://arxiv.org/abs/2506.12618), but for one thing: its loop gives at least 1 / T.

    Args:
        tokens: the reply, without its end token, which reveals no secret.
        likeliest: the model's argmax in the place of each.
    """
    length = len(tokens)
    given = length
    while given > 0 and likeliest[given - 1] == tokens[given - 1]:
        given -= 1
    return 1 - given / length if length else 0.0
