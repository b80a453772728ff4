"""A last look before a folder is written: the graphs answer random prompts as the model they were traced from does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from exporter.errors import CompileError
from exporter.host import ModelHost
from exporter.targets.onnx.families import Family

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}
"""Of the largest value: a graph that is wrong is far off. ``steerbake verify`` measures how near a right one comes."""
_LENGTH, _PADDING = 7, 2
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class Probe:
    """Two prompts of random tokens, one of them padded on the left, and what the model says to them.

    Attributes:
        ids, mask: [2, T] int64.
        logits: for gates given as 0, 1 and -1, logits [2, T, V]; only for -1 where no gate has a state.
        gates: [2, G] as they were decided.
        pictures: inputs and outputs of the vision encoder.
    """

    dtype: torch.dtype
    ids: np.ndarray
    mask: np.ndarray
    logits: dict[float, np.ndarray]
    gates: np.ndarray
    pictures: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None

    @classmethod
    def of(cls, host: ModelHost, family: Family, *, steered: bool) -> Probe:
        """Asks the model, which still steers by its own hooks; with ``steered`` False these are taken off first."""
        model = host.model
        if not steered:
            for handle in model._steering_handles:
                handle.remove()
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(
            3, min(80, model.get_input_embeddings().num_embeddings), (2, _LENGTH), generator=random
        )
        mask = torch.ones_like(ids)
        mask[1, :_PADDING] = 0
        count = len(model.steering.pooled_gates) if steered else 0
        logits, gates = {}, torch.zeros(2, 0)
        with torch.no_grad():
            for given in (0.0, 1.0, -1.0) if count else (-1.0,):
                inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": _positions(mask, family)}
                if count:
                    inputs["steering_gate"] = torch.full((2, count), given)
                if steered:
                    out = model(**inputs, use_cache=False)
                    gates = out.steering_gate
                    logits[given] = out.logits.float().numpy()
                else:
                    stock = type(model).forward.__wrapped__
                    logits[given] = (
                        stock(model, **inputs, use_cache=False, return_dict=True).logits.float().numpy()
                    )
            pictures = None
            if family.sees:
                vision = family.vision(model)
                seen = vision.example()
                told = vision(**seen)
                pictures = ({k: v.numpy() for k, v in seen.items()}, {k: v.numpy() for k, v in told.items()})
        return cls(host.dtype, ids.numpy(), mask.numpy(), logits, gates.numpy(), pictures)

    @property
    def features(self) -> int | None:
        """Features of one image; None where they depend on the image, or there are none."""
        if self.pictures is None or "image_grid_thw" in self.pictures[0]:
            return None
        images = int(np.prod(self.pictures[0]["pixel_values"].shape[:-3]))
        return int(self.pictures[1]["image_features"].shape[0]) // images

    def check(self, files: Mapping[str, Path]) -> None:
        """Runs the graphs; raises CompileError where one of them answers otherwise than the model did."""
        sessions = {role: _lean_session(path) for role, path in files.items()}
        if self.pictures is not None:
            seen, told = self.pictures
            names = [one.name for one in sessions["vision"].get_outputs()]
            found = dict(zip(names, sessions["vision"].run(names, seen), strict=True))
            for name, values in told.items():
                self._compare(files["vision"], name, found[name], values)
        decoder = sessions["decoder"]
        inputs = {one.name: one for one in decoder.get_inputs()}
        names = [one.name for one in decoder.get_outputs()]
        feed = {name: _fitting(one, self.ids.shape) for name, one in inputs.items()}
        if "inputs_embeds" in inputs:
            feed["inputs_embeds"] = sessions["embed"].run(["inputs_embeds"], {"input_ids": self.ids})[0]
        else:
            feed["input_ids"] = self.ids
        positions = np.maximum(self.mask.cumsum(-1) - 1, 0)
        feed["attention_mask"] = self.mask
        feed["position_ids"] = np.broadcast_to(positions, feed["position_ids"].shape).copy()
        for given, expected in self.logits.items():
            if "steering_gate" in feed:
                feed["steering_gate"] = np.full(self.gates.shape, given, np.float32)
            elif given != -1.0:
                continue
            out = dict(zip(names, decoder.run(names, feed), strict=True))
            real = self.mask.astype(bool)
            self._compare(
                files["decoder"], f"logits with gate {given:g}", out["logits"][real], expected[real]
            )
            decided = out.get("present_steering_gate")
            if given == -1.0 and decided is not None and not np.array_equal(decided, self.gates):
                raise CompileError(
                    f"{files['decoder'].name} decides the gates {decided.tolist()}, the model {self.gates.tolist()}"
                )

    def _compare(self, path: Path, what: str, found: np.ndarray, expected: np.ndarray) -> None:
        scale = max(1.0, float(np.abs(expected).max()))
        off = float(np.abs(found.reshape(expected.shape).astype(np.float32) - expected).max()) / scale
        if not off <= TOLERANCE[self.dtype]:
            raise CompileError(
                f"{path.name} is not the model it was traced from: {what} differ by {off:.2g} of their size; nothing was written"
            )


def _lean_session(path: Path) -> ort.InferenceSession:
    """A session for one look: no second copy of the weights in another order."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _positions(mask: torch.Tensor, family: Family) -> torch.Tensor:
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    return positions if family.position_rows == 1 else positions.expand(family.position_rows, *mask.shape)


def _fitting(one: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros for an input of a decoder: an empty past, no image."""
    sizes = {"batch_size": shape[0], "sequence_length": shape[1], "past_sequence_length": 0}
    axes = [size for size in one.shape if size != "total_sequence_length"]
    return np.zeros([sizes[size] if isinstance(size, str) else size for size in axes], _TYPES[one.type])
