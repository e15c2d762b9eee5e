"""Evidence says where in an image a score comes from: each patch's witness, calibrated density and nearest bank points."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdmf_core.banks.bank import Slice
from mdmf_core.mmd.kernels import gaussian
from mdmf_core.mmd.terms import density


@dataclass(frozen=True)
class Evidence:
    """The evidence of one image has a value per patch, in float64, in the scorer's order of patches."""

    witness: Float[Tensor, " patches"]  # kernel units, in [-1, 1]; positive = unlike real, like the rest of the image
    rarity: Float[Tensor, " patches"]  # in (0, 1]; small = few patches of real images lie so far from the others
    nearest: Int[Tensor, "patches k"]  # points of the slice, the most similar first
    similarity: Float[Tensor, "patches k"]  # their kernel values, in [0, 1]


@dataclass(frozen=True)
class Densities:
    """The densities of a slice at its own points, each point itself left out, are what patches of real images have.

    An approximation: the points are a coreset, which stands for the patches of real images by their weights and spreads a
    little more evenly than they do. It says how unusual a patch is; error rates come from the calibration alone.
    """

    values: Float[Tensor, " m"]  # ascending
    mass: Float[Tensor, " m"]  # share of real patches at this density or below, as the weights say

    @classmethod
    def of(cls, part: Slice) -> "Densities":
        """Computes the densities of a slice. Negative weights, which a Nystrom coreset may have, count as none."""
        weights = part.weights.double()
        own = density(part.points.double(), part.points.double(), weights, part.sigma)
        without = (own - weights) / (1.0 - weights / weights.sum()).clamp_min(1e-12)
        ordered = without.sort()
        share = weights.clamp_min(0.0)[ordered.indices]
        return cls(ordered.values, share.cumsum(0) / share.sum())

    def rarity(self, densities: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """(1 + m x share of real patches with at most this density) / (m + 1), in (0, 1]; small = unusual."""
        below = torch.searchsorted(self.values, densities, right=True)
        share = torch.cat([self.mass.new_zeros(1), self.mass])[below]
        return (1.0 + len(self.values) * share) / (len(self.values) + 1.0)


def evidence(image: Float[Tensor, "patches d"], part: Slice, densities: Densities, nearest: int = 5) -> Evidence:
    """Computes witness, calibrated density and nearest bank points of every patch of one image.

    The witness of a patch is its mean kernel with the image's other patches less its density under the bank. Leaving the patch
    out makes it the score's own U-form: mean witness = self_term - cross, and mmd2 = mean witness - (cross - c_B).

    Args:
        image: the signatures of its patches, at least 2.
        densities: ``Densities.of(part)``, the same for every image.
    """
    x, points = image.double().cpu(), part.points.double()
    near = density(x, points, part.weights.double(), part.sigma)
    others = (gaussian(x, x, part.sigma).sum(1) - 1.0) / (len(x) - 1)
    similar = gaussian(x, points, part.sigma).topk(min(nearest, len(points)), dim=1)
    return Evidence(others - near, densities.rarity(near), similar.indices, similar.values)


def paint(
    values: Float[np.ndarray, " patches"], boxes: Float[np.ndarray, "patches 4"], height: int, width: int, side: int
) -> Float[np.ndarray, "rows columns"]:
    """Spreads patch values over the image's area, at most ``side`` cells a side: means where patches overlap, NaN without.

    Args:
        boxes: (top, left, bottom, right) of every patch in pixels of the image.
    """
    scale = min(1.0, side / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    low = np.floor(boxes[:, :2] * [rows / height, columns / width] + 1e-9).astype(int)
    high = np.maximum(low + 1, np.round(boxes[:, 2:] * [rows / height, columns / width]).astype(int))
    total, covering = np.zeros((rows, columns)), np.zeros((rows, columns))
    for value, (top, left), (bottom, right) in zip(values, low, high, strict=True):
        total[top:bottom, left:right] += value
        covering[top:bottom, left:right] += 1
    means: Float[np.ndarray, "rows columns"] = np.full((rows, columns), np.nan)
    np.divide(total, covering, out=means, where=covering > 0)
    return means
