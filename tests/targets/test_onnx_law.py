"""The law in graphs: however random sequences are cut into passes, padded and mixed with headers, gates and logits are those of one
whole pass, by an oracle that walks over columns one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tiny
import torch

from exporter.targets.onnx import graphs
from exporter.targets.onnx.decoder import DecoderGraph, Embedding
from exporter.targets.onnx.families import family_of
from exporter.targets.onnx.steering_nodes import bodies
from steer_modules.attach import attach
from steer_modules.ops import fires
from steer_modules.program import Edit, Gate, SteeringProgram
from steer_modules.steering_layer import Steering

HEADERS = ((5, 6, 7), (6, 7, 6, 7), (8,))
POOLS = ("prompt_end", "token", "prompt_mean")
LAYERS = 3
RANDOM = np.random.default_rng(0)


@dataclass
class Made:
    """The graph of a tiny model, and what the oracle needs of it."""

    base: Any
    steering: Steering
    decoder: DecoderGraph
    embedding: Embedding
    session: ort.InferenceSession

    @property
    def inputs(self) -> dict[str, Any]:
        return {one.name: one for one in self.session.get_inputs()}

    def positions(self, mask: np.ndarray) -> np.ndarray:
        counted = np.maximum(mask.cumsum(-1) - 1, 0)
        rows = self.decoder.family.position_rows
        return counted if rows == 1 else np.broadcast_to(counted, (rows, *counted.shape))


def program(base: Any, pools: tuple[str, ...], thresholds: Sequence[float]) -> SteeringProgram:
    """One gate per pool, at the first two blocks; edits by one gate, by any of all, and always."""
    random = torch.Generator().manual_seed(3)
    weights = [torch.randn(tiny.D, generator=random) for _ in pools]
    gates = [
        Gate(f"g{i}", i % 2, pool, "linear", threshold, "above", {"weight": weight, "bias": torch.zeros(1)})
        for i, (pool, threshold, weight) in enumerate(zip(pools, thresholds, weights, strict=True))
    ]
    asked = {0: None, 1: "g0", 2: tuple(gate.name for gate in gates)}
    edits = [
        Edit(
            layer,
            gate,
            "add",
            "all" if gate is None else "from_gate",
            tensors={"vector": 0.3 * torch.randn(tiny.D, generator=random)},
        )
        for layer, gate in asked.items()
    ]
    return replace(tiny.program(base, gates, edits), headers=HEADERS)


def blocks_of(model: Any) -> Any:
    decoder = model.get_decoder()
    return decoder.layers if hasattr(decoder, "layers") else decoder.h


class Oracle:
    """One whole pass of the base with the steering of docs/format.md, column by column."""

    def __init__(self, made: Made, ids: np.ndarray, mask: np.ndarray) -> None:
        self.made, self.mask = made, mask
        self.ends = np.zeros_like(mask, bool)
        for row in range(len(ids)):
            real = np.flatnonzero(mask[row])
            said = ids[row, real].tolist()
            for at, column in enumerate(real):
                self.ends[row, column] = any(said[: at + 1][-len(one) :] == list(one) for one in HEADERS)
        self.on: dict[str, torch.Tensor] = {}
        self.scores: dict[str, list[float]] = {}
        handles = [
            block.register_forward_hook(lambda _m, _i, out, index=index: self._at(index, out))
            for index, block in enumerate(blocks_of(made.base))
        ]
        positions = torch.from_numpy(made.positions(mask).copy())
        with torch.no_grad():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            self.logits = made.base(**inputs, position_ids=positions).logits.numpy()
        for handle in handles:
            handle.remove()
        names = [gate["name"] for gate in made.steering.section["gates"]]
        self.gates = torch.stack([self.on[name] for name in names], dim=-1).float().numpy()

    def _at(self, index: int, out: Any) -> Any:
        states = out[0] if isinstance(out, tuple) else out
        for gate in self.made.steering.section["gates"]:
            if gate["layer"] == index:
                self.on[gate["name"]] = self._gate(gate, states)
        for edit in self.made.steering.section["edits"]:
            if edit["layer"] == index:
                where = torch.from_numpy(self.mask.astype(bool))
                if edit["gate"] is not None:
                    asked = [edit["gate"]] if isinstance(edit["gate"], str) else edit["gate"]
                    where = where & torch.stack([self.on[name] for name in asked]).any(0)
                module: Any = self.made.steering.layers[str(index)]
                states = torch.where(where.unsqueeze(-1), module.edit(states), states)
        return (states, *out[1:]) if isinstance(out, tuple) else states

    def _gate(self, gate: dict[str, Any], states: torch.Tensor) -> torch.Tensor:
        module: Any = self.made.steering.gates[gate["name"]]
        found = torch.zeros(self.mask.shape, dtype=torch.bool)
        for row, real in enumerate(self.mask):
            seen: list[torch.Tensor] = []
            on = False
            for column in range(self.mask.shape[1]):
                if real[column]:
                    seen.append(states[row, column].float())
                    read = torch.stack(seen).mean(0) if gate["pool"] == "prompt_mean" else seen[-1]
                    if gate["pool"] == "token" or self.ends[row, column]:
                        score = module.score(read)
                        self.scores.setdefault(gate["name"], []).append(float(score))
                        on = on or bool(fires(score, gate["threshold"], gate["fires"]))
                found[row, column] = on
        return found


def sequences(trial: int) -> tuple[np.ndarray, np.ndarray]:
    """Three rows of tokens, most of them a header's; whole, padded on the left, or with holes everywhere."""
    shape = (3, int(RANDOM.integers(3, 20)))
    ids = np.where(RANDOM.random(shape) < 0.7, RANDOM.integers(5, 9, shape), RANDOM.integers(9, 80, shape))
    mask = np.ones(shape, np.int64)
    if trial % 3 == 1:
        mask[1, : shape[1] // 2], mask[2, :1] = 0, 0
    if trial % 3 == 2:
        mask = (RANDOM.random(shape) < 0.7).astype(np.int64)
        mask[:, 0] = 1
    return ids, mask


def cuts(trial: int, length: int) -> list[int]:
    if trial % 4 == 0:
        return list(range(1, length + 1))
    return [*sorted(RANDOM.choice(np.arange(1, length), min(length - 1, trial % 5), replace=False)), length]


def passes(
    made: Made, ids: np.ndarray, mask: np.ndarray, ends: list[int], given: float = -1.0
) -> Iterator[dict[str, Any]]:
    """The outputs of each pass."""
    rows, size = len(ids), made.decoder.size
    names = [one.name for one in made.session.get_outputs()]
    empty = np.zeros((rows, size.kv_heads, 0, size.head_dim), np.float32)
    state: dict[str, Any] = {name: empty for name in made.inputs if name.startswith("past_key_values.")}
    if "steering_state" in made.inputs:
        state["steering_state"] = np.zeros((rows, made.decoder.nodes.layout.features), np.float32)
    for start, stop in zip([0, *ends], ends, strict=False):
        piece = ids[:, start:stop]
        feed = {"attention_mask": mask[:, :stop], "input_ids": piece, **state}
        feed["position_ids"] = np.ascontiguousarray(made.positions(mask)[..., start:stop])
        feed["inputs_embeds"] = made.embedding.rows(torch.from_numpy(piece)).detach().numpy()
        feed["steering_gate"] = np.full((rows, made.decoder.nodes.layout.gates), given, np.float32)
        feed["token_type_ids"] = np.zeros_like(piece)
        feed["deepstack_features.0"] = np.zeros((*piece.shape, tiny.D), np.float32)
        out = dict(
            zip(
                names,
                made.session.run(names, {k: v for k, v in feed.items() if k in made.inputs}),
                strict=True,
            )
        )
        for name in state:
            state[name] = out[
                "present_" + name if name.startswith("st") else name.replace("past_key_values", "present")
            ]
        yield out


@pytest.fixture(scope="module")
def made(request, tmp_path_factory) -> Made:
    family, mode = request.param
    pools = POOLS if mode == "io" or family == "gpt2" else POOLS[:2]
    base, twin = (tiny.build(family, layers=LAYERS) for _ in range(2))
    embedding = Embedding(base)
    draft = attach(tiny.build(family, layers=LAYERS), program(base, pools, [0.0] * len(pools))).steering
    probe: Any = Made(base, draft, SimpleNamespace(family=family_of(family)), embedding, None)  # type: ignore[arg-type]
    seen = [Oracle(probe, *sequences(trial)).scores for trial in range(3)]
    # Thresholds at which some columns fire and most do not, so that a latch falls into the middle of a row.
    share = {"prompt_end": 0.7, "token": 0.95, "prompt_mean": 0.7}
    thresholds = [
        float(np.quantile([score for one in seen for score in one.get(f"g{i}", [])], share[pool])) + 1e-3
        for i, pool in enumerate(pools)
    ]
    attach(twin, program(base, pools, thresholds))
    host: Any = SimpleNamespace(model=twin, num_layers=LAYERS, dtype=torch.float32, blocks=blocks_of(twin))
    decoder = DecoderGraph(host, family_of(family), mode)
    path = Path(tmp_path_factory.mktemp("law")) / "model.onnx"
    with torch.no_grad():
        graph = graphs.traced(decoder, decoder.example(), decoder.axes())
        graphs.add_functions(graph, bodies(twin.steering, torch.float32, decoder.nodes.table))
        graphs.save(graph, path, {})
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Made(base, twin.steering, decoder, embedding, session)


# The state and the headers by ids and by embeddings, in both modes; a window that sequences are longer than (gemma3), other positions.
CASES = [
    ("llama", "kv"),
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            ("llama", "io"),
            ("gpt2", "kv"),
            ("llava", "kv"),
            ("gemma3", "kv"),
            ("qwen3_vl", "io"),
        )
    ),
]


@pytest.mark.parametrize("made", CASES, indirect=True, ids=str)
def test_any_cut_gives_what_one_pass_gives(made):
    mixed = np.zeros(len(made.steering.section["gates"]), bool)
    for trial in range(40):
        ids, mask = sequences(trial)
        wanted, real = Oracle(made, ids, mask), mask.astype(bool)
        found = list(passes(made, ids, mask, cuts(trial, ids.shape[1])))
        gates = np.concatenate([one["steering_gates"] for one in found], axis=1)
        np.testing.assert_array_equal(gates[real], wanted.gates[real], err_msg=f"trial {trial}")
        logits = np.concatenate([one["logits"] for one in found], axis=1)
        np.testing.assert_allclose(logits[real], wanted.logits[real], atol=1e-4, err_msg=f"trial {trial}")
        mixed |= [0.05 < share < 0.95 for share in wanted.gates[real].mean(0)]
    assert mixed.all(), "the control: every gate must be on at some columns and off at others"


@pytest.mark.parametrize("made", CASES, indirect=True, ids=str)
def test_a_cache_of_steered_columns_may_be_reordered_repeated_and_cropped(made):
    if "steering_state" in made.inputs:
        pytest.skip("here the state of the last column alone comes out")
    for trial in range(6):
        ids, mask = sequences(1)
        length = ids.shape[1]
        cut, rows = length // 2, [2, 0, 2, 1]
        *_, held = passes(made, ids, mask, [length])
        *_, wanted = passes(made, ids[rows], mask[rows], [cut, length])
        feed = {
            name: held[name.replace("past_key_values", "present")][rows][:, :, :cut]
            for name in made.inputs
            if name.startswith("past")
        }
        piece = ids[rows][:, cut:]
        feed |= {"input_ids": piece, "attention_mask": mask[rows], "token_type_ids": np.zeros_like(piece)}
        feed["inputs_embeds"] = made.embedding.rows(torch.from_numpy(piece)).detach().numpy()
        feed["position_ids"] = np.ascontiguousarray(made.positions(mask[rows])[..., cut:])
        names = ["logits", "steering_gates"]
        found = made.session.run(names, {k: v for k, v in feed.items() if k in made.inputs})
        real = mask[rows][:, cut:].astype(bool)
        for name, one in zip(names, found, strict=True):
            np.testing.assert_allclose(one[real], wanted[name][real], atol=1e-4, err_msg=f"{trial} {name}")


@pytest.mark.parametrize("made", CASES, indirect=True, ids=str)
def test_gates_are_forced_on_and_held_off(made):
    if "steering_gate" not in made.inputs:
        pytest.skip("a runtime that carries keys and values gives no gates")
    ids, mask = sequences(1)
    for given in (0.0, 1.0):
        for out in passes(made, ids, mask, [2, ids.shape[1]], given):
            assert (out["steering_gates"] == given).all()


@pytest.mark.parametrize("made", CASES, indirect=True, ids=str)
def test_a_past_without_a_state_switches_every_gate_on(made):
    ids, mask = sequences(0)
    (first,) = passes(made, ids, mask, [ids.shape[1]])
    feed = {
        name: first[name.replace("past_key_values", "present")]
        for name in made.inputs
        if name.startswith("past")
    }
    last = max((name for name in feed if name.endswith(".key")), key=lambda name: int(name.split(".")[1]))
    token = np.full((3, 1), 40)
    whole = np.ones((3, ids.shape[1] + 1), np.int64)
    feed |= {"input_ids": token, "attention_mask": whole, "token_type_ids": np.zeros_like(token)}
    feed["inputs_embeds"] = made.embedding.rows(torch.from_numpy(token)).detach().numpy()
    feed["position_ids"] = np.ascontiguousarray(made.positions(whole)[..., -1:])
    feed["deepstack_features.0"] = np.zeros((3, 1, tiny.D), np.float32)
    if "steering_state" in made.inputs:
        feed["steering_state"] = np.zeros((3, made.decoder.nodes.layout.features), np.float32)
        feed["steering_gate"] = np.full((3, made.decoder.nodes.layout.gates), -1, np.float32)
    else:
        feed[last] = np.zeros_like(feed[last])
    found = made.session.run(["steering_gates"], {k: v for k, v in feed.items() if k in made.inputs})[0]
    assert found.all()
