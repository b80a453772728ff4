"""Pooled states on disk, found again by what they are states of, so that nothing is run twice for a run.

Every batch is two files: ``N.npy`` float32 [P,L,d], and ``N.json`` with the key and the number of pools of each of its sequences and
their agreement. The second is written last and by renaming, so a batch without it was cut off and is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.atomic import write_text


@dataclass(frozen=True)
class Stored:
    """Pools of one sequence: states float32 [pools,L,d], on disk, and agreement int8 [pools]."""

    states: NDArray[np.float32]
    agrees: NDArray[np.int8]


class StateStore:
    """The states in one folder, by key; the folder is created if missing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._found: dict[str, Stored] = {}
        self._next = 0
        for path in sorted(folder.glob("*.json")):
            self._next = int(path.stem) + 1
            self._read(path)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Stored:
        return self._found[key]

    def add(self, pools: Mapping[str, int], states: NDArray[np.float32], agrees: NDArray[np.int8]) -> None:
        """Keep one batch: states [P,L,d] and agreement [P] of sequences with so many ``pools`` each, by key, in order."""
        place = self.folder / f"{self._next:06d}.npy"
        self._next += 1
        np.save(place, np.ascontiguousarray(states, dtype=np.float32))
        write_text(place.with_suffix(".json"), json.dumps({"pools": dict(pools), "agrees": agrees.tolist()}))
        self._read(place.with_suffix(".json"))

    def _read(self, path: Path) -> None:
        """Take up a batch; one whose states are not all there is left out, and made again when it is asked for."""
        try:
            header = json.loads(path.read_text())
            states = np.load(path.with_suffix(".npy"), mmap_mode="r")
        except (OSError, ValueError):
            return
        agrees = np.array(header["agrees"], dtype=np.int8)
        if len(states) != sum(header["pools"].values()) or len(states) != len(agrees):
            return
        start = 0
        for key, count in header["pools"].items():
            self._found[key] = Stored(states[start : start + count], agrees[start : start + count])
            start += count
