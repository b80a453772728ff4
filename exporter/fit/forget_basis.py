"""The subspace in which a prompt about the forgotten differs from the same prompt about somebody unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.errors import FitError
from exporter.fit.context import FitContext
from exporter.fit.pairs import plain, spread
from exporter.fit.pooling import PooledSequence
from exporter.fit.subspaces import right_singular
from exporter.types import Encoded, Prompt, Row


@dataclass(frozen=True)
class ForgetBasis:
    """Directions [d,k] of one layer's forget-minus-unknown differences, largest first, and the mean unknown state [d]."""

    directions: Tensor
    center: Tensor

    def of_rank(self, rank: int) -> Tensor:
        """The leading ``rank`` directions, orthonormal [d,r]."""
        return self.directions[:, :rank].contiguous()


def forget_bases(context: FitContext, layers: Sequence[int], *, rows: int = 192) -> dict[int, ForgetBasis]:
    """Bases by layer from fit rows with a ``key``.

    Rows of one key are aligned column by column, counted from the prompt's end, from the first token that tells the
    subjects apart.

    Args:
        rows: most rows per side, spread over the file.

    Raises:
        FitError: no key is shared by forget and unknown rows.
    """
    forget, unknown = _keyed(context, "forget"), _keyed(context, "unknown")
    shared = [key for key in forget if key in unknown]
    if not shared:
        raise FitError(
            "`project` compares forget rows with unknown rows of the same `key` (the same words about other subjects), and "
            "the fit rows share none; give such rows, or switch `project` off"
        )
    sides = [[row for key in shared for row in side[key]] for side in (forget, unknown)]
    sides = [spread(side, rows) for side in sides]
    prompts = {row.id: context.chat.prompt(row) for side in sides for row in side}
    reach = _reaches(context, sides, prompts)
    items = [_tail(prompts[row.id], reach[row.key or ""]) for side in sides for row in side]
    found = context.collect(items, layers, "forget-minus-unknown states")
    cut = len(sides[0])
    places = [
        [(row.key or "", position) for position in range(reach[row.key or ""])]
        for side in sides
        for row in side
    ]
    names = {place: number for number, place in enumerate(dict.fromkeys(p for own in places for p in own))}
    flat = torch.tensor([names[place] for own in places for place in own])
    border = sum(len(own) for own in places[:cut])
    return {layer: _basis(found.at(layer), flat, border, len(names)) for layer in layers}


def _basis(states: Tensor, places: Tensor, border: int, count: int) -> ForgetBasis:
    """Differences of forget states [:border] from the mean unknown state [border:] at the same place."""
    known, unknown = states[:border], states[border:]
    sums = torch.zeros(count, states.shape[1]).index_add_(0, places[border:], unknown)
    sizes = places[border:].bincount(minlength=count)
    covered = sizes[places[:border]] > 0
    means = sums / sizes.clamp_min(1).unsqueeze(1)
    differences = (known - means[places[:border]])[covered]
    _, directions = right_singular(differences)
    return ForgetBasis(directions, unknown.mean(0))


def _keyed(context: FitContext, role: str) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in plain([row for row in context.rows("fit", "forget", "unknown") if row.role == role]):
        if row.key is not None:
            rows.setdefault(row.key, []).append(row)
    return rows


def _reaches(
    context: FitContext, sides: Sequence[Sequence[Row]], prompts: dict[str, Prompt]
) -> dict[str, int]:
    """Columns per key, counted from the end: back to the first column in which prompts of that key differ.

    Subjects may take different numbers of tokens; every row of a key gives as many columns as its shortest subject.
    Prompts that differ in their images alone are told apart from the first image column on.
    """
    by_key: dict[str, list[Prompt]] = {}
    for side in sides:
        for row in side:
            by_key.setdefault(row.key or "", []).append(prompts[row.id])
    image = getattr(
        context.host.model.config,
        "image_token_id",
        getattr(context.host.model.config, "image_token_index", None),
    )
    reach = {}
    for key, same in by_key.items():
        shortest = min(len(prompt.ids) for prompt in same)
        first = next(
            (c for c in range(shortest) if len({prompt.ids[c] for prompt in same}) > 1), shortest - 1
        )
        if image is not None and image in same[0].ids:
            first = min(first, same[0].ids.index(image))
        reach[key] = shortest - first
    return reach


def _tail(prompt: Prompt, columns: int) -> PooledSequence:
    """The last ``columns`` columns of a prompt, each a pool, last first."""
    end = len(prompt.ids) - 1
    return PooledSequence(Encoded(prompt), tuple((end - back,) for back in range(columns)))
