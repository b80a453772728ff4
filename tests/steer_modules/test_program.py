"""A program is understood to the last key, or refused by name."""

from __future__ import annotations

import copy
import hashlib
import json

import pytest
import torch

from steer_modules.checks import ProgramError, check_program
from steer_modules.ops import unit
from steer_modules.program import BaseModelRef, Canary, Edit, Gate, SteeringProgram

D = 6


def eye(rank: int) -> torch.Tensor:
    return torch.eye(D)[:, :rank].contiguous()


def whole() -> SteeringProgram:
    """One gate of each score and one edit of each op."""
    f, r = unit(torch.randn(2, D)), unit(torch.randn(3, D))
    gates = (
        Gate(
            "topic",
            0,
            "prompt_end",
            "prototype_margin",
            0.1,
            "above",
            {"forget_prototypes": f, "retain_prototypes": r},
        ),
        Gate(
            "share",
            0,
            "prompt_mean",
            "subspace_ratio",
            0,
            "below",
            {"basis": eye(2), "center": torch.randn(D)},
        ),
        Gate("line", 1, "token", "linear", -0.5, "above", {"weight": torch.randn(D), "bias": torch.zeros(1)}),
        Gate(
            "ball",
            1,
            "prompt_end",
            "linear_unit",
            0.0,
            "above",
            {"weight": torch.randn(D), "bias": torch.zeros(1)},
        ),
    )
    keyed = {"keys": torch.randn(4, D), "prototypes": torch.randn(4, D), "key_center": torch.randn(D)}
    exact = {"direction": torch.randn(D), "prototypes": torch.randn(2, D), "retain_basis": eye(2)}
    edits = (
        Edit(
            1,
            "topic",
            "rotate",
            "from_gate",
            strength=1,
            target="keyed",
            angle="fraction",
            protect="none",
            tensors=keyed,
        ),
        Edit(
            2,
            "share",
            "rotate",
            "from_gate",
            target="direction",
            angle="calibrated",
            protect="exact",
            sign="state",
            tensors=exact,
        ),
        Edit(
            3,
            ("line", "topic"),
            "add",
            "from_gate",
            strength=0.5,
            keep_norm=True,
            tensors={"vector": torch.randn(D)},
        ),
        Edit(4, "ball", "project", "from_gate", tensors={"basis": eye(3)}),
        Edit(
            5,
            None,
            "affine",
            "all",
            tensors={"left": torch.randn(D, 2), "right": torch.randn(2, D), "bias": torch.zeros(D)},
        ),
    )
    base = BaseModelRef("LlamaForCausalLM", "llama")
    canary = (Canary((1, 4, 5), 1, (3, 2)), Canary((1, 4, 5), 0, (7,)))
    return SteeringProgram("test", D, 7, base, gates, edits, ((4, 5), (6,)), canary)


def test_saved_programs_come_back(tmp_path):
    program = whole()
    program.save(tmp_path)
    again = SteeringProgram.load(tmp_path)
    assert again.signed_section() == program.signed_section()
    assert all(torch.equal(t, again.tensors()[n]) for n, t in program.tensors().items())
    first = (tmp_path / "steering.safetensors").read_bytes()
    program.save(tmp_path)
    assert (tmp_path / "steering.safetensors").read_bytes() == first


def test_sha256_is_the_documented_one():
    program = whole()
    section = program.section()
    text = json.dumps(section, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(program.tensors().items()):
        digest.update(
            name.encode()
            + b"F32["
            + ",".join(map(str, tensor.shape)).encode()
            + b"]"
            + tensor.numpy().tobytes()
        )
    assert program.sha256 == digest.hexdigest()


def test_sha256_tells_1_from_1_point_0():
    section = whole().signed_section()
    section["edits"][0]["strength"] = 1.0
    with pytest.raises(ProgramError, match="sha256"):
        SteeringProgram.parse(section, whole().tensors())


@pytest.mark.parametrize("name", sorted(whole().tensors()))
def test_a_changed_or_missing_tensor_is_refused(name):
    program = whole()
    tensors = {n: t.clone() for n, t in program.tensors().items()}
    tensors[name].view(-1)[0] += 1e-6
    with pytest.raises(ProgramError, match="sha256"):
        SteeringProgram.parse(program.signed_section(), tensors)
    if not name.endswith((".center", ".key_center")):
        del tensors[name]
        with pytest.raises(ProgramError, match=f"{name} is missing"):
            SteeringProgram.parse(program.signed_section(), tensors)


def change(path: str, value: object):
    def apply(section: dict) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        for key in parents:
            section = section[key]
        if value is KeyError:
            del section[last]
        else:
            section[last] = value

    return apply


BAD = [
    ("format", "steerbake/1", "--upgrade"),
    ("format", "steerbake/3", "steerbake/3"),
    ("headers", KeyError, "'headers' is missing"),
    ("headers", [], "headers is empty"),
    ("headers", [[]], "token ids"),
    ("headers", [[1, -2]], "token ids"),
    ("canary.0.gate", 2, "expected 0 or 1"),
    ("canary.0.argmax", [1, 2, 3, 4], r"canary\[0\]: .*argmax"),
    ("canary.1.note", "x", "unknown key 'note'"),
    ("edits.3.gate", ["ball"], "two or more"),
    ("edits.2.gate", ["line", "line"], "two or more"),
    ("edits.2.gate", ["line", "other"], "known: topic"),
    ("edits.4.positions", "from_gate", "'all' without a gate"),
    ("edits.0.positions", "all", "'all' without a gate"),
    ("extra", 1, "unknown key 'extra'"),
    ("method", KeyError, "'method' is missing"),
    ("hidden_size", 0, "hidden_size"),
    ("num_layers", True, "num_layers"),
    ("base.revision", "x", "unknown key 'revision'"),
    ("base.model_type", KeyError, "'model_type' is missing"),
    ("base.fingerprint", "abc", "fingerprint"),
    ("gates.0.name", "Topic", "a-z"),
    ("gates.0.name", "training", "attribute of a torch module"),
    ("gates.1.name", "topic", "another gate"),
    ("gates.0.layer", 7, "layer"),
    ("gates.0.layer", 1.0, "layer"),
    ("gates.0.layer", 2, "above the edit's layer"),
    ("gates.0.pool", "last", "known: prompt_end"),
    ("gates.0.score", "cosine", "known: subspace_ratio"),
    ("gates.0.fires", "equal", "known: below"),
    ("gates.0.threshold", float("inf"), "finite"),
    ("gates.0.threshold", "0.1", "finite"),
    ("gates.0.strict", True, "unknown key 'strict'"),
    ("edits", [], "empty"),
    ("edits.0.gate", "other", "known: topic"),
    ("edits.0.gate", KeyError, "'gate' is missing"),
    ("edits.0.op", "turn", "known: rotate"),
    ("edits.0.strength", 1.5, "from 0 to 1"),
    ("edits.0.strength", float("nan"), "finite"),
    ("edits.0.positions", "to_prompt_end", "known: all"),
    ("edits.0.sign", "state", "unknown key 'sign'"),
    ("edits.0.keep_norm", True, "unknown key 'keep_norm'"),
    ("edits.1.strength", 0.5, "calibrated"),
    ("edits.1.layer", 1, "already has an edit"),
    ("edits.1.protect", "all", "known: none"),
    ("edits.2.keep_norm", 1, "true or false"),
    ("edits.2.target", "direction", "unknown key 'target'"),
    ("canary", [], None),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{p}={v}" for p, v, _ in BAD])
def test_every_broken_key_is_refused_by_name(path, value, message):
    program = whole()
    section = copy.deepcopy(program.section())
    change(path, value)(section)
    if message is None:
        check_program(section, program.tensors())
        return
    with pytest.raises(ProgramError, match=message):
        check_program(section, program.tensors())


def test_all_faults_are_reported_at_once():
    section = copy.deepcopy(whole().section())
    for path, value in [("gates.0.pool", "x"), ("edits.2.op", "y"), ("hidden_size", -1)]:
        change(path, value)(section)
    with pytest.raises(ProgramError) as caught:
        check_program(section, {})
    assert len(caught.value.problems) >= 3


def test_a_gate_nobody_uses_is_refused():
    section = copy.deepcopy(whole().section())
    section["edits"][0] |= {"gate": None, "positions": "all"}
    section["edits"][2]["gate"] = "line"
    with pytest.raises(ProgramError, match="gate 'topic'"):
        check_program(section, whole().tensors())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steering.gates.topic.forget_prototypes", torch.ones(2, D), "not unit"),
        ("steering.gates.share.basis", torch.ones(D, 2), "orthonormal"),
        ("steering.layers.1.keys", torch.zeros(4, D), "length zero"),
        ("steering.layers.1.keys", torch.randn(3, D), "shape"),
        ("steering.layers.1.prototypes", torch.randn(4, D + 1), "shape"),
        ("steering.layers.2.direction", torch.full((D,), float("nan")), "not finite"),
        ("steering.layers.3.vector", torch.randn(D).double(), "float32"),
        ("steering.layers.4.center2", torch.randn(D), "not used"),
        ("steering.layers.2.direction", torch.eye(D)[0], "retain_basis"),
    ],
)
def test_broken_tensors_are_refused_by_name(name, value, message):
    program = whole()
    with pytest.raises(ProgramError, match=message) as caught:
        check_program(program.section(), {**program.tensors(), name: value})
    assert name in str(caught.value)


def test_a_missing_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(ProgramError, match=r"steering\.json"):
        SteeringProgram.load(tmp_path)


def test_a_low_rank_metric_is_understood_and_a_missing_one_wants_whole_rows():
    program, names = whole(), "steering.gates.topic."
    low = {
        "metric": torch.randn(2, D),
        "forget_prototypes": unit(torch.randn(4, 2)),
        "retain_prototypes": unit(torch.randn(3, 2)),
    }
    tensors = {**program.tensors(), **{names + leaf: tensor for leaf, tensor in low.items()}}
    check_program(program.section(), tensors)
    del tensors[names + "metric"]
    with pytest.raises(ProgramError, match="without a metric"):
        check_program(program.section(), tensors)
