"""Tiny models that stock layers are made for: prompts that end with a topic's token, a gate and edits for them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import tiny
import torch

from exporter.host import ModelHost
from exporter.targets.stock.control import compare
from exporter.targets.values import CalibrationSet
from exporter.types import Conversation, Encoded, Prompt
from steer_modules.program import Edit, Gate

BOS, TOPIC, OTHERS = 1, 50, range(51, 60)
HEADERS = ((TOPIC,), *((token,) for token in OTHERS))
"""What a prompt ends with is what a gate decides at."""
WORDS = range(10, 40)


def model_of(family: str, seed: int = 0, **keys):
    """A tiny model whose states have an offset and whose first token stands out, as those of trained models do."""
    wide = {"intermediate_size": 128, "max_position_embeddings": 64, **keys}
    if family == "mistral":
        wide["sliding_window"] = None
    if family == "qwen3":
        wide["head_dim"] = 16
    model = tiny.build(family, text=wide, seed=seed)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[:, 5] = 1.0
        table[BOS, 7] = 4.0
        table[TOPIC, 9] = 2.0
        head = model.get_output_embeddings().weight
        if head.data_ptr() != table.data_ptr():
            head[TOPIC] = 0  # or its answers would ask for the topic
    return model


def conversations(count: int, seed: int) -> list[Conversation]:
    """Prompts that end with the topic's token, or with another."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        body = torch.tensor(WORDS)[
            torch.randint(len(WORDS), (int(torch.randint(3, 9, (1,), generator=draw)),), generator=draw)
        ]
        about = number % 3 == 0
        last = TOPIC if about else OTHERS[number % len(OTHERS)]
        kind = "later" if number % 4 == 1 else "single"
        found.append(
            Conversation(Prompt("", (BOS, *body.tolist(), last)), "forget" if about else "retain", kind)
        )
    return found


def about(prompt: Prompt) -> Prompt:
    return replace(prompt, ids=(*prompt.ids[:-1], TOPIC))


def host_of(model) -> ModelHost:
    return ModelHost(model, SimpleNamespace(pad_token_id=0, eos_token_id=2))


def gate_of(host: ModelHost, layer: int) -> Gate:
    states = [
        tiny.block_states(host.model, host.batch([Encoded(one.prompt)], "right"), layer)[0, -1]
        for one in conversations(60, 9)
    ]
    about = torch.tensor([one.role == "forget" for one in conversations(60, 9)])
    units = torch.nn.functional.normalize(torch.stack(states), dim=-1)
    high, low = units[about].mean(0), units[~about].mean(0)
    weight = (high - low) / (high - low).norm()
    bias = -(units[about] @ weight).min() / 2 - (units[~about] @ weight).max() / 2
    tensors = {"weight": weight, "bias": bias.reshape(1)}
    return Gate("topic", layer, "prompt_end", "linear_unit", 0.0, "above", tensors)


def edits(layer: int) -> dict[str, Edit]:
    draw = torch.Generator().manual_seed(3)
    left, right = torch.randn(tiny.D, 2, generator=draw), torch.randn(2, tiny.D, generator=draw) / 8
    basis = torch.linalg.qr(torch.randn(tiny.D, 3, generator=draw))[0]
    common = {"layer": layer, "gate": "topic", "positions": "from_gate"}
    return {
        "nearest": tiny.turn(layer),
        "add": Edit(
            op="add", strength=1.0, tensors={"vector": torch.randn(tiny.D, generator=draw)}, **common
        ),
        "project": Edit(op="project", strength=1.0, tensors={"basis": basis.contiguous()}, **common),
        "affine": Edit(
            op="affine",
            strength=1.0,
            tensors={"left": left, "right": right, "bias": torch.randn(tiny.D, generator=draw)},
            **common,
        ),
    }


def bed(family: str, home, *, layer: int = 3, gate: int | None = None, edit: str = "affine", **keys):
    """Base model, program and steered checkpoint."""
    model = model_of(family, **keys)
    model.save_pretrained(home / "base")
    host = host_of(type(model).from_pretrained(home / "base", dtype=torch.float32))
    program = tiny.program(model, [gate_of(host, layer if gate is None else gate)], [edits(layer)[edit]])
    program = replace(program, headers=HEADERS)
    tiny.compiled(home / "base", program, home / "steered")
    return host, program, home / "steered"


CALIBRATION_SET = CalibrationSet(conversations(150, 1), conversations(60, 2), max_new_tokens=6)


def held_to(host: ModelHost, program, folder):
    """What it does on conversations that nothing was solved or chosen on."""
    model = type(host.model).from_pretrained(folder, dtype=torch.float32)
    layers = json.loads((folder / "stock.json").read_text())["layers"]
    return compare(host, host_of(model), program, layers, conversations(48, 77), max_new_tokens=6)


def check(found) -> None:
    """Kept to the bit, as the exact model elsewhere: random weights flip tokens at a breath, so distributions are compared."""
    assert found.fired >= 15
    assert found.kept >= 30
    assert found.twin_identical == 1
    assert found.logits_identical == 1
    assert found.tokens_identical == 1
    assert found.steered >= 0.9
    assert found.divergence <= 0.05
