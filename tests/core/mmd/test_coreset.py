"""Compression with a certificate."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdmf_core.mmd.coreset import compress, herding, kernel_means, weighted_mmd
from mdmf_core.mmd.kernels import gaussian
from mdmf_core.mmd.terms import density


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def biased_mmd(x: Tensor, v: Tensor, y: Tensor, w: Tensor, sigma: float) -> float:
    """MMD of two weighted point sets, straight from the definition, in float64."""
    points, signed = torch.cat([x, y]).double(), torch.cat([v, -w]).double()
    differences = points[:, None, :] - points[None, :, :]
    kernel = torch.exp(-differences.square().sum(2) / (2 * sigma**2))
    return math.sqrt(max(float(signed @ kernel @ signed), 0.0))


def uniform(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.data(), st.floats(0.2, 4.0), st.integers(0, 10_000))
def test_the_certificate_bounds_the_error_of_every_mmd_and_every_density(
    n: int, data: st.DataObject, sigma: float, seed: int
) -> None:
    size = data.draw(st.integers(1, n))
    full, image = normal(n, 3, seed), normal(7, 3, seed + 1) * 1.5 + 0.5
    indices, error = herding(full, size, sigma)
    core = full[indices]
    assert error == pytest.approx(biased_mmd(full, uniform(n), core, uniform(size), sigma), abs=1e-7)
    to_full = biased_mmd(image, uniform(7), full, uniform(n), sigma)
    to_core = biased_mmd(image, uniform(7), core, uniform(size), sigma)
    assert abs(to_full - to_core) <= error + 1e-7
    at = torch.cat([image, full]).double()
    apart = density(at, full.double(), uniform(n), sigma) - density(at, core.double(), uniform(size), sigma)
    assert float(apart.abs().max()) <= error + 1e-7


def test_the_certificate_equals_a_naive_mmd_and_beats_a_random_coreset() -> None:
    full = normal(300, 5, 1)
    indices, error = herding(full, 20, 2.0)
    assert len(set(indices.tolist())) == 20
    assert error == pytest.approx(biased_mmd(full, uniform(300), full[indices], uniform(20), 2.0), abs=1e-9)
    random = [
        biased_mmd(
            full, uniform(300), full[torch.randperm(300, generator=torch.Generator().manual_seed(s))[:20]], uniform(20), 2.0
        )
        for s in range(20)
    ]
    assert error < min(random)


def test_each_step_of_herding_takes_the_point_that_lowers_mmd_most() -> None:
    full = normal(25, 2, 3)
    indices = herding(full, 6, 1.0)[0].tolist()
    for step in range(6):
        chosen = indices[:step]
        errors = {
            t: biased_mmd(full, uniform(25), full[[*chosen, t]], uniform(step + 1), 1.0) for t in range(25) if t not in chosen
        }
        assert errors[indices[step]] == pytest.approx(min(errors.values()), abs=1e-9)


def test_herding_of_all_points_has_no_error() -> None:
    indices, error = herding(normal(80, 3, 2), 80, 1.0)
    assert sorted(indices.tolist()) == list(range(80))
    assert error < 1e-7


@pytest.mark.parametrize("size", [0, -1, 11])
def test_a_coreset_larger_than_its_points_or_empty_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"of 10 points holds 1 to 10, not {size}"):
        herding(normal(10, 2, 0), size, 1.0)


def test_kernel_means_in_blocks_equal_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    points = normal(53, 3, 4)
    expected = gaussian(points.double(), points.double(), 0.9).mean(1)
    monkeypatch.setattr("mdmf_core.mmd.coreset._ROWS", 7)
    torch.testing.assert_close(kernel_means(points, 0.9), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["herding", "nystrom", "thinning"])
@pytest.mark.parametrize("blocks", [1, 4])
def test_the_certificate_of_every_compression_bounds_the_real_distance(method: str, blocks: int) -> None:
    full, image = normal(400, 3, 1), normal(9, 3, 2) * 1.5 + 0.5
    core = compress(iter(torch.split(full, 400 // blocks)), 40, 1.5, method)
    assert core.source_points == 400
    real = biased_mmd(full, uniform(400), core.points, core.weights, 1.5)
    assert real <= core.error + 1e-7
    if blocks == 1:
        assert core.error == pytest.approx(real, abs=1e-6)
    to_full = biased_mmd(image, uniform(9), full, uniform(400), 1.5)
    assert abs(to_full - biased_mmd(image, uniform(9), core.points, core.weights, 1.5)) <= core.error + 1e-7
    at = image.double()
    gap = density(at, full.double(), uniform(400), 1.5) - density(at, core.points.double(), core.weights, 1.5)
    assert float(gap.abs().max()) <= core.error + 1e-7


def test_optimal_weights_are_at_least_as_near_as_equal_ones() -> None:
    full = normal(300, 3, 4)
    assert compress([full], 30, 1.5, "nystrom").error <= compress([full], 30, 1.5, "herding").error


def test_thinning_keeps_a_power_of_two() -> None:
    assert len(compress([normal(300, 3, 4)], 40, 1.5, "thinning").points) == 32


def test_an_error_bound_takes_as_few_points_as_reach_it() -> None:
    full = normal(300, 3, 4)
    core = compress([full], 200, 1.5, max_error=0.03)
    assert core.error <= 0.03
    assert len(core.points) < 200
    assert herding(full, len(core.points) - 1, 1.5)[1] > 0.03
    with pytest.raises(ValueError, match=r"5 points reach an error of .*, not 0\.001; allow more points"):
        compress([full], 5, 1.5, max_error=0.001)


def test_an_error_bound_counts_what_the_blocks_lost() -> None:
    full = normal(600, 3, 4)
    core = compress(iter(torch.split(full, 200)), 150, 1.5, max_error=0.05)
    assert biased_mmd(full, uniform(600), core.points, core.weights, 1.5) <= core.error <= 0.05


def test_a_stream_is_compressed_in_the_memory_of_its_blocks() -> None:
    alive: list[int] = []

    def blocks():
        for number in range(40):
            block = normal(500, 3, number)
            weakref.finalize(block, alive.pop)
            alive.append(number)
            assert len(alive) <= 4, "earlier blocks are still held"
            yield block

    assert compress(blocks(), 20, 1.5).source_points == 20_000


def test_compression_of_nothing_or_by_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="no points to compress"):
        compress([torch.zeros(0, 3)], 5, 1.0)
    with pytest.raises(ValueError, match="unknown compression 'magic'; known are herding, nystrom, thinning"):
        compress([normal(9, 3, 0)], 5, 1.0, "magic")


def test_weighted_mmd_equals_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(23, 3, 0), normal(11, 3, 1)
    v = torch.rand(23, generator=torch.Generator().manual_seed(2)).double()
    expected = biased_mmd(x, v, y, uniform(11), 0.9)
    monkeypatch.setattr("mdmf_core.mmd.coreset._ROWS", 5)
    assert weighted_mmd(x, v, y, uniform(11), 0.9) == pytest.approx(expected, abs=1e-12)


def test_weighted_herding_follows_the_weights() -> None:
    points = torch.tensor([[0.0], [10.0]]).repeat(5, 1)
    weights = torch.tensor([0.18, 0.02]).repeat(5).double()
    chosen = points[herding(points, 5, 1.0, weights)[0]][:, 0].tolist()
    assert chosen[:4] == [0.0] * 4
