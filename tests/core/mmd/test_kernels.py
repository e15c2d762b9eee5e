"""Distances, kernel and bandwidth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from mdmf_core.mmd.kernels import gaussian, median_heuristic, squared_distances


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9), st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_squared_distances_equal_scipys(n: int, m: int, d: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(0, scale, (n, d)), random.normal(0, scale, (m, d))
    got = squared_distances(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(got, cdist(a, b, "sqeuclidean"), rtol=1e-9, atol=1e-12 * scale**2)


def test_squared_distances_never_fall_below_zero_by_rounding() -> None:
    points = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)) * 100  # float32: cancellation is certain
    unclamped = points.square().sum(1) * 2 - 2 * (points * points).sum(1)
    assert squared_distances(points, points).min() >= 0
    assert gaussian(points, points, 1.0).max() <= 1
    assert unclamped.abs().max() >= 0


def test_the_kernel_of_a_hand_case() -> None:
    got = gaussian(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 5.0)
    assert got[0].tolist() == pytest.approx([math.exp(-0.5), 1.0])


def test_the_gradient_at_coinciding_points_is_finite() -> None:
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    sigma = torch.tensor(1.5, requires_grad=True)
    gaussian(points, points, sigma).sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()
    assert points.grad[2].abs().max() > 0
    assert sigma.grad is not None
    assert sigma.grad > 0


def test_the_median_heuristic_of_a_hand_case() -> None:
    # Distances of {0, 1, 4}: 1, 3, 4.
    assert median_heuristic(torch.tensor([[0.0], [1.0], [4.0]])) == pytest.approx(3.0)


@pytest.mark.parametrize("n", [101, 1999, 2000, 2001, 4100])
def test_the_median_heuristic_is_the_median_distance_on_an_even_stride(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 2)) * np.linspace(1, 3, n)[:, None]
    stride = 1 if n <= 2000 else math.ceil(n / 2000)
    expected = np.quantile(pdist(points[::stride]), 0.5, method="lower")
    assert median_heuristic(torch.from_numpy(points)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_the_median_heuristic_refuses_fewer_than_two_points(n: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 points, got {n}"):
        median_heuristic(torch.zeros(n, 3))


@pytest.mark.parametrize("seed", range(5))
def test_the_median_heuristic_refuses_points_that_coincide(seed: int) -> None:
    point = torch.randn(1, 192, generator=torch.Generator().manual_seed(seed)) * 3
    with pytest.raises(ValueError, match="coincide"):
        median_heuristic(point.repeat(60, 1))
