"""The embedded forensic backbone: fixed statistics of 32 px patches at native resolution, nothing learned.

The description cannot memorise content; the Patch Forensic Signature on top decides what matters. The statistics follow
camera-model and steganalysis practice: block DCT shape (Lam & Goodman 2000), rich-model residuals with truncated
co-occurrences (Fridrich & Kodovsky 2012), periodicity of the residual's magnitude, which interpolation leaves behind (Gallagher
2005; Kirchner 2008), and peaks of the residual's spectrum (Zhang et al. 2019). Where possible a statistic is a ratio, so that
content and brightness matter less.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import conv2d, one_hot, pad

CROP = 64  # side of a crop, pixels
_LAGS = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (2, 2), (4, 4))
_RINGS, _SECTORS = 16, 3
_LUMA = (0.299, 0.587, 0.114)


def _dct_filters() -> Float[Tensor, "63 1 8 8"]:
    """The 63 non-constant 8 x 8 DCT-II basis pictures."""
    index = torch.arange(8, dtype=torch.float64)
    basis = torch.cos(math.pi * (index[None] + 0.5) * index[:, None] / 8) / 2
    basis[0] /= math.sqrt(2)
    return torch.einsum("ij,kl->ikjl", basis, basis).reshape(64, 1, 8, 8)[1:].float()


def _residual_filters() -> Float[Tensor, "10 1 5 5"]:
    """First to third differences along both axes, both diagonals, and the 3 x 3 and 5 x 5 SRM squares."""
    lines = ([0, -1, 1], [1, -2, 1], [0, 1, -3, 3, -1])
    bank = []
    for line, scale in zip(lines, (1, 2, 3), strict=True):
        row = torch.tensor([line], dtype=torch.float32) / scale
        bank += [row, row.T]
    diagonal = torch.diag(torch.tensor([1.0, -2.0, 1.0])) / 2
    square3 = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    square5 = torch.tensor(
        [[-1.0, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
    )
    bank += [diagonal, diagonal.flip(1), square3, square5 / 12]
    filters = torch.zeros(len(bank), 1, 5, 5)
    for filled, kernel in zip(filters, bank, strict=True):
        rows, columns = kernel.shape
        top, left = (5 - rows) // 2, (5 - columns) // 2
        filled[0, top : top + rows, left : left + columns] = kernel
    return filters


def _spectrum_cells() -> Float[Tensor, "bins cells"]:
    """Averages over rings and sectors of the half plane of a 64 x 64 spectrum; sectors fold rows onto columns."""
    rows, columns = torch.fft.fftfreq(CROP)[:, None], torch.fft.rfftfreq(CROP)[None]
    radius, angle = torch.hypot(rows, columns), torch.atan2(rows.abs(), columns.abs())
    ring = ((radius - 0.03) / (0.707 - 0.03) * _RINGS).long().clamp(0, _RINGS - 1)
    fifth = (angle / (math.pi / 2) * 5).long().clamp(0, 4)
    cell = torch.where(radius < 0.03, _RINGS * _SECTORS, ring * _SECTORS + torch.minimum(fifth, 4 - fifth))
    members = one_hot(cell.flatten(), _RINGS * _SECTORS + 1)[:, :-1].float()
    members = members[:, members.sum(0) >= 6]
    return members / members.sum(0)


def _box() -> Float[Tensor, "64 64"]:
    """The mean over 9 pixels around each, in a line of pixels that is mirrored at its ends."""
    line = torch.arange(-4, CROP + 4).abs()
    line = torch.minimum(line, 2 * (CROP - 1) - line)
    return torch.stack([one_hot(line[at : at + CROP], CROP) for at in range(9)]).sum(0) / 9


def _patches(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 9"]:
    """Means over the nine 32 px patches (stride 16) of a crop; ``h`` and ``w`` are multiples of 4."""
    n, c, h, w = maps.shape
    cells = maps.reshape(n, c, 4, h // 4, w).sum(3).view(n, c, 4, 4, w // 4).sum(4).div_(h * w / 4)
    pairs = cells[:, :, :-1] + cells[:, :, 1:]  # pooling would take longer than the sums
    return (pairs[..., :-1] + pairs[..., 1:]).flatten(2)


def _shifted(padded: Tensor, down: int, right: int) -> Tensor:
    """The crop moved by (down, right), out of one padded by 4 pixels."""
    return padded[..., 4 - down : 4 - down + CROP, 4 - right : 4 - right + CROP]


def _mirror(maps: Tensor, by: int) -> Tensor:
    return pad(maps, (by, by, by, by), mode="reflect")


class ForensicBackbone(nn.Module):
    """uint8 crops of 64 px to 9 tokens, one per 32 px patch at stride 16, of 272 statistics each.

    dct energy 63, dct shape 63, residual histograms 30, co-occurrences 64, magnitude periodicity 11, and the spectral
    peakedness 41 of the whole crop, which its patches share.
    """

    dct: Tensor
    residual: Tensor
    box: Tensor
    cells: Tensor
    window: Tensor
    luma: Tensor

    def __init__(self) -> None:
        super().__init__()
        constants = {
            "dct": _dct_filters(),
            "residual": _residual_filters(),
            "box": _box(),
            "cells": _spectrum_cells(),
            "window": torch.hann_window(CROP, periodic=False).outer(torch.hann_window(CROP, periodic=False)),
            "luma": torch.tensor(_LUMA).view(1, 3, 1, 1),
        }
        for name, value in constants.items():  # fixed by this file, so no part of the weights
            self.register_buffer(name, value, persistent=False)

    def forward(self, crops: UInt8[Tensor, "n 3 64 64"]) -> Float[Tensor, "n 9 272"]:
        # A core's own cache holds the maps of about 16 crops; fewer at once cost more in calls than they save.
        parts = torch.split(crops, 16) if crops.device.type == "cpu" else [crops]
        # bfloat16 has steps of 1 at a brightness of 255: coarser than the residuals that are looked for.
        with torch.autocast(crops.device.type, enabled=False):
            return torch.cat([self._tokens(part) for part in parts])

    def patch_boxes(self) -> list[tuple[float, float, float]]:
        """(top, left, side) of every token's patch, in pixels of a crop."""
        return [(top, left, 32.0) for top in (0.0, 16.0, 32.0) for left in (0.0, 16.0, 32.0)]

    def describe(self, crops: UInt8[Tensor, "n 3 64 64"]) -> tuple[Float[Tensor, "n 9 272"], Float[Tensor, "n 272"]]:
        """Patch tokens and, in place of a global embedding, their mean."""
        tokens = self.forward(crops)
        return tokens, tokens.mean(1)

    # Maps are changed in place where nobody needs them any more: what a core works on then stays in its caches.
    def _tokens(self, crops: UInt8[Tensor, "n 3 64 64"]) -> Float[Tensor, "n 9 272"]:
        luma = (crops.float() * self.luma).sum(1, keepdim=True)
        raw = conv2d(_mirror(luma, 2), self.residual)
        residual = raw.clamp(-20, 20)
        power = _patches(residual.square()) + 0.05
        scale = power.sqrt().mean(2)[:, :, None, None]  # per crop and filter
        groups = [
            *self._dct_shape(luma),
            self._histograms(residual / scale),
            self._cooccurrences(residual[:, :4], scale[:, :4]),
            self._periodicity(residual[:, 8:9].clamp(-15, 15).abs()),
            self._peaks(raw[:, 9]),
        ]
        return torch.cat(groups, 1).transpose(1, 2).contiguous()

    def _dct_shape(self, luma: Float[Tensor, "n 1 64 64"]) -> tuple[Tensor, Tensor]:
        """Log mean magnitude of every coefficient, and how heavy its tail is: [n, 63, 9] twice."""
        magnitude = conv2d(luma, self.dct, stride=2)[..., :28, :28].abs()
        energy = torch.log(_patches(magnitude.clamp_max(40)) + 0.05)
        return energy, energy - torch.log(_patches(magnitude.add_(1).log_()) + 0.02)

    def _histograms(self, relative: Float[Tensor, "n c 64 64"]) -> Float[Tensor, "n three_c 9"]:
        """Share of residuals near zero at three widths, relative to the crop's own residual level."""
        near = relative.square().neg_().clamp_min_(-16).exp_()
        shares = [_patches(near)]  # of width 1
        for _ in range(2):  # half the width is the fourth power, for less than another exponential
            near.square_().square_().clamp_min_(math.exp(-16))  # far from numbers too small for full precision, which are slow
            shares.append(_patches(near))
        return torch.cat(shares[::-1], 1)

    def _cooccurrences(self, residual: Float[Tensor, "n 4 64 64"], scale: Float[Tensor, "n 4 1 1"]) -> Float[Tensor, "n 64 9"]:
        """Soft three-level residuals of neighbours: same sign, opposite sign, both zero, one zero.

        A residual is positive by ``up`` and negative by ``down``. For neighbours a and b, the products of ``up + down`` and of
        ``up - down`` give all four: up_a up_b + down_a down_b is half their sum, up_a down_b + down_a up_b half the difference.
        """
        statistics = []
        for threshold in ((0.7 * scale).clamp_min(0.5), torch.ones_like(scale)):
            relative = (4 * residual).div_(threshold)
            up, down = (relative - 4).sigmoid_(), relative.neg_().sub_(4).sigmoid_()
            sign, present = up - down, up.add_(down)
            padded_sign, padded_present, here = _mirror(sign, 4), _mirror(present, 4), _patches(present)
            for step in ((0, 1), (1, 0)):
                next_present = _shifted(padded_present, *step)
                there, both = _patches(next_present), _patches(present * next_present)
                signed = _patches(sign * _shifted(padded_sign, *step))
                statistics += [(both + signed) / 2, (both - signed) / 2, 1 - here - there + both, there - both]
        return torch.cat(statistics, 1)

    def _periodicity(self, magnitude: Float[Tensor, "n 1 64 64"]) -> Float[Tensor, "n lags 9"]:
        """Autocorrelation of the residual's magnitude, less its local mean."""
        centred = magnitude - self.box @ magnitude @ self.box.T
        power, padded = _patches(centred.square()) + 0.05, _mirror(centred, 4)
        return torch.cat([_patches(centred * _shifted(padded, *lag)) / power for lag in _LAGS], 1)

    def _peaks(self, residual: Float[Tensor, "n 64 64"]) -> Float[Tensor, "n cells 9"]:
        """Log arithmetic less log geometric mean of the power in each ring and sector: 0 for a flat spectrum."""
        power = torch.fft.rfft2(residual * self.window).abs().square().flatten(1) / 600 + 0.02
        peaks = torch.log(power @ self.cells) - torch.log(power) @ self.cells
        return peaks[:, :, None].expand(-1, -1, 9)
