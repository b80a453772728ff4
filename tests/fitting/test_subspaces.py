"""The algebra that steering rests on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.fitting import subspaces

algebra = settings(deadline=None, max_examples=60)


def sample(seed, n, d):
    """Rows [n,d] with directions of very different strength."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -1, d)
    return torch.randn(n, d, generator=generator) * scales


matrices = st.builds(sample, st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 10))


def assert_orthonormal(basis):
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-5)


@algebra
@given(matrices, st.floats(0.05, 1.0))
def test_energy_rank_is_the_smallest_that_keeps_the_energy(x, energy):
    values, _ = subspaces.right_singular(x)
    rank = subspaces.energy_rank(values, energy)
    squares = values.double() ** 2
    kept = [float(squares[:k].sum() / squares.sum()) for k in range(len(values) + 1)]
    assert kept[rank] >= energy - 1e-8
    assert rank == 0 or kept[rank - 1] < energy


@algebra
@given(matrices, st.floats(0.05, 1.0))
def test_energy_basis_is_orthonormal_and_keeps_the_energy(x, energy):
    basis = subspaces.energy_basis(x, energy)
    assert_orthonormal(basis)
    assert float((x @ basis).square().sum()) >= (energy - 1e-4) * float(x.square().sum())


def test_no_energy_no_directions():
    assert subspaces.energy_basis(torch.zeros(3, 4), 0.8).shape == (4, 0)
    assert subspaces.energy_basis(torch.zeros(0, 4), 0.8).shape == (4, 0)
    assert subspaces.energy_rank(torch.tensor([3.0, 4.0]).flip(0), 1.0) == 2
    assert subspaces.energy_rank(torch.tensor([2.0, 1.0, 1.0, 1.0]), 4 / 7) == 1


@algebra
@given(matrices)
def test_singular_vectors_rebuild_the_matrix_and_have_a_settled_sign(x):
    values, vectors = subspaces.right_singular(x)
    torch.testing.assert_close((x @ vectors).norm(dim=0), values, rtol=1e-4, atol=1e-4)
    assert values.tolist() == sorted(values.tolist(), reverse=True)
    assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()
    _, again = subspaces.right_singular(-x)
    assert torch.allclose(again, vectors, atol=1e-4)


@algebra
@given(matrices)
def test_unit_rows(x):
    norms = subspaces.unit(torch.cat([x, torch.zeros(1, x.shape[1])])).norm(dim=-1)
    torch.testing.assert_close(norms[:-1], torch.ones(len(x)), rtol=0, atol=1e-5)
    assert norms[-1] == 0


@algebra
@given(st.integers(0, 1000), st.integers(8, 30))
def test_centring_removes_the_common_shift_and_scaling_alone_keeps_it(seed, n):
    x = sample(seed, n, 6)
    shift = torch.tensor([5.0, -3.0, 0.0, 20.0, 1.0, 2.0])
    centred, scaled = (subspaces.z_score(x + shift, centred=c) for c in (True, False))
    torch.testing.assert_close(centred.mean(0), torch.zeros(6), rtol=0, atol=1e-3)
    deviation = x.std(0, correction=0)
    torch.testing.assert_close(scaled.mean(0), (x.mean(0) + shift) / deviation, rtol=2e-3, atol=2e-3)
    for z in (centred, scaled):
        torch.testing.assert_close(z.std(0, correction=0), torch.ones(6), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(centred, subspaces.z_score(x, centred=True), rtol=1e-2, atol=1e-2)


def test_a_pure_shift_survives_scaling_alone():
    """Control: differences that are one direction plus noise; only the scale-only z-score still finds the direction."""
    direction = torch.zeros(8)
    direction[3] = 4.0
    x = direction + torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    overlap = {}
    for centred in (True, False):
        _, vectors = subspaces.right_singular(subspaces.z_score(x, centred=centred))
        overlap[centred] = abs(float(vectors[3, 0]))
    assert overlap[False] > 0.95
    mean = subspaces.z_score(x, centred=True).mean(0)
    assert mean.norm() < 1e-4


def test_dimensions_without_spread_are_left_as_they_are():
    x = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    assert subspaces.z_score(x, centred=False)[:, 0].tolist() == [1.0, 1.0]
    assert subspaces.z_score(x, centred=True)[:, 0].tolist() == [0.0, 0.0]


def classes(seed, count=6, size=50, d=5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count).repeat_interleave(size) * 7 - 3
    mixing = torch.randn(d, d, generator=generator)
    means = 10 * torch.randn(count, d, generator=generator)
    noise = torch.randn(count * size, d, generator=generator) @ mixing
    return means.repeat_interleave(size, 0) + noise, labels


@algebra
@given(st.integers(0, 1000))
def test_whitening_makes_the_covariance_inside_classes_isotropic(seed):
    x, labels = classes(seed)
    metric = subspaces.whitening_metric(x, labels, shrinkage=1e-4)
    torch.testing.assert_close(metric, metric.T, rtol=1e-4, atol=1e-5)
    assert float(torch.linalg.matrix_norm(metric, 2)) == pytest.approx(1.0, abs=1e-4)
    before = torch.linalg.cond(subspaces.within_class_covariance(x, labels).double())
    after = subspaces.within_class_covariance(x @ metric.T, labels).double()
    assert before > 2
    spread = torch.linalg.eigvalsh(after)
    assert float(spread[-1] / spread[0]) < 1.0 + 0.05 * max(1.0, float(before) / 100)


def test_within_class_covariance_ignores_where_the_classes_lie():
    x, labels = classes(0)
    moved = x + 100.0 * labels.unsqueeze(1)
    torch.testing.assert_close(
        subspaces.within_class_covariance(x, labels),
        subspaces.within_class_covariance(moved, labels),
        rtol=1e-3,
        atol=1e-3,
    )


def test_whitening_stays_finite_where_classes_have_one_row_each():
    metric = subspaces.whitening_metric(sample(0, 5, 4), torch.arange(5))
    torch.testing.assert_close(metric, torch.eye(4))


@algebra
@given(matrices)
def test_orient_points_along_the_difference(x):
    difference = x.sum(0)
    for direction in (x[0], -x[0]):
        turned = subspaces.orient(direction, difference)
        assert float(turned @ difference) >= 0
        assert torch.equal(turned.abs(), direction.abs())
