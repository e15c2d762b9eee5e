"""Image features and the comparisons made with them."""

import math

import numpy as np
import pytest
import torch

from mdmf_core.mmd.kernels import gaussian
from mdmf_core.mmd.two_sample import FeatureMap, halves, two_sample


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_feature_distances_are_the_mmd_between_images() -> None:
    points = normal(60, 3, 0)
    signatures = normal(40, 3, 1)
    features = FeatureMap.of(points, 2.5).images(signatures, [15, 25]).double()
    one, two = signatures[:15].double(), signatures[15:].double()
    expected = gaussian(one, one, 2.5).mean() + gaussian(two, two, 2.5).mean() - 2 * gaussian(one, two, 2.5).mean()
    assert float((features[0] - features[1]).square().sum()) == pytest.approx(float(expected), rel=0.02)


def test_two_samples_of_one_distribution_agree_and_of_two_do_not() -> None:
    random = np.random.default_rng(0)
    same = [two_sample(random.normal(size=(40, 4)), random.normal(size=(60, 4)), seed).p_value for seed in range(40)]
    assert np.mean(np.array(same) <= 0.1) < 0.3
    assert min(same) > 0.001
    shifted = two_sample(random.normal(size=(40, 4)), random.normal(0.8, 1, (60, 4)))
    assert shifted.p_value == 1 / 500
    assert shifted.mmd2 > shifted.band
    assert shifted.low < 4 * 0.8**2 < shifted.high
    assert shifted.images == (40, 60)


def test_the_estimate_is_unbiased_and_equals_a_double_loop() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(7, 3)), random.normal(size=(5, 3))
    pairs_a = np.mean([a[i] @ a[j] for i in range(7) for j in range(7) if i != j])
    pairs_b = np.mean([b[i] @ b[j] for i in range(5) for j in range(5) if i != j])
    expected = pairs_a + pairs_b - 2 * np.mean([x @ y for x in a for y in b])
    assert two_sample(a, b, permutations=9).mmd2 == pytest.approx(expected, abs=1e-12)
    draws = [two_sample(random.normal(size=(6, 3)), random.normal(size=(6, 3)), permutations=1).mmd2 for _ in range(2000)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / math.sqrt(len(draws))


def test_a_comparison_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images a side, got 1 and 5"):
        two_sample(np.zeros((1, 2)), np.zeros((5, 2)))


def test_halves_are_even_fixed_and_follow_the_images_not_their_order() -> None:
    names = [f"{i * 7919:064x}" for i in range(11)]
    side = halves(names)
    assert side.sum() == 5
    order = np.random.default_rng(0).permutation(11)
    np.testing.assert_array_equal(halves([names[i] for i in order]), side[order])
