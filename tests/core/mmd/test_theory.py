"""What the method's theory promises, on synthetic patches where the truth is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mdmf_core.mmd.kernels import gaussian, median_heuristic
from mdmf_core.mmd.terms import PatchTerms, mmd2_unbiased, patch_terms, witness

LEVEL = 0.05


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chosen(*shape: int, share: float, seed: int) -> Tensor:
    """1.0 for a random ``share`` of the cells, else 0.0."""
    drawn = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn < share).double()


def signs(*shape: int, seed: int) -> Tensor:
    return chosen(*shape, share=0.5, seed=seed) * 2 - 1


def terms_against(bank: Tensor, images: Tensor, sigma: float, k: int = 8) -> PatchTerms:
    """Terms of ``images`` (images x patches x d), with a bank term in U-form: MMD^2 is then unbiased."""
    n = len(bank)
    constant = (float(gaussian(bank, bank, sigma).sum()) - n) / (n * (n - 1))
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    patches = images.shape[1]
    few = max(1, 300_000 // (patches * max(patches, n)))  # images at a time; their kernels stay in the cache
    parts = [
        patch_terms(part.flatten(0, 1), [patches] * len(part), bank, weights, sigma, constant, k)
        for part in torch.split(images, few)
    ]
    return PatchTerms(*(torch.cat([getattr(part, name) for part in parts]) for name in PatchTerms.__dataclass_fields__))


def power(real: Tensor, generated: Tensor) -> float:
    """Share of ``generated`` scores above the 5 % line of ``real`` ones."""
    return float((generated > real.quantile(1 - LEVEL)).double().mean())


def slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def rises(defects: Tensor) -> tuple[float, float]:
    """How much MMD^2 rises with ``defects``: of one vector a patch, and of one mean vector an image.

    Every image has its own content, and its patches vary about it; bank and images show the same contents.
    """
    contents = normal(150, 1, 2, seed=1)
    bank, clean = (contents + 0.5 * normal(150, 16, 2, seed=seed) for seed in (2, 3))
    found = []
    for a, b, c in ((bank, clean, clean + defects), (bank.mean(1), clean.mean(1), (clean + defects).mean(1))):
        real, photos, generated = (part.reshape(-1, 2) for part in (a, b, c))
        sigma = median_heuristic(real)
        found.append(mmd2_unbiased(generated, real, sigma) - mmd2_unbiased(photos, real, sigma))
    return found[0], found[1]


def shifts(share: float) -> Tensor:
    return 4.0 * chosen(150, 16, 1, share=share, seed=5) * torch.tensor([1.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_patches_keep_defects_that_cancel_in_the_mean(share: float) -> None:
    of_patches, of_means = rises(shifts(share) * signs(150, 16, 1, seed=6))
    assert of_patches > 0.4 * share**2
    assert of_patches > 2 * of_means


def test_defects_that_all_shift_one_way_are_not_lost_by_pooling() -> None:
    # The limit of the promise above: a common shift survives the mean, and the kernel saturates on single patches first.
    of_patches, of_means = rises(shifts(0.4))
    assert of_means > 1.3 * of_patches


def test_mmd2_grows_as_the_square_of_the_defective_share_and_cross_in_proportion() -> None:
    n, sigma, shares = 1600, 1.5, [0.1, 0.2, 0.4, 0.8]
    bank, clean = normal(n, 2, seed=11), normal(n, 2, seed=12)
    moved = clean + torch.tensor([4.0, 0.0], dtype=torch.float64)
    images = [torch.cat([moved[: round(share * n)], clean[round(share * n) :]]) for share in (0.0, *shares)]
    got = [terms_against(bank, image[None], sigma) for image in images]
    mmd2 = [terms.mmd2.item() for terms in got]
    assert abs(mmd2[0]) < 0.5 * mmd2[1]
    assert slope(shares, mmd2[1:]) == pytest.approx(2.0, abs=0.15)
    assert slope(shares, [got[0].cross.item() - terms.cross.item() for terms in got[1:]]) == pytest.approx(1.0, abs=0.1)


def test_top_k_falls_by_the_same_amount_for_any_number_of_defects_from_k_up() -> None:
    images, patches, k = 40, 256, 8
    bank, clean = normal(600, 2, seed=21), normal(images, patches, 2, seed=22)
    null = terms_against(bank, clean, 1.5, k)
    drops, crosses = [], []
    for defects in (8, 32, 128):
        x = clean.clone()
        x[:, :defects, 0] += 8.0
        got = terms_against(bank, x, 1.5, k)
        drops.append(float((null.top_k - got.top_k).mean() / null.top_k.mean()))
        crosses.append(float((null.cross - got.cross).mean() / null.cross.mean()))
    assert min(drops) > 0.8
    assert max(drops) / min(drops) < 1.25
    assert crosses[0] < 0.05
    assert crosses[2] / crosses[0] == pytest.approx(16, rel=0.1)


def test_the_power_of_the_image_level_test_grows_with_the_number_of_patches() -> None:
    images, sigma = 200, 1.5
    bank = normal(400, 2, seed=31)
    powers = []
    for patches in (8, 32, 128):
        real, fresh, x = (normal(images, patches, 2, seed=seed + patches) for seed in (1000, 2000, 3000))
        x[:, :, 0] += 2.0 * chosen(images, patches, share=0.25, seed=32)
        line, held, scores = (terms_against(bank, part, sigma).mmd2 for part in (real, fresh, x))
        assert power(line, held) == pytest.approx(LEVEL, abs=0.07)
        powers.append(power(line, scores))
    assert powers[0] + 0.1 < powers[1]
    assert powers[1] + 0.1 < powers[2]


def test_the_best_patch_size_is_interior_when_pixels_are_fixed() -> None:
    # White noise with 16 defects of 8 x 8 px a picture that brighten or darken, anywhere, not on the patch grid. A signature
    # is the patch's mean in units of its own noise: small patches drown a defect in noise, large ones dilute and mix them.
    images, side, defect = 200, 48, 8
    real, x = normal(images, side, side, seed=41), normal(images, side, side, seed=43)
    places = np.random.default_rng(44)
    for image in x:
        for row, column in places.integers(0, side - defect + 1, (16, 2)):
            image[row : row + defect, column : column + defect] += places.choice([-0.35, 0.35])
    bank = normal(500, 1, seed=45)

    def scores(pixels: Tensor, size: int) -> Tensor:
        means = pixels.reshape(images, side // size, size, side // size, size).mean((2, 4))
        return terms_against(bank, (means * size).reshape(images, -1, 1), sigma=1.0).mmd2

    powers = {size: power(scores(real, size), scores(x, size)) for size in (2, 4, 8, 16, 24)}
    best = max(powers, key=powers.__getitem__)
    assert best in (defect // 2, defect)
    assert powers[best] > powers[2] + 0.05
    assert powers[best] > powers[24] + 0.05


def test_the_v_statistic_is_biased_by_the_diagonal_where_the_u_statistic_is_not() -> None:
    n, m, d, sigma, repeats = 12, 16, 3, 1.0, 800
    u, v = [], []
    for seed in range(repeats):
        x, y = normal(n, d, seed=2 * seed), normal(m, d, seed=2 * seed + 1)
        u.append(mmd2_unbiased(x, y, sigma))
        v.append(float(gaussian(x, x, sigma).mean() + gaussian(y, y, sigma).mean() - 2 * gaussian(x, y, sigma).mean()))
    kernel_mean = (sigma**2 / (sigma**2 + 2)) ** (d / 2)  # E k(x, x') of standard normals
    bias = (1 - kernel_mean) * (1 / n + 1 / m)
    error = np.std(u, ddof=1) / math.sqrt(repeats)
    assert abs(np.mean(u)) < 3 * error
    assert abs(np.mean(v) - bias) < 3 * np.std(v, ddof=1) / math.sqrt(repeats)
    assert np.mean(v) > 30 * error


def test_the_witness_equals_a_naive_double_loop() -> None:
    at, image, bank = normal(5, 3, seed=51), normal(7, 3, seed=52), normal(6, 3, seed=53) + 0.5
    weights = torch.arange(1, 7, dtype=torch.float64) / 21
    sigma = 1.3

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)) / (2 * sigma**2))

    expected = [
        sum(k(x, t) for x in image) / 7 - sum(float(w) * k(b, t) for b, w in zip(bank, weights, strict=True)) for t in at
    ]
    assert witness(at, image, bank, weights, sigma).tolist() == pytest.approx(expected, abs=1e-12)
