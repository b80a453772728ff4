"""The gates that a combination may have, fitted once and stored: the paper's, one at the prompt's end, one that reads every column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.r_muse_parts.parts import Parts
from exporter.atomic import whole_folder
from exporter.errors import FitError
from exporter.fitting.calibrate import Candidate
from exporter.fitting.context import FitContext
from exporter.fitting.gates import GatePlan, choose_gates
from exporter.fitting.token_gates import TokenGatePlan, choose_token_gates
from steer_modules.program import Edit, Gate, SteeringProgram

RATIO = "ratio-"
ENERGY = 0.8


class Gates:
    """Gates by kind and edited layer.

    Args:
        folder: where fitted gates are stored; those that lie there are not fitted again.
        token: a gate that reads every column, in place of one that is fitted.
    """

    def __init__(
        self,
        parts: Parts,
        folder: Path,
        prompt_end: GatePlan,
        subject: TokenGatePlan,
        token: Gate | None = None,
    ) -> None:
        self.parts, self.folder, self.prompt_end, self.subject = parts, folder, prompt_end, subject
        self._found: dict[str, list[Gate]] = {} if token is None else {"token": [token]}

    def at(self, kind: str, layer: int) -> Gate | None:
        """The best gate of a kind that is read at or before a layer; None for the kind "none".

        Raises:
            FitError: all gates of the kind are read above the layer.
        """
        if kind == "none":
            return None
        if kind.startswith(RATIO):
            basis = self.parts.retain_basis(layer, ENERGY, centred=True)
            tau = float(kind.removeprefix(RATIO))
            return Gate("topic", layer, "prompt_end", "subspace_ratio", tau, "below", {"basis": basis})
        if kind not in self._found:
            self._found[kind] = self._stored(kind)
        below = [gate for gate in self._found[kind] if gate.layer <= layer]
        if not below:
            raise FitError(f"no gate of kind {kind} is read at or before block {layer}")
        return replace(below[0], name="topic")

    def _stored(self, kind: str) -> list[Gate]:
        folder = self.folder / kind
        if not folder.is_dir():
            with whole_folder(folder) as partial:
                for number, gate in enumerate(_first_of_each_layer(self._fitted(kind))):
                    place = partial / f"{number:02}"
                    place.mkdir()
                    _carrier(self.parts.context, gate).save(place)
        return [SteeringProgram.load(place).gates[0] for place in sorted(folder.iterdir())]

    def _fitted(self, kind: str) -> Sequence[Candidate]:
        context, chosen = self.parts.context, self.parts.wordings
        if kind == "token":
            return choose_token_gates(context, self.subject, chosen)
        return choose_gates(context, self.prompt_end, chosen)


def _first_of_each_layer(found: Sequence[Candidate]) -> list[Gate]:
    best: dict[int, Gate] = {}
    for candidate in found:
        best.setdefault(candidate.gate.layer, candidate.gate)
    return list(best.values())


def _carrier(context: FitContext, gate: Gate) -> SteeringProgram:
    """A program that has the gate and changes nothing: a gate is stored in no other way."""
    nothing = {"vector": torch.zeros(context.host.hidden_size)}
    edit = Edit(context.host.num_layers - 1, gate.name, "add", "from_gate", tensors=nothing)
    return context.program("r_muse_parts", [gate], [edit])
