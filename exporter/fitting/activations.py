"""Pooled block outputs of many sequences, in one teacher-forced pass each: no sequence is run twice.

Only pooled vectors are kept, on disk (:mod:`exporter.fitting.state_store`), and one batch in RAM. What sequences begin with alike, a
system prompt most often, is run once for all of them (:mod:`exporter.fitting.beginnings`). A run that was cut off (SIGINT, a crash) goes on
with the first batch that is not whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exporter.digests import remembered_digest
from exporter.errors import DataError, FitError
from exporter.fitting.beginnings import Beginning, batches
from exporter.fitting.pooling import PooledSequence, PoolIndex, block_means
from exporter.fitting.state_store import StateStore, Stored
from exporter.host import ModelHost
from exporter.progress import progress_bar
from exporter.prompt_batcher import Side

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYOUT = "steerbake-activations/2"


@dataclass(frozen=True)
class Activations:
    """Pooled states of a list of sequences.

    Attributes:
        stored: for every sequence, where its pools lie.
        layers: which blocks the second dimension of what is stored stands for.
        starts: int64 [S+1]; the pools of sequence i are ``starts[i]`` to ``starts[i+1]``.
        asked: those of the blocks that :attr:`states` has, in this order; None for all.
    """

    stored: tuple[Stored, ...]
    layers: tuple[int, ...]
    starts: NDArray[np.int64]
    asked: tuple[int, ...] | None = None

    @property
    def states(self) -> Tensor:
        """All states, float32 [P,L,d]: pools in the order of the sequences, layers in the order asked for."""
        if self.asked is None:
            return torch.from_numpy(np.concatenate([one.states for one in self.stored]))
        places = [self.layers.index(layer) for layer in self.asked]
        return torch.from_numpy(np.concatenate([one.states[:, places] for one in self.stored]))

    @property
    def agrees(self) -> Tensor:
        """int8 [P]: 1 where the model's argmax at a single-column pool is the next token, 0 where not.

        -1 where there is no such question: wider pools, last columns.
        """
        return torch.from_numpy(np.concatenate([one.agrees for one in self.stored]))

    def at(self, layer: int) -> Tensor:
        """States of one layer, float32 [P,d]."""
        place = self.layers.index(layer)
        return torch.from_numpy(np.concatenate([one.states[:, place] for one in self.stored]))

    def of(self, sequence: int, layer: int) -> Tensor:
        """States of one sequence's pools at one layer, float32 [pools of it, d]."""
        return torch.from_numpy(np.array(self.stored[sequence].states[:, self.layers.index(layer)]))


def collect(
    host: ModelHost,
    items: Sequence[PooledSequence],
    layers: Sequence[int],
    folder: Path,
    *,
    batch_size: int = 32,
    side: Side = "right",
    progress: bool = True,
    title: str = "states",
    store: StateStore | None = None,
) -> Activations:
    """Pooled states of every sequence; those that are stored already, whoever asked for them, are not run again.

    Args:
        items: sequences with their pools.
        layers: 0-based blocks whose outputs are wanted.
        folder: where states are stored; created if missing.
        store: the store of this model, these layers and this side in ``folder``, where it is open already (:func:`store_of`).

    Raises:
        FitError: a pooled state is not finite.
    """
    if not items:
        raise FitError(f"no sequence to collect {title} from; add rows of the roles that this method needs")
    store = store_of(host, layers, folder, side=side) if store is None else store
    keys = [_item_key(item) for item in items]
    missing = {key: item for key, item in zip(keys, items, strict=True) if key not in store}
    with progress_bar(progress) as bar:
        task = bar.add_task(title, total=len(set(keys)), completed=len(set(keys)) - len(missing))
        for number, batch in enumerate(batches(missing, batch_size, shared=side == "right")):
            states, agrees = pooled_pass(host, list(batch.items.values()), layers, side, batch.beginning)
            if not torch.isfinite(states).all():
                raise FitError(
                    f"{title}: non-finite states in batch {number}; load the model in float32 or bfloat16"
                )
            pools = {key: len(item.pools) for key, item in batch.items.items()}
            store.add(pools, states.numpy(), agrees.numpy())
            bar.advance(task, len(batch.items))
    starts = np.cumsum([0, *(len(item.pools) for item in items)], dtype=np.int64)
    return Activations(tuple(store[key] for key in keys), tuple(layers), starts)


def store_of(host: ModelHost, layers: Sequence[int], folder: Path, *, side: Side = "right") -> StateStore:
    """The states of one model at some blocks that lie in a folder."""
    return StateStore(folder / _head_key(host, layers, side))


def pooled_pass(
    host: ModelHost,
    items: Sequence[PooledSequence],
    layers: Sequence[int],
    side: Side,
    beginning: Beginning | None = None,
) -> tuple[Tensor, Tensor]:
    """One forward pass: float32 [P,L,d] pooled block outputs and int8 [P] agreement, both on the CPU.

    Args:
        beginning: what all the sequences begin with, already run; for side "right".
    """
    inputs: dict[str, Any] = dict(host.batch([item.sequence for item in items], side))
    if side == "left" and not _places_images(host, inputs):
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    index = PoolIndex.of(items, inputs["input_ids"].shape[1], side)
    before = beginning.run(host, layers) if beginning is not None else None
    if before is not None:
        inputs = before.shortened(inputs)
    earlier = None if before is None else before.states
    with torch.no_grad(), block_means(host.blocks, layers, index, earlier) as found:
        last = host.model.base_model(**{"use_cache": False} | inputs).last_hidden_state
        agrees = torch.full_like(index.next_ids, -1, dtype=torch.int8)
        asked = (index.next_ids >= 0).nonzero()[:, 0]
        if len(asked):
            last = last if before is None else before.with_last(last)
            cells = (index.lengths.cumsum(0) - 1)[asked]
            rows, columns = index.rows[cells].to(last.device), index.columns[cells].to(last.device)
            said = host.model.get_output_embeddings()(last[rows, columns]).argmax(-1).cpu()
            agrees[asked] = (said == index.next_ids[asked]).to(torch.int8)
    return torch.stack([found[layer] for layer in layers], dim=1), agrees


def _places_images(host: ModelHost, inputs: dict[str, object]) -> bool:
    """Whether the model works out positions in space itself, from the mask, as Qwen-VL does for batches with images."""
    return hasattr(host.model.base_model, "get_rope_index") and "mm_token_type_ids" in inputs


def _head_key(host: ModelHost, layers: Sequence[int], side: Side) -> str:
    """Hex hash of what all sequences of a store share: weights, dtype, kind of device, layers, side."""
    head = [LAYOUT, model_digest(host.model), str(host.dtype), host.device.type, list(layers), side]
    return hashlib.sha256(json.dumps(head).encode()).hexdigest()[:32]


def _item_key(item: PooledSequence) -> str:
    """Hex hash of a sequence and its pools."""
    prompt = item.sequence.prompt
    images = [file_digest(path) for path in prompt.images]
    inputs = [prompt.text, prompt.ids, images, item.sequence.response, item.pools]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


_DIGESTS: WeakKeyDictionary[nn.Module, tuple[tuple[tuple[int, int], ...], str]] = WeakKeyDictionary()


def model_digest(model: PreTrainedModel) -> str:
    """Hex SHA-256 over the config and every weight's name, dtype, shape and bytes; hashed again once a weight changed."""
    weights = sorted(model.state_dict().items())
    versions = tuple((tensor.data_ptr(), tensor._version) for _, tensor in weights)
    known = _DIGESTS.get(model)
    if known is not None and known[0] == versions:
        return known[1]
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in weights:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data)
    _DIGESTS[model] = versions, digest.hexdigest()
    return _DIGESTS[model][1]


def file_digest(path: Path) -> str:
    """Hex SHA-256 of an image's bytes; raises DataError where it cannot be read."""
    try:
        return remembered_digest(path)
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error}") from error
