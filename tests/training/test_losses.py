"""Losses against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.training.losses import (
    divergence,
    mean_nll,
    mean_square,
    sequence_nll,
    soft_nll,
    token_losses,
)

LOGITS = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0], [9.0, 9.0]]])
LABELS = torch.tensor([[-100, 1, 0]])
"""p of the labelled tokens: 3/4 and 4/5."""


def test_a_token_is_predicted_by_the_column_before_it():
    losses, labelled = token_losses(LOGITS, LABELS)
    assert losses[0].tolist() == pytest.approx([math.log(4 / 3), math.log(5 / 4)])
    assert labelled.tolist() == [[True, True]]
    assert sequence_nll(LOGITS, LABELS).item() == pytest.approx(math.log(5 / 3))
    assert mean_nll(LOGITS, LABELS).item() == pytest.approx(math.log(5 / 3) / 2)


def test_the_prompt_and_padding_do_not_count():
    padded = torch.cat([LOGITS, torch.full((1, 2, 2), 50.0)], dim=1)
    labels = torch.tensor([[-100, -100, 0, -100, -100]])
    assert sequence_nll(padded, labels).item() == pytest.approx(math.log(5 / 4))
    assert mean_nll(padded, torch.full((1, 5), -100)).item() == 0


def test_the_divergence_is_from_the_base():
    base = torch.zeros(1, 3, 2)  # one half each
    wanted = [0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)]
    wanted += [0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)]
    assert divergence(base, LOGITS, LABELS).item() == pytest.approx(sum(wanted) / 2)
    assert divergence(LOGITS, LOGITS, LABELS).item() == pytest.approx(0, abs=1e-6)


def test_cross_entropy_to_a_sharp_target_is_that_of_its_token():
    sharp = torch.nn.functional.one_hot(LABELS[:, 1:].clamp_min(0), 2) * 200.0
    target = torch.cat([sharp, torch.zeros(1, 1, 2)], dim=1)
    assert soft_nll(target, LOGITS, LABELS).item() == pytest.approx(mean_nll(LOGITS, LABELS).item())


def test_a_mean_square_without_columns_is_nothing():
    states, wanted = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]] * 2), torch.zeros(2)
    mask = torch.tensor([[True, False], [False, False]])
    assert mean_square(states, wanted, mask).tolist() == [12.5, 0.0]


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**16))
def test_a_mean_over_parts_is_the_mean_over_all(rows, half, seed):
    """What several processes compute of their shares averages to what one computes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2 * rows, 7, 5, generator=generator)
    labels = torch.randint(0, 5, (2 * rows, 7), generator=generator)
    labels[:, :half] = -100
    whole = mean_nll(logits, labels).mean()
    parts = [mean_nll(logits[one::2], labels[one::2]).mean() for one in (0, 1)]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), abs=1e-5)


@given(st.integers(1, 3), st.integers(0, 2**16))
def test_what_stands_in_other_columns_is_not_read(rows, seed):
    """Neither values nor gradients, even where a model has none there: padding may be anything."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = (torch.randn(rows, 6, 5, generator=generator) for _ in range(2))
    labels = torch.randint(0, 5, (rows, 6), generator=generator)
    labels[:, :3] = -100
    spoilt = logits.clone()
    spoilt[:, [0, 1, 5]] = torch.nan
    for loss in (
        mean_nll,
        lambda one, at: divergence(other, one, at),
        lambda one, at: soft_nll(other, one, at),
    ):
        found = []
        for values in (logits, spoilt):
            asked = values.clone().requires_grad_()
            value = loss(asked, labels)
            value.sum().backward()
            found.append((value.detach(), asked.grad))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        assert not found[0][1][:, [0, 1, 5]].any()
