"""Every term of the score, against hand computation, a naive double loop and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from mdmf_core.mmd.terms import PatchTerms, density, mmd2_unbiased, patch_terms, witness


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def weights_of(n: int, seed: int = 9) -> Tensor:
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return drawn / drawn.sum()


def k(a: Tensor, b: Tensor, sigma: float) -> float:
    return math.exp(-sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)) / (2 * sigma**2))


def naive_mmd2_unbiased(x: Tensor, y: Tensor, sigma: float) -> float:
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j], sigma) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j], sigma) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(x[i], y[j], sigma) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


def naive_terms(x: Tensor, bank: Tensor, weights: Tensor, sigma: float, top: int) -> tuple[float, float, float, int]:
    """(cross, self, top-k, farthest) of one image, point by point."""
    near = [sum(float(w) * k(b, p, sigma) for b, w in zip(bank, weights, strict=True)) for p in x]
    n = len(x)
    own = sum(k(x[i], x[j], sigma) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    lowest = sorted(near)[:top]
    return sum(near) / n, own, sum(lowest) / len(lowest), near.index(min(near))


def test_unbiased_mmd2_of_a_hand_case() -> None:
    # sigma 1; k(0, 1) = e^-1/2, k(0, 2) = e^-2. x = {0, 1}, y = {0, 2}:
    # xx = e^-1/2; yy = e^-2; xy = (1 + e^-2 + e^-1/2 + e^-1/2) / 4.
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    half, two = math.exp(-0.5), math.exp(-2.0)
    assert mmd2_unbiased(x, y, 1.0) == pytest.approx(half + two - (1 + two + 2 * half) / 2, abs=1e-15)


def test_patch_terms_of_a_hand_case() -> None:
    # Patches 0 and 2 against a bank {0 (weight .75), 1 (weight .25)}, sigma 1.
    half, two = math.exp(-0.5), math.exp(-2.0)
    at_0, at_2 = 0.75 + 0.25 * half, 0.75 * two + 0.25 * half
    got = patch_terms(torch.tensor([[0.0], [2.0]]), [2], torch.tensor([[0.0], [1.0]]), torch.tensor([0.75, 0.25]), 1.0, 0.5, 1)
    assert got.cross.item() == pytest.approx((at_0 + at_2) / 2, abs=1e-15)
    assert got.self_term.item() == pytest.approx(two, abs=1e-15)
    assert got.top_k.item() == pytest.approx(at_2, abs=1e-15)
    assert got.mmd2.item() == pytest.approx(two - (at_0 + at_2) + 0.5, abs=1e-15)
    assert got.top_patch.item() == 1


@pytest.mark.parametrize(("n", "m", "d", "sigma"), [(2, 2, 1, 0.3), (7, 5, 3, 1.0), (12, 20, 8, 2.5)])
def test_unbiased_mmd2_equals_a_naive_double_loop(n: int, m: int, d: int, sigma: float) -> None:
    x, y = normal(n, d, 1), normal(m, d, 2, 0.5)
    assert mmd2_unbiased(x, y, sigma) == pytest.approx(naive_mmd2_unbiased(x, y, sigma), abs=1e-12)
    assert mmd2_unbiased(x.float(), y.float(), sigma) == pytest.approx(naive_mmd2_unbiased(x, y, sigma), abs=1e-6)


def test_unbiased_mmd2_equals_the_one_from_scikit_learns_kernel() -> None:
    x, y, sigma = normal(30, 6, 3), normal(25, 6, 4, 0.3), 1.7
    gamma = 1 / (2 * sigma**2)
    xx, yy, xy = (rbf_kernel(a, b, gamma) for a, b in ((x, x), (y, y), (x, y)))
    expected = (xx.sum() - 30) / (30 * 29) + (yy.sum() - 25) / (25 * 24) - 2 * xy.mean()
    assert mmd2_unbiased(x, y, sigma) == pytest.approx(expected, abs=1e-12)


def test_unbiased_mmd2_averages_to_zero_when_both_sides_share_one_distribution() -> None:
    draws = np.array([mmd2_unbiased(normal(10, 3, 2 * s), normal(10, 3, 2 * s + 1), 1.0) for s in range(1500)])
    standard_error = draws.std(ddof=1) / math.sqrt(len(draws))
    assert abs(draws.mean()) < 3 * standard_error
    assert standard_error < 0.1 * (1 / 10)  # the band is narrower than the V-statistic's bias, (1 - kbar)(1/n + 1/m)


def test_terms_equal_a_naive_double_loop_and_mmd2_is_self_minus_two_cross_plus_the_bank_term() -> None:
    bank, weights, sigma, constant = normal(9, 4, 5), weights_of(9), 1.3, 0.37
    counts = [2, 11, 5]
    x = normal(sum(counts), 4, 6, 0.4)
    got = patch_terms(x, counts, bank, weights, sigma, constant, 3)
    for index, image in enumerate(torch.split(x, counts)):
        cross, own, top, farthest = naive_terms(image, bank, weights, sigma, 3)
        assert got.cross[index].item() == pytest.approx(cross, abs=1e-12)
        assert got.self_term[index].item() == pytest.approx(own, abs=1e-12)
        assert got.top_k[index].item() == pytest.approx(top, abs=1e-12)
        assert got.top_patch[index].item() == farthest
        assert got.mmd2[index].item() == pytest.approx(own - 2 * cross + constant, abs=1e-12)


def assert_same(a: PatchTerms, b: PatchTerms, index: int) -> None:
    for name in ("mmd2", "cross", "self_term", "top_k"):
        torch.testing.assert_close(getattr(a, name)[index : index + 1], getattr(b, name), rtol=0, atol=1e-12)
    assert a.top_patch[index].item() == b.top_patch.item()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 13), min_size=1, max_size=7), st.integers(1, 20), st.integers(0, 10_000))
def test_a_padded_batch_gives_the_terms_of_its_images_one_by_one(counts: list[int], top: int, seed: int) -> None:
    # The bank lies at 0, where the padding lies too: padding that leaked would look perfectly real.
    bank, weights = normal(6, 3, seed) * 0.1, weights_of(6)
    x = normal(sum(counts), 3, seed + 1, 1.0)
    batched = patch_terms(x, counts, bank, weights, 0.8, 0.2, top)
    for index, image in enumerate(torch.split(x, counts)):
        assert_same(batched, patch_terms(image, [len(image)], bank, weights, 0.8, 0.2, top), index)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(9)))
def test_the_order_of_patches_changes_no_term_and_moves_the_top_patch_with_it(order: list[int]) -> None:
    bank, weights, x = normal(6, 3, 1), weights_of(6), normal(9, 3, 2)
    plain = patch_terms(x, [9], bank, weights, 1.0, 0.2, 4)
    moved = patch_terms(x[order], [9], bank, weights, 1.0, 0.2, 4)
    for name in ("mmd2", "cross", "self_term", "top_k"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name), rtol=0, atol=1e-12)
    assert order[moved.top_patch.item()] == plain.top_patch.item()


def test_the_top_patch_is_the_one_farthest_from_the_bank_and_top_k_counts_only_present_patches() -> None:
    bank, weights = normal(50, 4, 3), torch.full((50,), 0.02, dtype=torch.float64)
    x = normal(20, 4, 4) * 0.3
    x[13] += 4.0
    got = patch_terms(torch.cat([x[:5], x]), [5, 20], bank, weights, 2.0, 0.0, 1)
    assert got.top_patch[1].item() == 13
    assert got.top_k[1].item() == pytest.approx(density(x[13:14], bank, weights, 2.0).item(), abs=1e-14)
    few = patch_terms(x[:3], [3], bank, weights, 2.0, 0.0, 8)
    assert few.top_k.item() == pytest.approx(few.cross.item(), abs=1e-14)


def test_mean_witness_over_the_image_minus_over_the_bank_is_the_biased_mmd2() -> None:
    x, bank, weights, sigma = normal(11, 4, 7, 0.5), normal(8, 4, 8), weights_of(8), 1.1
    gamma = 1 / (2 * sigma**2)
    w = weights.numpy()
    biased = (
        rbf_kernel(x, x, gamma).mean() - 2 * (rbf_kernel(x, bank, gamma) @ w).mean() + w @ rbf_kernel(bank, bank, gamma) @ w
    )
    over_image = witness(x, x, bank, weights, sigma).mean()
    over_bank = weights @ witness(bank, x, bank, weights, sigma)
    assert float(over_image - over_bank) == pytest.approx(biased, abs=1e-12)
    assert biased > 0.05


def test_the_witness_is_positive_where_only_the_image_has_mass_and_negative_where_only_the_bank_has() -> None:
    weights = torch.full((30,), 1 / 30, dtype=torch.float64)
    image, bank = normal(20, 3, 1, 5.0), normal(30, 3, 2, -5.0)
    assert (witness(image, image, bank, weights, 1.0) > 0).all()
    assert (witness(bank, image, bank, weights, 1.0) < 0).all()


def test_mmd2_grows_with_the_square_of_the_defective_fraction_and_cross_linearly() -> None:
    bank = normal(400, 4, 1)
    weights = torch.full((400,), 1 / 400, dtype=torch.float64)
    constant = float(weights @ torch.tensor(rbf_kernel(bank, bank, 0.125)) @ weights)
    # Patches are the bank's own points, so that the fraction 0 has MMD^2 near 0 and no sampling noise is left.
    values = {}
    for fraction in (0.0, 0.1, 0.2, 0.4):
        x = bank.clone()
        moved = int(fraction * 400)
        x[:moved] += 3.0
        values[fraction] = patch_terms(x, [400], bank, weights, 2.0, constant, 8)
    mmd2 = {f: t.mmd2.item() - values[0.0].mmd2.item() for f, t in values.items()}
    drop = {f: values[0.0].cross.item() - t.cross.item() for f, t in values.items()}
    assert mmd2[0.1] > 1e-4
    for low, high in ((0.1, 0.2), (0.2, 0.4)):
        assert mmd2[high] / mmd2[low] == pytest.approx(4.0, rel=0.25)
        assert drop[high] / drop[low] == pytest.approx(2.0, rel=0.25)


def test_terms_stay_in_their_ranges_for_extreme_signatures() -> None:
    bank, weights = normal(5, 3, 1), weights_of(5)
    got = patch_terms(torch.cat([normal(4, 3, 2) * 1e6, torch.zeros(4, 3)]), [4, 4], bank, weights, 1e-3, 0.5, 2)
    for name in ("cross", "self_term", "top_k"):
        values = getattr(got, name)
        assert ((values >= 0) & (values <= 1)).all()
    assert got.self_term[1].item() == 1.0  # four patches alike


@pytest.mark.parametrize("counts", [[1, 3], [4, 1], [3, 3], [2], [0, 4]])
def test_counts_below_two_or_of_another_sum_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"at least 2 and add up to 4, got \["):
        patch_terms(normal(4, 2, 1), counts, normal(3, 2, 2), weights_of(3), 1.0, 0.0, 1)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1), (0, 2)])
def test_unbiased_mmd2_of_fewer_than_two_points_is_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 points a side, got {n} and {m}"):
        mmd2_unbiased(normal(n, 2, 1), normal(m, 2, 2), 1.0)
