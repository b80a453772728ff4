"""What one whole pass over prompt and true reply gives away: extraction strength, and the secret's log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.data.chat import Chat
from exporter.host import ModelHost
from exporter.types import Row
from exporter.wording.leaks import tells


def whole_pass(host: ModelHost, chat: Chat, rows: Sequence[Row]) -> list[dict[str, float]]:
    """Per row: ``strength`` in [0, 1] and ``secret``, the log-probability in nats of the first secret in the true reply.

    Extraction strength is 1 - k / n, with k the fewest first tokens of the reply of n tokens behind which every further one
    is the argmax.
    """
    found = []
    for row in rows:
        sequence = chat.encode(row)
        span = _secret(host, row, sequence.response)
        inputs: dict[str, Any] = dict(host.batch([sequence], "right"))
        with torch.no_grad():
            logits: Tensor = host.model(**inputs).logits[0].float()
        first = sequence.prompt_end
        ids = torch.tensor(sequence.response)
        predicted = logits[first : first + len(ids)]
        wrong = (predicted.argmax(-1) != ids).nonzero()[:, 0]
        needed = int(wrong[-1]) + 1 if len(wrong) else 0
        sure = predicted.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        found.append({"strength": 1 - needed / len(ids), "secret": float(sure[span[0] : span[1]].sum())})
    return found


def _secret(host: ModelHost, row: Row, response: Sequence[int]) -> tuple[int, int]:
    """Where in the reply its first secret stands; the whole reply where none does."""
    secrets = row.secrets or (row.answer,)

    def told_in(ids: Sequence[int]) -> bool:
        return tells(host.tokenizer.decode(list(ids), skip_special_tokens=True), secrets)

    stop = next((n for n in range(1, len(response) + 1) if told_in(response[:n])), 0)
    if not stop:
        return 0, len(response)
    return next(first for first in reversed(range(stop)) if told_in(response[first:stop])), stop


def summary(base: Sequence[dict[str, float]], steered: Sequence[dict[str, float]]) -> dict[str, float | int]:
    """Means over rows, and the least difference of a row."""
    falls = [b["secret"] - s["secret"] for b, s in zip(base, steered, strict=True)]
    return {
        "rows": len(base),
        "base_extraction_strength": round(sum(one["strength"] for one in base) / len(base), 4),
        "extraction_strength": round(sum(one["strength"] for one in steered) / len(steered), 4),
        "secret_nats_under_base": round(sum(falls) / len(falls), 2),
        "least_nats_under_base": round(min(falls), 2),
    }
