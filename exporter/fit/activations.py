"""Pooled block outputs of many sequences, in one teacher-forced pass each, spilled to disk and resumable.

Only pooled vectors are kept, so memory is O(pools x layers x d) on disk and one batch in RAM. The spill is named by a hash
of everything that decides its bytes; beside it lies one byte per batch that says the batch is whole. A run that was cut off
(SIGINT, a crash) is taken up at the first batch that is not, and the file ends up with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from exporter.errors import DataError, FitError
from exporter.fit.pooling import PooledSequence, PoolIndex, block_means
from exporter.host import ModelHost, Side
from exporter.progress import progress_bar

LAYOUT = "steerbake-activations/1"


@dataclass(frozen=True)
class Activations:
    """Pooled states of a list of sequences.

    Attributes:
        states: float32 [P,L,d] on disk, pools in the order of the sequences, layers in the order asked for.
        agrees: int8 [P]; 1 where the model's argmax at a single-column pool is the next token of the sequence, 0 where
            not, -1 where there is no such question (wider pools, last columns).
        layers: which blocks the second dimension stands for.
        starts: int64 [S+1]; the pools of sequence i are ``starts[i]`` to ``starts[i+1]``.
    """

    states: np.ndarray[Any, np.dtype[np.float32]]
    agrees: np.ndarray[Any, np.dtype[np.int8]]
    layers: tuple[int, ...]
    starts: np.ndarray[Any, np.dtype[np.int64]]

    def at(self, layer: int) -> Tensor:
        """States of one layer, float32 [P,d]."""
        return torch.from_numpy(np.array(self.states[:, self.layers.index(layer)]))

    def of(self, sequence: int, layer: int) -> Tensor:
        """States of one sequence's pools at one layer, float32 [pools of it, d]."""
        pools = slice(int(self.starts[sequence]), int(self.starts[sequence + 1]))
        return torch.from_numpy(np.array(self.states[pools, self.layers.index(layer)]))

    def agreement(self, sequence: int) -> list[bool | None]:
        """Whether the model agrees with the next token, pool by pool."""
        values = self.agrees[int(self.starts[sequence]) : int(self.starts[sequence + 1])]
        return [None if value < 0 else bool(value) for value in values]


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
) -> Activations:
    """Run every sequence once and keep its pooled states.

    Args:
        items: sequences with their pools; identical requests share one spill.
        layers: 0-based blocks whose outputs are wanted.
        folder: where spills live; created if missing.

    Raises:
        FitError: a pooled state is not finite.
    """
    if not items:
        raise FitError(f"no sequence to collect {title} from; the rows lack a role that this method needs")
    starts = np.cumsum([0, *(len(item.pools) for item in items)], dtype=np.int64)
    key = request_key(host, items, layers, batch_size, side)
    spill = _Spill(folder, key, int(starts[-1]), len(layers), host.hidden_size, -(-len(items) // batch_size))
    order = sorted(range(len(items)), key=lambda i: (len(items[i].sequence), i))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    missing = [number for number in range(len(batches)) if not spill.done[number]]
    with progress_bar(progress) as bar:
        left = sum(len(batches[number]) for number in missing)
        task = bar.add_task(title, total=len(items), completed=len(items) - left)
        for number in missing:
            chosen = batches[number]
            states, agrees = pooled_pass(host, [items[i] for i in chosen], layers, side)
            if not torch.isfinite(states).all():
                raise FitError(
                    f"{title}: non-finite states in batch {number}; load the model in float32 or bfloat16"
                )
            places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
            spill.store(number, places, states, agrees)
            bar.advance(task, len(chosen))
    return Activations(spill.states, spill.agrees, tuple(layers), starts)


def pooled_pass(
    host: ModelHost, items: Sequence[PooledSequence], layers: Sequence[int], side: Side
) -> tuple[Tensor, Tensor]:
    """One forward pass: float32 [P,L,d] pooled block outputs and int8 [P] agreement, both on the CPU."""
    inputs: dict[str, Any] = dict(host.batch([item.sequence for item in items], side))
    if side == "left" and not _places_images(host, inputs):
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    index = PoolIndex.of(items, inputs["input_ids"].shape[1], side)
    with torch.no_grad(), block_means(host.blocks, layers, index) as found:
        last = host.model.base_model(**inputs, use_cache=False).last_hidden_state
        agrees = torch.full_like(index.next_ids, -1, dtype=torch.int8)
        asked = (index.next_ids >= 0).nonzero()[:, 0]
        if len(asked):
            cells = (index.lengths.cumsum(0) - 1)[asked]
            rows, columns = index.rows[cells].to(last.device), index.columns[cells].to(last.device)
            said = host.model.get_output_embeddings()(last[rows, columns]).argmax(-1).cpu()
            agrees[asked] = (said == index.next_ids[asked]).to(torch.int8)
    return torch.stack([found[layer] for layer in layers], dim=1), agrees


def _places_images(host: ModelHost, inputs: dict[str, Any]) -> bool:
    """Whether the model works out positions in space itself, from the mask, as Qwen-VL does for batches with images."""
    return hasattr(host.model.base_model, "get_rope_index") and "mm_token_type_ids" in inputs


def request_key(
    host: ModelHost, items: Iterable[PooledSequence], layers: Sequence[int], batch_size: int, side: Side
) -> str:
    """Hex hash of everything that decides the bytes of a spill: weights, dtype, sequences, images, pools, layers, batches."""
    head = [
        LAYOUT,
        model_digest(host.model),
        str(host.dtype),
        host.device.type,
        list(layers),
        batch_size,
        side,
    ]
    digest = hashlib.sha256(json.dumps(head).encode())
    for item in items:
        prompt = item.sequence.prompt
        images = [file_digest(path) for path in prompt.images]
        digest.update(
            json.dumps([prompt.text, prompt.ids, images, item.sequence.response, item.pools]).encode()
        )
    return digest.hexdigest()[:32]


_DIGESTS: WeakKeyDictionary[Any, tuple[tuple[tuple[int, int], ...], str]] = WeakKeyDictionary()


def model_digest(model: Any) -> str:
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
    """Hex SHA-256 of a file's bytes, read again where its modification time has changed."""
    try:
        return _digest_of(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error}") from error


@lru_cache(maxsize=65536)
def _digest_of(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Spill:
    """The files of one request: ``KEY.npy`` float32 [P,L,d], ``KEY.agrees.npy`` int8 [P], ``KEY.done.npy`` uint8 [batches]."""

    def __init__(self, folder: Path, key: str, pools: int, layers: int, width: int, batches: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.states = self._open(folder / f"{key}.npy", "float32", (pools, layers, width))
        self.agrees = self._open(folder / f"{key}.agrees.npy", "int8", (pools,))
        self.done = self._open(folder / f"{key}.done.npy", "uint8", (batches,))

    @staticmethod
    def _open(path: Path, dtype: str, shape: tuple[int, ...]) -> Any:
        try:
            size = path.stat().st_size
            found = np.lib.format.open_memmap(path, mode="r+")
            whole = size == found.offset + found.nbytes  # NumPy fills a file that was cut off with zeros
            if whole and found.shape == shape and found.dtype == dtype:
                return found
        except (OSError, ValueError):
            pass  # absent, or cut off: begin anew
        for sibling in path.parent.glob(f"{path.name.split('.')[0]}.done.npy"):
            sibling.unlink()
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    def store(self, batch: int, places: np.ndarray[Any, Any], states: Tensor, agrees: Tensor) -> None:
        """Write one batch; it counts as done only once its vectors are on disk."""
        self.states[places] = states.numpy()
        self.agrees[places] = agrees.numpy()
        self.states.flush()
        self.agrees.flush()
        self.done[batch] = 1
        self.done.flush()
