"""A last look before a folder is written: the graphs answer random prompts, however they are cut, as the model they were traced from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from exporter.errors import CompileError
from exporter.host import ModelHost
from exporter.targets.onnx.families import Family, own_forward

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}
"""Of the largest value: a graph that is wrong is far off. ``steerbake verify`` measures how near a right one comes."""
_LENGTH, _PADDING = 7, 2
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class Probe:
    """Two prompts of random tokens with generation headers among them, one padded on the left, and what the model says to them.

    Attributes:
        ids, mask: [2, T] int64.
        logits: for gates given as 0, 1 and -1, logits [2, T, V]; only for -1 where there are no gates.
        gates: [2, T, G] as they were decided.
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
        """Asks the model, which still steers by its own hooks; with ``steered`` False these are taken off first, where it has any."""
        model = host.model
        if not steered:
            for handle in getattr(model, "_steering_handles", ()):
                handle.remove()
        random = torch.Generator().manual_seed(0)
        headers = model.steering.section.get("headers", ()) if steered else ()
        known = min(80, model.get_input_embeddings().num_embeddings)
        ids = _with_headers(torch.randint(3, known, (2, _LENGTH), generator=random), headers)
        mask = torch.ones_like(ids)
        mask[1, :_PADDING] = 0
        count = len(model.steering.gate_names) if steered else 0
        logits, gates = {}, torch.zeros(*ids.shape, 0)
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
                    out = own_forward(model)(model, **inputs, use_cache=False, return_dict=True)
                    logits[given] = out.logits.float().numpy()
            pictures = None
            if family.sees:
                vision = family.vision(model)
                seen = vision.example()
                features = vision(**seen)
                pictures = (
                    {k: v.numpy() for k, v in seen.items()},
                    {k: v.numpy() for k, v in features.items()},
                )
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
            seen, features = self.pictures
            names = [one.name for one in sessions["vision"].get_outputs()]
            found = dict(zip(names, sessions["vision"].run(names, seen), strict=True))
            for name, values in features.items():
                self._compare(files["vision"], name, found[name], values)
        for given, expected in self.logits.items():
            if given != -1.0 and not any(
                one.name == "steering_gate" for one in sessions["decoder"].get_inputs()
            ):
                continue
            self._check_pass(files["decoder"], sessions, given, expected, [self.ids.shape[1]])
        length = self.ids.shape[1]
        for cuts in ([length // 2, length], list(range(1, length + 1))):
            self._check_pass(files["decoder"], sessions, -1.0, self.logits[-1.0], cuts)

    def _check_pass(
        self,
        path: Path,
        sessions: Mapping[str, ort.InferenceSession],
        given: float,
        expected: np.ndarray,
        cuts: Sequence[int],
    ) -> None:
        """Runs the prompts in passes that end at these columns."""
        decoder = sessions["decoder"]
        inputs = {one.name: one for one in decoder.get_inputs()}
        names = [one.name for one in decoder.get_outputs()]
        positions = np.maximum(self.mask.cumsum(-1) - 1, 0)
        found: dict[str, list[np.ndarray]] = {"logits": [], "steering_gates": []}
        state: dict[str, np.ndarray] = {}
        for start, stop in zip((0, *cuts), cuts, strict=False):
            ids = self.ids[:, start:stop]
            feed = {name: _fitting(one, ids.shape) for name, one in inputs.items()} | state
            if "inputs_embeds" in inputs:
                feed["inputs_embeds"] = sessions["embed"].run(["inputs_embeds"], {"input_ids": ids})[0]
            else:
                feed["input_ids"] = ids
            feed["attention_mask"] = self.mask[:, :stop]
            feed["position_ids"] = np.broadcast_to(
                positions[:, start:stop], feed["position_ids"].shape
            ).copy()
            if "steering_gate" in feed:
                feed["steering_gate"] = np.full_like(feed["steering_gate"], given)
            out = dict(zip(names, decoder.run(names, feed), strict=True))
            state = {name: out[_present(name)] for name in inputs if _present(name) in out}
            for name, parts in found.items():
                parts.extend([out[name]] if name in out else [])
        real = self.mask.astype(bool)
        if given == -1.0 and found["steering_gates"]:
            same = (np.concatenate(found["steering_gates"], axis=1) == self.gates).all(-1) | ~real
            if self.dtype == torch.float32 and not same.all():
                raise CompileError(
                    f"the gates of {path.name} differ from those of the model it was traced from, in {len(cuts)} passes; nothing was "
                    "written"
                )
            # In float16 a score next to its threshold may fall to either side; what comes behind is then another text.
            real &= np.logical_and.accumulate(same, axis=1)
        what = f"logits with gate {given:g} in {len(cuts)} passes"
        self._compare(path, what, np.concatenate(found["logits"], axis=1)[real], expected[real])

    def _compare(self, path: Path, what: str, found: np.ndarray, expected: np.ndarray) -> None:
        scale = max(1.0, float(np.abs(expected).max()))
        off = float(np.abs(found.reshape(expected.shape).astype(np.float32) - expected).max()) / scale
        if not off <= TOLERANCE[self.dtype]:
            raise CompileError(
                f"{path.name} differs from the model it was traced from: {what} differ by {off:.2g} of their size; nothing was written"
            )


def _lean_session(path: Path) -> ort.InferenceSession:
    """A session for one look: no second copy of the weights in another order."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _with_headers(ids: torch.Tensor, headers: Sequence[Sequence[int]]) -> torch.Tensor:
    """Tokens [2, T] with the first header in the middle of one row and the last in that of the other, as many behind them as before."""
    if not headers:
        return ids
    width = max(map(len, headers))
    middle = ids.repeat(1, 1 + width // ids.shape[1])[:, :width].clone()
    for row, header in ((0, headers[0]), (1, headers[-1])):
        middle[row, : len(header)] = torch.tensor(header)
    return torch.cat([ids, middle, ids.flip(1)], dim=1)


def _present(name: str) -> str:
    """The output that comes back as an input of the next pass."""
    return (
        "present_steering_state" if name == "steering_state" else name.replace("past_key_values.", "present.")
    )


def _positions(mask: torch.Tensor, family: Family) -> torch.Tensor:
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    return positions if family.position_rows == 1 else positions.expand(family.position_rows, *mask.shape)


def _fitting(one: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros for an input of a decoder: an empty past, no image."""
    sizes = {"batch_size": shape[0], "sequence_length": shape[1], "past_sequence_length": 0}
    axes = [size for size in one.shape if size != "total_sequence_length"]
    return np.zeros([sizes[size] if isinstance(size, str) else size for size in axes], _TYPES[one.type])
