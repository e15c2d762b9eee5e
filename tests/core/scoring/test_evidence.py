"""Patch evidence against hand computation, a naive double loop, the score's own terms, and where patches lie."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdmf_core.banks.bank import Slice
from mdmf_core.mmd.terms import patch_terms
from mdmf_core.scoring.evidence import Densities, evidence, paint
from tasks.scoring.loading import load_scorer


def slice_of(points: Tensor, weights: Tensor, sigma: float) -> Slice:
    return Slice("photo", points, weights, 0.0, len(points), 1, sigma)


def drawn(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def k(a: np.ndarray, b: np.ndarray, sigma: float) -> float:
    return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * sigma**2))


def test_a_hand_case() -> None:
    # Bank {0 (.75), 1 (.25)}, sigma 1; patches 0 and 2. Left out, each bank point has density e^-1/2 of the other alone.
    part = slice_of(torch.tensor([[0.0], [1.0]]), torch.tensor([0.75, 0.25], dtype=torch.float64), 1.0)
    half, two = math.exp(-0.5), math.exp(-2.0)
    found = evidence(torch.tensor([[0.0], [2.0]]), part, Densities.of(part), nearest=2)
    assert found.witness.tolist() == pytest.approx([two - 0.75 - 0.25 * half, two - 0.75 * two - 0.25 * half], abs=1e-12)
    # Density at 0: .75 + .25 e^-1/2 = .90 >= e^-1/2 = .61: every real patch is less dense. At 2: .25: none is.
    assert found.rarity.tolist() == pytest.approx([1.0, 1 / 3], abs=1e-12)
    assert found.nearest.tolist() == [[0, 1], [1, 0]]
    assert found.similarity.flatten().tolist() == pytest.approx([1.0, half, half, two], abs=1e-7)


def test_equals_a_naive_double_loop() -> None:
    x, bank, sigma = drawn(1, 6, 3).numpy(), drawn(2, 9, 3).numpy(), 1.2
    weights = np.arange(1, 10) / 45
    part = slice_of(torch.from_numpy(bank), torch.from_numpy(weights), sigma)
    found = evidence(torch.from_numpy(x), part, Densities.of(part), nearest=3)
    own = [sum(weights[j] * k(bank[i], bank[j], sigma) for j in range(9) if j != i) / (1 - weights[i]) for i in range(9)]
    for i in range(6):
        to_bank = [k(x[i], point, sigma) for point in bank]
        near = float(weights @ to_bank)
        others = sum(k(x[i], x[j], sigma) for j in range(6) if j != i) / 5
        assert float(found.witness[i]) == pytest.approx(others - near, abs=1e-12)
        share = sum(w for w, value in zip(weights, own, strict=True) if value <= near)
        assert float(found.rarity[i]) == pytest.approx((1 + 9 * share) / 10, abs=1e-12)
        assert found.nearest[i].tolist() == sorted(range(9), key=lambda j: -to_bank[j])[:3]
        assert found.similarity[i].tolist() == pytest.approx(sorted(to_bank, reverse=True)[:3], abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(1, 30), st.integers(1, 5), st.floats(0.2, 5.0), st.integers(0, 2**31))
def test_witness_adds_up_to_the_score_and_rarity_is_a_p_value(n: int, m: int, d: int, sigma: float, seed: int) -> None:
    x, bank = drawn(seed, n, d) + 0.5, drawn(seed + 1, m, d)
    weights = torch.rand(m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    part = slice_of(bank, weights / weights.sum(), sigma)
    found = evidence(x, part, Densities.of(part))
    terms = patch_terms(x, [n], part.points, part.weights, sigma, part.bank_term, 1)
    mean = found.witness.mean()
    assert float(mean) == pytest.approx(float(terms.self_term - terms.cross), abs=1e-9)
    assert float(mean - (terms.cross - part.bank_term)) == pytest.approx(float(terms.mmd2), abs=1e-9)
    assert (found.rarity > 0).all()
    assert (found.rarity <= 1 + 1e-12).all()
    assert (found.similarity.diff(dim=1) <= 0).all()


def test_patches_of_the_banks_own_distribution_are_unusual_at_the_rate_that_rarity_says() -> None:
    bank, x = drawn(3, 1500, 2), drawn(4, 4000, 2)
    part = slice_of(bank, torch.full((1500,), 1 / 1500, dtype=torch.float64), 0.7)
    rarity = evidence(x, part, Densities.of(part)).rarity
    for rate in (0.01, 0.05, 0.2, 0.5):
        noise = math.sqrt(rate * (1 - rate) * (1 / 1500 + 1 / 4000))
        assert float((rarity <= rate).double().mean()) == pytest.approx(rate, abs=4 * noise)


def test_negative_weights_and_a_single_point_give_finite_numbers() -> None:
    for points, weights in ((drawn(5, 4, 2), [0.6, -0.1, 0.3, 0.2]), (drawn(6, 1, 2), [1.0])):
        part = slice_of(points, torch.tensor(weights, dtype=torch.float64), 1.0)
        found = evidence(drawn(7, 3, 2), part, Densities.of(part))
        assert torch.isfinite(found.witness).all()
        assert ((found.rarity > 0) & (found.rarity <= 1)).all()


def test_paint_averages_overlaps_and_leaves_what_no_patch_covers() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 1, 2, 3]], dtype=float)
    found = paint(np.array([1.0, 3.0]), boxes, height=4, width=4, side=10)
    assert found.shape == (4, 4)
    assert found[0].tolist() == pytest.approx([1.0, 2.0, 3.0, math.nan], nan_ok=True)
    assert np.isnan(found[2:]).all()
    small = paint(np.array([1.0, 3.0]), boxes * 100, height=400, width=800, side=8)
    assert small.shape == (4, 8)
    assert small[1].tolist()[:4] == pytest.approx([1.0, 2.0, 3.0, math.nan], nan_ok=True)
    tiny = paint(np.array([5.0]), np.array([[1000.0, 1000.0, 1001.0, 1001.0]]), height=4000, width=4000, side=10)
    assert np.nansum(tiny) == 5.0  # a patch is never smaller than a cell


def test_patch_boxes_lie_where_a_change_of_pixels_changes_the_tokens(tiny_scorer: str) -> None:
    for scorer, height, width in ((load_scorer("forensic", "cpu"), 100, 150), (load_scorer(tiny_scorer, "cpu"), 300, 260)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        boxes = scorer.patch_boxes(height, width)
        before = scorer.extract([scorer.crops.cut(pixels)]).vectors
        assert len(boxes) == len(before)
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= [height, width]).all()
        for index in (0, len(boxes) // 2, len(boxes) - 1):
            top, left, bottom, right = boxes[index].round().astype(int)
            changed = pixels.copy()
            changed[top:bottom, left:right] = 255 - changed[top:bottom, left:right] // 2
            moved = (scorer.extract([scorer.crops.cut(changed)]).vectors - before).square().sum(1)
            overlap = (np.minimum(boxes[:, 2:], [bottom, right]) - np.maximum(boxes[:, :2], [top, left])).clip(0).prod(1)
            assert overlap[int(moved.argmax())] > 0
            assert float(moved[index]) >= 0.5 * float(moved.max())
