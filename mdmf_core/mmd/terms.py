"""Maximum Mean Discrepancy compares an image's patches with a reference bank (MDMF, arXiv 2605.09296)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdmf_core.mmd.kernels import gaussian

_ROWS = 256  # patches whose kernel values with a bank of some thousand points stay in the cache


@dataclass(frozen=True)
class PatchTerms:
    """The terms have one value per image, and per slice where there are several, in float64.

    Every term is an average of kernel values and lies in [0, 1], ``mmd2`` in [-1, 2].
    """

    mmd2: Float[Tensor, "images ..."]
    cross: Float[Tensor, "images ..."]  # mean kernel to the bank; low = far from real
    self_term: Float[Tensor, "images ..."]  # mean kernel between the image's own patches, U-form
    top_k: Float[Tensor, "images ..."]  # mean bank density of the k patches farthest from the bank; low = far
    top_patch: Int[Tensor, "images ..."]  # index of the farthest patch

    def slice(self, at: int) -> "PatchTerms":
        """Returns the terms against one of several slices."""
        return PatchTerms(*(getattr(self, field.name)[:, at] for field in fields(self)))


def mmd2_unbiased(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], sigma: float) -> float:
    """U-statistic of MMD^2 (Gretton et al. 2012, eq. 3); 0 in expectation when both come from one distribution.

    Raises:
        ValueError: fewer than two points on a side.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"unbiased MMD^2 needs at least 2 points a side, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    return float(_mean_off_diagonal(x, sigma) + _mean_off_diagonal(y, sigma) - 2.0 * gaussian(x, y, sigma).mean())


def _mean_off_diagonal(points: Float[Tensor, "n d"], sigma: float) -> Tensor:
    kernel = gaussian(points, points, sigma)
    return (kernel.sum() - kernel.diagonal().sum()) / (len(points) * (len(points) - 1))


@dataclass(frozen=True)
class Stack:
    """The points of several slices of one bandwidth as one matrix, so that one product compares patches with all of them."""

    scaled: Float[Tensor, "d m"]  # points / sigma^2, transposed, float64
    half: Float[Tensor, " m"]  # -|b|^2 / 2 sigma^2
    weights: Float[Tensor, "m slices"]  # a slice's own where its points are, else 0
    bank_terms: Float[Tensor, " slices"]
    sigma: float

    @classmethod
    def of(
        cls, slices: Sequence[tuple[Float[Tensor, "m d"], Float[Tensor, " m"], float]], sigma: float, device: torch.device
    ) -> "Stack":
        """Stacks the (points, weights, bank term) of every slice."""
        points = torch.cat([points.to(device).double() for points, _, _ in slices])
        columns = [weights.to(device).double()[:, None] for _, weights, _ in slices]
        weights = torch.block_diag(*columns)  # type: ignore[no-untyped-call]
        constants = torch.tensor([term for _, _, term in slices], dtype=torch.float64, device=device)
        return cls((points / sigma**2).T, points.square().sum(1) / (-2.0 * sigma**2), weights, constants, sigma)

    def densities(self, patches: Float[Tensor, "n d"]) -> Float[Tensor, "n slices"]:
        """mu_B(t) = sum_j w_j k(b_j, t) for every slice: how much a patch looks like its points; 1 = exactly like them.

        Block by block and in place, since this is where the statistics spend their time. The exponent is
        a.b / s^2 - (|a|^2 + |b|^2) / 2 s^2, at most 0 up to rounding.
        """
        means = []
        for block in torch.split(patches.double(), _ROWS):
            exponent = torch.addmm(self.half[None, :], block, self.scaled)
            exponent.add_((block.square().sum(1) / (-2.0 * self.sigma**2))[:, None]).clamp_(max=0.0)
            means.append(exponent.exp_() @ self.weights)
        return torch.cat(means)


def density(
    points: Float[Tensor, "n d"], bank: Float[Tensor, "m d"], weights: Float[Tensor, " m"], sigma: float
) -> Float[Tensor, " n"]:
    """Computes ``Stack.densities`` for one slice."""
    return Stack.of([(bank, weights, 0.0)], sigma, points.device).densities(points)[:, 0]


def self_terms(signatures: Float[Tensor, "patches d"], counts: list[int], sigma: float) -> Float[Tensor, " images"]:
    """Computes the mean kernel between the patches of each image, U-form; it does not depend on the bank.

    Raises:
        ValueError: an image with fewer than 2 patches (no U-statistic), or counts that do not add up.
    """
    present, sizes = _layout(signatures, counts)
    padded = signatures.new_zeros(*present.shape, signatures.shape[1], dtype=torch.float64)
    padded[present] = signatures.double()
    half = padded.square().sum(2) / (-2.0 * sigma**2)
    exponent = torch.baddbmm(half[:, None, :], padded / sigma**2, padded.transpose(1, 2))
    kernel = exponent.add_(half[:, :, None]).clamp_(max=0.0).exp_()
    inside = present.double()
    total = (inside[:, None, :] @ kernel @ inside[:, :, None])[:, 0, 0]
    trace = (kernel.diagonal(dim1=1, dim2=2) * inside).sum(1)
    return (total - trace) / (sizes * (sizes - 1))


def patch_terms(
    signatures: Float[Tensor, "patches d"],
    counts: list[int],
    bank: Float[Tensor, "m d"],
    weights: Float[Tensor, " m"],
    sigma: float,
    bank_term: float,
    k: int,
) -> PatchTerms:
    """Computes ``stack_terms`` against one slice, without the axis of slices."""
    return stack_terms(signatures, counts, Stack.of([(bank, weights, bank_term)], sigma, signatures.device), k).slice(0)


def stack_terms(signatures: Float[Tensor, "patches d"], counts: list[int], stack: Stack, k: int) -> PatchTerms:
    """Computes the MMD terms [images, slices] of many images, of which image i owns the next ``counts[i]`` signatures.

    mmd2 = self - 2 cross + c_B, with c_B the bank's own constant. Images of different patch counts are padded to the
    longest and masked, so that one batched product serves them all.

    Raises:
        ValueError: as ``self_terms``.
    """
    present, sizes = _layout(signatures, counts)
    sizes = sizes[:, None]
    own = self_terms(signatures, counts, stack.sigma)[:, None]
    near = stack.densities(signatures)
    densities = near.new_full((*present.shape, near.shape[1]), torch.inf)
    densities[present] = near
    cross = torch.where(present[:, :, None], densities, 0.0).sum(1) / sizes
    ordered = densities.sort(dim=1)
    within = torch.arange(present.shape[1], device=near.device)[None, :, None] < sizes.clamp_max(k)[:, :, None]
    top_k = torch.where(within, ordered.values, 0.0).sum(1) / sizes.clamp_max(k)
    return PatchTerms(own - 2.0 * cross + stack.bank_terms, cross, own.expand_as(cross), top_k, ordered.indices[:, 0])


def _layout(
    signatures: Float[Tensor, "patches d"], counts: list[int]
) -> tuple[Bool[Tensor, "images longest"], Float[Tensor, " images"]]:
    if min(counts) < 2 or sum(counts) != len(signatures):
        raise ValueError(f"patch counts must be at least 2 and add up to {len(signatures)}, got {counts}")
    lengths = torch.tensor(counts, device=signatures.device)
    return torch.arange(int(lengths.max()), device=signatures.device)[None, :] < lengths[:, None], lengths.double()


def witness(
    at: Float[Tensor, "n d"],
    image: Float[Tensor, "k d"],
    bank: Float[Tensor, "m d"],
    weights: Float[Tensor, " m"],
    sigma: float,
) -> Float[Tensor, " n"]:
    """(mean of k(x_i, t) over the image) - mu_B(t): positive where the image has mass that the bank lacks."""
    at, image = at.double(), image.double()
    return gaussian(at, image, sigma).mean(1) - density(at, bank.double(), weights.double(), sigma)
