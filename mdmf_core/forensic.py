"""The embedded forensic backbone: residual, DCT and autocorrelation statistics of 32 px patches, nothing learned.

Fixed filters remove brightness and colour from 64 px crops at native resolution; each 32 px window, 16 px apart, is described
by 360 statistics of what remains. The description cannot memorise content; the Patch Forensic Signature on top decides what
matters.

Sources: high-pass residuals after Fridrich and Kodovsky, "Rich Models for Steganalysis of Digital Images" (IEEE TIFS 2012);
autocorrelation as a resampling trace after Popescu and Farid, "Exposing Digital Forgeries by Detecting Traces of Resampling"
(IEEE TSP 2005); block-DCT statistics of generated images after Frank et al., "Leveraging Frequency Analysis for Deep Fake Image
Recognition" (ICML 2020).
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, pad

CROP = 64  # side of a crop, pixels
TOKENS = 9  # per crop: a 3 x 3 grid of 32 px windows, 16 px apart

# Lags (down, right) of the residual's autocorrelation: the half plane within 5 steps.
LAGS = tuple((dy, dx) for dy in range(5) for dx in range(-4, 5) if not (dy == 0 and dx <= 0) and abs(dx) + dy <= 5)


def _dct_filters(n: int) -> Tensor:
    """The n x n DCT-II basis without its constant, as filters [n * n - 1, 1, n, n]."""
    k = np.arange(n)
    basis = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / n) * np.sqrt(2 / n)
    basis[0] /= np.sqrt(2)
    filters = np.einsum("ij,kl->ikjl", basis, basis).reshape(n * n, 1, n, n)[1:]
    return torch.from_numpy(filters.astype(np.float32))


def _residual_filters() -> Tensor:
    """High-pass filters [3, 1, 3, 3]: horizontal and vertical first difference, Ker-Bohme second difference."""
    filters = torch.zeros(3, 1, 3, 3)
    filters[0, 0, 1, 1:] = torch.tensor([-1.0, 1.0])
    filters[1, 0, 1:, 1] = torch.tensor([-1.0, 1.0])
    filters[2, 0] = torch.tensor([[-1.0, 2.0, -1.0], [2.0, -4.0, 2.0], [-1.0, 2.0, -1.0]]) / 4
    return filters


def _windows(maps: Tensor) -> Tensor:
    """Means of maps [N, C, h, w] over 32 px windows, 16 px apart -> [N, C, 9]."""
    return avg_pool2d(adaptive_avg_pool2d(maps, 4), 2, 1).flatten(2)


class ForensicBackbone(nn.Module):
    """uint8 crops to nine tokens of 360 statistics each; a crop's tokens do not depend on its batch."""

    opponent: Tensor
    dct8: Tensor
    dct4: Tensor
    residual: Tensor

    def __init__(self) -> None:
        super().__init__()
        opponent = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
        self.register_buffer("opponent", opponent)
        self.register_buffer("dct8", _dct_filters(8))
        self.register_buffer("dct4", _dct_filters(4))
        self.register_buffer("residual", _residual_filters())

    def forward(self, crops: UInt8[Tensor, "n 3 64 64"]) -> Float[Tensor, "n 9 360"]:
        # A processor's cache holds the maps of about 16 crops; a third of the time goes when they do not fit.
        parts = torch.split(crops, 16) if crops.device.type == "cpu" else [crops]
        return torch.cat([self._tokens(part) for part in parts])

    def _tokens(self, crops: UInt8[Tensor, "n 3 64 64"]) -> Float[Tensor, "n 9 360"]:
        rgb = crops.float()
        ycc = torch.einsum("ij,njhw->nihw", self.opponent, rgb)
        parts = [*self._dct(ycc), *self._residuals(rgb), *self._autocorrelation(ycc)]
        return torch.cat(parts, 1).transpose(1, 2).contiguous()

    def _dct(self, ycc: Tensor) -> list[Tensor]:
        """Energy, share of zeros and mean log magnitude per frequency: luminance 3 x 63, chroma 2 x 2 x 15."""
        c = conv2d(ycc[:, :1], self.dct8, stride=2).abs()
        parts = [
            torch.log(0.05 + _windows(c.clamp_max(40))),
            _windows(torch.exp(-c)),
            torch.log(0.02 + _windows(torch.log1p(c))),
        ]
        for plane in (1, 2):
            c = conv2d(ycc[:, plane : plane + 1], self.dct4, stride=2).abs()
            parts += [torch.log(0.05 + _windows(c)), _windows(torch.exp(-2 * c))]
        return parts

    def _residuals(self, rgb: Tensor) -> list[Tensor]:
        """Per colour and filter: log variance (9), correlation between colours (9), peakedness (9)."""
        n, _, h, w = rgb.shape
        padded = pad(rgb, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None]
        r = conv2d(padded, self.residual).view(n, 3, 3, h, w).clamp(-20, 20)
        variance = _windows((r * r).flatten(1, 2)).view(n, 3, 3, TOKENS) + 0.1
        parts = [torch.log(variance).flatten(1, 2)]
        for a, b in ((0, 1), (1, 2), (0, 2)):
            parts.append(_windows(r[:, a] * r[:, b]) / torch.sqrt(variance[:, a] * variance[:, b]))
        peaked = _windows(r.abs().flatten(1, 2)).view(n, 3, 3, TOKENS) / torch.sqrt(variance)
        return [*parts, peaked.flatten(1, 2)]

    def _autocorrelation(self, ycc: Tensor) -> list[Tensor]:
        """Normalised autocorrelation of the second difference, per lag and plane (28 x 3)."""
        n, _, h, w = ycc.shape
        padded = pad(ycc, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None]
        g = conv2d(padded, self.residual[2:]).view(n, 3, h, w).clamp(-15, 15)
        variance = _windows(g * g) + 0.05
        return [_windows(g * torch.roll(g, lag, (2, 3))) / variance for lag in LAGS]
