"""A gate learned from whole sequences fires at what was planted in them, wherever it stands, and nowhere else."""

import torch

from exporter.fitting.bag_prototypes import BagColumns, BagLearning, learn_bag_prototypes
from exporter.fitting.token_gates import column_scores, judge_bags
from steer_modules.program import Gate

D, LENGTH = 16, 12
QUICK = BagLearning(rank=6, forget=4, keep=8, steps=250, bags=32)


def sequences(seed, n=240, strength=12.0, late=False):
    """Every third sequence holds a column along a hidden direction in its prompt and one in its reply; ``late``: that alone."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, LENGTH, D, generator=generator)
    forget = torch.arange(n) % 3 == 0
    end = 7
    prompt = torch.randint(end + 1, (n,), generator=generator)
    reply = torch.randint(end + 1, LENGTH, (n,), generator=generator)
    for place in (reply,) if late else (prompt, reply):
        states[forget, place[forget], 3] += strength
    starts = torch.arange(n + 1) * LENGTH
    return BagColumns(states.reshape(-1, D), starts, forget, torch.full((n,), end), torch.ones(n))


def learned(given, plan=QUICK):
    tensors = learn_bag_prototypes(given, plan=plan, seed=0).tensors()
    return Gate("topic", 0, "token", "prototype_margin", 0.0, "above", tensors)


def right(gate, held):
    fired = held.largest(column_scores(gate, held.states)) > gate.threshold
    return float((fired == held.forget).float().mean())


def test_a_planted_column_is_found_wherever_it_stands():
    gate = judge_bags(learned(sequences(1)), sequences(2)).gate
    assert gate.tensors["metric"].shape == (6, D)
    assert gate.tensors["forget_prototypes"].shape == (4, 6)
    assert right(gate, sequences(3)) > 0.9
    assert right(gate, sequences(4, late=True)) > 0.9


def test_where_nothing_is_planted_nothing_is_found():
    """The control: the same labels on sequences that do not differ."""
    gate = judge_bags(learned(sequences(1, strength=0.0)), sequences(2, strength=0.0)).gate
    assert right(gate, sequences(3, strength=0.0)) < 0.8


def test_the_same_seed_gives_the_same_gate():
    first, second = (learned(sequences(1)).tensors for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_largest_of_prompt_and_of_reply():
    given = BagColumns(
        torch.zeros(5, 2),
        torch.tensor([0, 3, 5]),
        torch.tensor([True, False]),
        torch.tensor([1, 1]),
        torch.ones(2),
    )
    values = torch.tensor([0.1, 0.2, 0.9, 0.4, 0.3])
    assert given.largest(values).tolist() == [torch.tensor(0.9).item(), torch.tensor(0.4).item()]
    assert given.largest(values, ~given.replied).tolist() == [
        torch.tensor(0.2).item(),
        torch.tensor(0.4).item(),
    ]
    assert given.replied.tolist() == [False, False, True, False, False]


def test_the_threshold_is_the_calibration_rows():
    gate = learned(sequences(1))
    near, far = judge_bags(gate, sequences(2)), judge_bags(gate, sequences(5, strength=4.0))
    assert near.missed < 0.1
    assert near.gate.threshold != far.gate.threshold
    assert all(torch.equal(near.gate.tensors[name], far.gate.tensors[name]) for name in gate.tensors)
