"""One way to put R-MUSE together: a value for each of its parts."""

from __future__ import annotations

from dataclasses import dataclass, fields

PARTS: dict[str, tuple[str | int | float, ...]] = {
    "gate": ("ratio-0.6", "ratio-0.85", "none", "prompt_end", "token"),
    "prototypes": ("pooled", "natural-pooled", "positions", "resumed"),
    "target": ("svd", "shift", "mean"),
    "positives": ("forced", "natural"),
    "pooling": ("means", "openings"),
    "spans": ("both", "answer", "reasoning"),
    "protect": ("none", "direction", "exact"),
    "energy": (0.8, 0.5, 0.3),
    "angle": ("calibrated", "0.1", "0.2", "0.3", "0.5", "1"),
    "depth": (1, 3),
}
"""What the parts of a rotation to a direction may be; layers are the model's.

- gate: the paper's subspace ratio at a threshold; none; calibrated at the prompt's end; the one of `keyed`, which reads every column.
- prototypes, which bound a calibrated angle: means over whole forced refusals, one a row; the same of natural refusals; natural
  refusals position by position; with those of refusals forced on forget questions, where the model goes on with them by itself.
- target: `svd`, the paper's first singular vector of centred differences with the state's sign; `shift`, that of uncentred ones, from memory to
  refusal; `mean`, the plain mean difference.
- positives: refusals forced on forget questions, or those that the model says by itself.
- pooling: means over spans, or the states that the spans begin from (:data:`exporter.fitting.contrast.Pooling`).
- spans: those of a reply that the direction is made from.
- protect, energy: the retain subspace and the energy that it holds.

Beside these, target `add` adds the mean difference, as often as the angle says; `nearest` turns to the nearest prototype, `keyed` to that of
the nearest key. Their prototypes are of the spans named, and may be `single`, one for all keys.
"""


@dataclass(frozen=True)
class Combination:
    """Values of all parts; see :data:`PARTS`. The defaults are the paper's."""

    layer: int
    gate: str = "ratio-0.85"
    prototypes: str = "pooled"
    target: str = "svd"
    positives: str = "forced"
    pooling: str = "means"
    spans: str = "both"
    protect: str = "direction"
    energy: float = 0.8
    angle: str = "calibrated"
    depth: int = 1

    @property
    def key(self) -> str:
        """``layer=5 gate=token ...``: its row in the results."""
        return " ".join(f"{one.name}={getattr(self, one.name)}" for one in fields(self))

    @classmethod
    def of(cls, key: str) -> Combination:
        """The combination of a row's key, or of a part of one."""
        given = dict(pair.split("=", 1) for pair in key.split())
        kinds = {"layer": int, "depth": int, "energy": float}
        return cls(**{name: kinds.get(name, str)(value) for name, value in given.items()})  # type: ignore[arg-type]
