"""Two-sample tests on image features say whether two sets of images come from one distribution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdmf_core.mmd.kernels import gaussian

RANK = 64  # leading kernel features; what they leave out is below the noise of the comparisons made with them


@dataclass(frozen=True)
class FeatureMap:
    """Kernel mean embeddings as short vectors: Nystrom features on a slice's points (Williams and Seeger 2001).

    The squared distance between two images' features is their squared MMD as far as the leading ``RANK`` directions show it.
    """

    points: Float[Tensor, "m d"]
    sigma: float
    projection: Float[Tensor, "m r"]

    @classmethod
    def of(cls, points: Float[Tensor, "m d"], sigma: float) -> "FeatureMap":
        values, vectors = torch.linalg.eigh(gaussian(points.double(), points.double(), sigma))
        keep = torch.flip(torch.arange(len(values))[values > 1e-6 * values[-1]], [0])[:RANK]
        return cls(points.double(), sigma, vectors[:, keep] / values[keep].sqrt())

    def images(self, signatures: Float[Tensor, "patches d"], counts: list[int]) -> Float[Tensor, "images r"]:
        """Returns one vector per image: the mean of its patches' features."""
        near = gaussian(signatures.double().cpu(), self.points, self.sigma)
        means = torch.stack([part.mean(0) for part in torch.split(near, counts)])
        return (means @ self.projection).float()


@dataclass(frozen=True)
class TwoSample:
    """Unbiased MMD^2 between two sets of images, where it lies among permutations, and its interval over the images drawn."""

    mmd2: float
    p_value: float  # (1 + permutations at least as large) / (permutations + 1)
    low: float  # 90 % bootstrap interval
    high: float
    band: float  # 95 % of permutations lie below
    images: tuple[int, int]


def two_sample(a: Float[np.ndarray, "n r"], b: Float[np.ndarray, "m r"], seed: int = 0, permutations: int = 499) -> TwoSample:
    """Compares two sets of image features by permutation (Gretton et al. 2012), seeded.

    Raises:
        ValueError: fewer than two images on a side.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a comparison needs at least 2 images a side, got {len(a)} and {len(b)}")
    random = np.random.default_rng(seed)
    both = np.concatenate([a, b]).astype(np.float64)
    observed = _mmd2(both[: len(a)], both[len(a) :])
    shuffled = np.array([_mmd2(*np.split(both[random.permutation(len(both))], [len(a)])) for _ in range(permutations)])
    drawn = np.array(
        [
            _mmd2(
                a[random.integers(len(a), size=len(a))].astype(np.float64),
                b[random.integers(len(b), size=len(b))].astype(np.float64),
            )
            for _ in range(permutations)
        ]
    )
    # A bootstrap sample holds copies, which the U-form counts as nearness: its centre is moved back to the estimate.
    low, high = np.quantile(drawn - drawn.mean() + observed, [0.05, 0.95])
    p_value = (1 + int((shuffled >= observed).sum())) / (permutations + 1)
    return TwoSample(observed, p_value, float(low), float(high), float(np.quantile(shuffled, 0.95)), (len(a), len(b)))


def _mmd2(a: Float[np.ndarray, "n r"], b: Float[np.ndarray, "m r"]) -> float:
    def within(x: Float[np.ndarray, "k r"]) -> float:
        total = x.sum(0)
        return float((total @ total - (x * x).sum()) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2.0 * float(a.mean(0) @ b.mean(0))


def halves(sha256s: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Deals images into two halves by their digests, always alike: true for one half, false for the other."""
    order = np.argsort(np.array([sha256[::-1] for sha256 in sha256s]))
    first: Bool[np.ndarray, " n"] = np.zeros(len(sha256s), dtype=bool)
    first[order[: len(order) // 2]] = True
    return first
