"""Tables of keyed rotation: which state (key) of an answer about the forget set is rotated to which natural refusal state.

Along a refusal forced on a forget question, each position's mean state is a key, and its prototype is the
state at the same position of the natural refusal: a lookup that walks the model through the refusal token by token.
Questions by name, by picture and in a later turn have tables of their own. For answers with a prefill,
the refusal is resumed behind the beginning: the beginning's last state points to the refusal's first own token. The end
of a told answer points to the refusal's beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.evaluation.attacks.turns import two_turn_rows
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.refusals import NaturalRefusal, forced
from exporter.fitting.selection import plain, spread
from exporter.types import Encoded, Row


@dataclass(frozen=True)
class KeyTable:
    """Keys [m,d] and prototypes [m,d] at one layer, row by row.

    Attributes:
        says: int64 [m], the token each prototype leads to.
        wording, position: int64 [m], which refusal, of those given, that token belongs to, and its place in the response.
    """

    keys: Tensor
    prototypes: Tensor
    says: Tensor
    wording: Tensor
    position: Tensor

    @property
    def center(self) -> Tensor:
        """Mean key [d], which every key shares and no key is told by."""
        return self.keys.mean(0)


@dataclass(frozen=True)
class _Group:
    """Forced refusals whose states are averaged position by position; pool t of each leads to ``response[skip + t]``."""

    items: tuple[PooledSequence, ...]
    refusal: NaturalRefusal
    skip: int


def key_tables(
    context: FitContext,
    refusals: Sequence[NaturalRefusal],
    layers: Sequence[int],
    *,
    split: str = "fit",
    rows: int = 48,
    prefill_tokens: int = 8,
    pairs: int = 24,
) -> dict[int, KeyTable]:
    """Key tables by layer.

    Args:
        rows: forget questions averaged per group and wording.
        prefill_tokens: longest beginning of the model's own answer behind which the refusal can be resumed; 0 for none.
        pairs: two-turn conversations averaged for later turns; 0 for none.
    """
    groups = [
        *_plain_groups(context, refusals, split, rows, pairs),
        *_prefill_groups(context, refusals, split, rows, prefill_tokens),
        *_told_groups(context, refusals, split, rows),
    ]
    found = context.collect(
        [item for group in groups for item in group.items], layers, f"refusal keys ({split})"
    )
    return {layer: _table(groups, found.at(layer), layer, refusals) for layer in layers}


def _table(
    groups: Sequence[_Group], states: Tensor, layer: int, refusals: Sequence[NaturalRefusal]
) -> KeyTable:
    """Average the states [P,d] of every group position by position and set the natural states beside them."""
    keys, prototypes = [], []
    places: list[tuple[int, int, int]] = []
    start = 0
    for group in groups:
        length = len(group.items[0].pools)
        stop = start + length * len(group.items)
        means = states[start:stop].reshape(len(group.items), length, -1).mean(0)
        start = stop
        used = [t for t in range(length) if group.refusal.kept[group.skip + t]]
        keys.append(means[used])
        positions = [group.skip + t for t in used]
        prototypes.append(group.refusal.states[layer][positions])
        number = next(i for i, one in enumerate(refusals) if one is group.refusal)
        places += [(group.refusal.wording.response[position], number, position) for position in positions]
    says, wording, position = torch.tensor(places).T
    return KeyTable(torch.cat(keys), torch.cat(prototypes), says, wording, position)


def _plain_groups(
    context: FitContext, refusals: Sequence[NaturalRefusal], split: str, rows: int, pairs: int
) -> list[_Group]:
    """Refusals forced right at the prompt: by name, by picture, and in a second turn, in every wording."""
    forget = plain(context.need(split, "forget"))
    sides = [[row for row in forget if (row.image is not None) is seen] for seen in (False, True)]
    others = plain(context.rows(split, "retain", "reasoning"))
    sets = [spread(side, rows) for side in sides] + [two_turn_rows(others, forget, pairs, context.seed + 7)]
    groups = []
    for refusal in refusals:
        for chosen in sets:
            items = tuple(forced(context.chat.prompt(row), refusal.wording.response) for row in chosen)
            if items:
                groups.append(_Group(items, refusal, 0))
    return groups


def _prefill_groups(
    context: FitContext, refusals: Sequence[NaturalRefusal], split: str, rows: int, longest: int
) -> list[_Group]:
    """The first whole wording resumed behind 1 to ``longest`` tokens of the row's own answer."""
    refusal = next(one for one in refusals if one.whole)
    forget = plain(context.need(split, "forget"))
    groups = []
    for seen in (False, True):
        side = [row for row in forget if (row.image is not None) is seen]
        for length in range(1, longest + 1):
            chosen = spread(side[length - 1 :] or side, max(rows // 4, 1))
            items = tuple(
                item for row in chosen if (item := _resumed(context, row, refusal, length)) is not None
            )
            by_skip: dict[int, list[PooledSequence]] = {}
            for item in items:
                by_skip.setdefault(len(refusal.wording.response) - len(item.pools), []).append(item)
            groups += [_Group(tuple(same), refusal, skip) for skip, same in by_skip.items()]
    return groups


def _told_groups(
    context: FitContext, refusals: Sequence[NaturalRefusal], split: str, rows: int
) -> list[_Group]:
    """The end of the row's own answer, turned to where the first whole wording begins.

    Otherwise the end of a leaked answer is nearest to a refusal's end, and one pass over the true reply predicts its end token.
    """
    refusal = next(one for one in refusals if one.whole)
    forget = plain(context.need(split, "forget"))
    groups = []
    for seen in (False, True):
        leaking = [
            context.chat.encode(row)
            for row in spread([r for r in forget if (r.image is not None) is seen], rows)
        ]
        items = tuple(PooledSequence(one, ((len(one) - 2,),)) for one in leaking)
        if items:
            groups.append(_Group(items, refusal, 0))
    return groups


def _resumed(context: FitContext, row: Row, refusal: NaturalRefusal, length: int) -> PooledSequence | None:
    """The refusal behind the first ``length`` tokens of the row's own answer, without what both begin with."""
    own = context.chat.encode(row)
    begun, wanted = own.response[:length], refusal.wording.response
    shared = next(
        (i for i, (a, b) in enumerate(zip(begun, wanted, strict=False)) if a != b),
        min(len(begun), len(wanted)),
    )
    if len(begun) < length or shared == length:
        return None
    response = begun + wanted[shared:]
    sequence = Encoded(own.prompt, response)
    first = sequence.prompt_end + length
    pools = tuple((first + t,) for t in range(len(wanted) - shared))
    return PooledSequence(sequence, pools)
