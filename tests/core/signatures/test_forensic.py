"""The embedded backbone's statistics against their definitions, written out one by one in double precision."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, pad

from mdmf_core.signatures.forensic import ForensicBackbone


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Noise of different strength, a slope, and a flat crop."""
    noise = np.random.default_rng(1).normal(0, 1, (5, 3, 64, 64)) * np.array([1, 4, 20, 80, 0])[:, None, None, None]
    slope = np.linspace(60, 180, 64)[None, None, None]
    return torch.from_numpy((noise + slope * np.array([1, 1, 1, 1, 0])[:, None, None, None] + 20).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def tokens(crops: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = ForensicBackbone()(crops)
    assert found.shape == (5, 9, 272)
    return found.double()


@pytest.fixture(scope="module")
def residual(crops: torch.Tensor) -> torch.Tensor:
    backbone = ForensicBackbone().double()
    luma = (crops.double() * backbone.luma).sum(1, keepdim=True)
    return torch.nn.functional.conv2d(pad(luma, (2, 2, 2, 2), mode="reflect"), backbone.residual).clamp(-20, 20)


def patches(maps: torch.Tensor) -> torch.Tensor:
    """Means over the nine patches, [n, 9, c]."""
    return avg_pool2d(maps, 32, 16).flatten(2).transpose(1, 2)


def level(residual: torch.Tensor) -> torch.Tensor:
    return (patches(residual.square()) + 0.05).sqrt().mean(1)[:, :, None, None]


def moved(maps: torch.Tensor, down: int, right: int) -> torch.Tensor:
    return pad(maps, (4, 4, 4, 4), mode="reflect")[..., 4 - down : 68 - down, 4 - right : 68 - right]


def test_histograms_are_shares_near_zero(tokens, residual):
    relative = residual / level(residual)
    expected = torch.cat([patches((-((relative / width) ** 2)).exp()) for width in (0.25, 0.5, 1.0)], 2)
    assert (tokens[..., 126:156] - expected).abs().max() < 1e-5


def test_cooccurrences_are_products_of_soft_signs(tokens, residual):
    residual, expected = residual[:, :4], []
    for threshold in ((0.7 * level(residual)).clamp_min(0.5), 1.0):
        up, down = (4 * residual / threshold - 4).sigmoid(), (-4 * residual / threshold - 4).sigmoid()
        for step in ((0, 1), (1, 0)):
            next_up, next_down = moved(up, *step), moved(down, *step)
            zero, next_zero = 1 - up - down, 1 - next_up - next_down
            pairs = up * next_up + down * next_down, up * next_down + down * next_up, zero * next_zero, zero * (1 - next_zero)
            expected += [patches(pair) for pair in pairs]
    assert (tokens[..., 156:220] - torch.cat(expected, 2)).abs().max() < 1e-5


def test_periodicity_is_autocorrelation_less_the_local_mean(tokens, residual):
    magnitude = residual[:, 8:9].clamp(-15, 15).abs()
    centred = magnitude - avg_pool2d(pad(magnitude, (4, 4, 4, 4), mode="reflect"), 9, 1)
    lags = [(0, n) for n in (1, 2, 3, 4)] + [(n, 0) for n in (1, 2, 3, 4)] + [(n, n) for n in (1, 2, 4)]
    expected = torch.cat([patches(centred * moved(centred, *lag)) for lag in lags], 2) / (patches(centred.square()) + 0.05)
    assert (tokens[..., 220:231] - expected).abs().max() < 1e-4


def test_forensic_tokens_see_neither_brightness_nor_batch():
    backbone = ForensicBackbone().eval()
    crops = torch.from_numpy(np.random.default_rng(1).integers(0, 128, (4, 3, 64, 64), dtype=np.uint8))
    with torch.inference_mode():
        found = backbone(crops)
        assert found.shape == (4, 9, 272)
        assert (backbone(crops + 40) - found).abs().max() < 1e-2  # a constant is no trace
        assert (backbone(crops[2:3]) - found[2:3]).abs().max() < 1e-5


def test_half_precision_is_not_taken_over(crops, tokens):
    """The statistics keep float32 where a scorer's backbone runs under autocast, as on a GPU."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = ForensicBackbone()(crops)
    assert found.dtype == torch.float32
    assert torch.equal(found.double(), tokens)
