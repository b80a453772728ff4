"""The sparse autoencoder finds planted directions, uses few of them at a time, and is the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from exporter.fitting.sparse_autoencoder import SparsePlan, learn_features
from exporter.fitting.subspaces import unit

D, TRUE, PLAN = 32, 24, SparsePlan(features=48, active=3, steps=1200)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TRUTH = unit(noise(1, TRUE, D))
MEAN = 5.0 * noise(2, D)


def drawn(seed, n=2000):
    """States of three planted directions each, off the origin, at another scale than 1."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(n, TRUE, generator=generator).argsort(1) < 3
    sizes = 1.0 + torch.rand(n, TRUE, generator=generator)
    return MEAN + 7.0 * (on * sizes) @ TRUTH + 0.05 * torch.randn(n, D, generator=generator)


@pytest.fixture(scope="module")
def learned():
    return learn_features(drawn(3), PLAN, seed=0)


def test_the_planted_directions_are_found(learned):
    nearest = (TRUTH @ learned.decoder).amax(1)
    assert float((nearest > 0.85).float().mean()) > 0.8
    control = (unit(noise(9, TRUE, D)) @ learned.decoder).amax(1)
    assert float((control > 0.85).float().mean()) < 0.1


def test_few_features_explain_most(learned):
    held = drawn(4)
    features = learned.features(held)
    assert int((features > 0).sum(1).max()) <= PLAN.active
    assert float(features.min()) == 0.0
    assert learned.explained(held) > 0.75
    assert learned.explained(MEAN + 7.0 * noise(5, 200, D)) < 0.6


def test_directions_are_unit_and_reconstruction_is_their_sum(learned):
    torch.testing.assert_close(learned.decoder.norm(dim=0), torch.ones(PLAN.features))
    held = drawn(6, 5)
    by_hand = learned.center + sum(
        learned.features(held)[:, j, None] * learned.decoder[:, j] for j in range(PLAN.features)
    )
    torch.testing.assert_close(learned.reconstructed(held), by_hand, rtol=1e-4, atol=1e-3)


def test_the_same_seed_gives_the_same_tensors():
    plan = PLAN.model_copy(update={"steps": 20})
    one, same, other = (learn_features(drawn(3), plan, seed=seed) for seed in (5, 5, 6))
    for name in ("encoder", "decoder", "bias", "center"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.encoder, other.encoder)


def test_more_active_features_than_there_are_are_all():
    found = learn_features(drawn(3, 50), SparsePlan(features=4, active=16, steps=5), seed=0)
    assert found.active == 4
    assert found.features(drawn(4, 10)).shape == (10, 4)
