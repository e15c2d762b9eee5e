"""A bank is compressed with a certificate to a few weighted points whose kernel mean is close to the whole bank's."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdmf_core.choices import Compression
from mdmf_core.mmd.kernels import gaussian

BLOCK_POINTS = 20_000  # compressed at a time; the kernel matrix of a block is never held whole
_ROWS = 1024


@dataclass(frozen=True)
class Coreset:
    """A coreset is a set of weighted points that stand for many more.

    ``error`` bounds MMD(source, points), so |MMD(X, source) - MMD(X, points)| <= error for every X, and the same for every
    density. It is exact for a source of one block and an upper bound, by the triangle inequality, beyond.
    """

    points: Float[Tensor, "m d"]
    weights: Float[Tensor, " m"]
    error: float
    source_points: int


def kernel_means(points: Float[Tensor, "n d"], sigma: float, weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
    """sum_j w_j k(x_i, x_j) for every i, with w_j = 1/n by default, in blocks, so that no n x n matrix is held."""
    points = points.double()
    w = torch.full((len(points),), 1 / len(points), dtype=torch.float64) if weights is None else weights.double()
    return torch.cat([gaussian(block, points, sigma) @ w for block in torch.split(points, _ROWS)])


def herding(
    points: Float[Tensor, "n d"], size: int, sigma: float, weights: Float[Tensor, " n"] | None = None, max_error: float = 0.0
) -> tuple[Int[Tensor, " size"], float]:
    """Greedy kernel herding (Chen, Welling, Smola 2010): indices of at most ``size`` points, and MMD(source, coreset).

    Each step takes the point that most lowers MMD between the weighted source and the equal-weight coreset.

    Args:
        max_error: stop at the first size whose MMD is no larger.

    Raises:
        ValueError: ``size`` outside 1..n.
    """
    if not 1 <= size <= len(points):
        raise ValueError(f"a coreset of {len(points)} points holds 1 to {len(points)}, not {size}")
    points = points.double()
    means = kernel_means(points, sigma, weights)
    total = float(means.mean() if weights is None else weights.double() @ means)
    chosen: list[int] = []
    taken = torch.zeros(len(points), dtype=torch.bool)
    to_chosen = torch.zeros(len(points), dtype=torch.float64)  # sum of k to the chosen
    within = cross = error = 0.0
    for step in range(size):
        # argmin over t of MMD^2 with t added; k(t, t) = 1 is the same for all.
        gain = means - to_chosen / (step + 1)
        best = int(gain.masked_fill(taken, -torch.inf).argmax())
        within += 2.0 * float(to_chosen[best]) + 1.0
        cross += float(means[best])
        chosen.append(best)
        taken[best] = True
        to_chosen += gaussian(points, points[best : best + 1], sigma)[:, 0]
        error = max(total - 2.0 * cross / (step + 1) + within / (step + 1) ** 2, 0.0) ** 0.5
        if error <= max_error:
            break
    return torch.tensor(chosen), error


def compress(
    blocks: Iterable[Float[Tensor, "n d"]], size: int, sigma: float, method: Compression = "herding", max_error: float = 0.0
) -> Coreset:
    """Compresses to at most ``size`` points a stream of blocks, in the memory of one block and the coresets so far.

    Every block is herded to ``size`` points on its own, weighted by its share; their union is then compressed by ``method``.

    Args:
        blocks: each at most ``BLOCK_POINTS`` points; an iterator is read once.
        method: ``herding``: equal weights. ``nystrom``: herded points with the weights that minimise MMD. ``thinning``: kernel
            thinning (Dwivedi and Mackey 2021) by the package goodpoints, at the largest power of two within ``size``.
        max_error: for herding: stop at this bound if it is reached before ``size`` points.

    Raises:
        ValueError: no points; an unknown method; or an error bound that ``size`` points do not reach.
    """
    if method not in get_args(Compression):
        raise ValueError(f"unknown compression {method!r}; known are {', '.join(get_args(Compression))}")
    stream = (block for block in blocks if len(block))
    first, second = next(stream, None), next(stream, None)
    if first is None:
        raise ValueError("no points to compress")
    if second is None:
        coreset = _compress_block(first.double(), _uniform(len(first)), min(size, len(first)), sigma, method, max_error)
    else:
        coreset = _compress_stream(chain([first, second], stream), size, sigma, method, max_error)
    if max_error and coreset.error > max_error:
        raise ValueError(f"{size} points reach an error of {coreset.error:.5f}, not {max_error}; allow more points")
    return coreset


def _compress_stream(blocks: Iterable[Tensor], size: int, sigma: float, method: Compression, max_error: float) -> Coreset:
    parts: list[Tensor] = []
    counts: list[int] = []
    lost = 0.0  # sum over blocks of points x MMD(block, its coreset)
    for block in blocks:
        indices, error = herding(block, min(size, len(block)), sigma)
        parts.append(block[indices].double())
        counts.append(len(block))
        lost += error * len(block)
    total = sum(counts)
    weights = torch.cat([_uniform(len(part)) * (count / total) for part, count in zip(parts, counts, strict=True)])
    union, before = torch.cat(parts), lost / total
    coreset = _compress_block(union, weights, min(size, len(union)), sigma, method, max(max_error - before, 0.0))
    # MMD is a norm of kernel means: the blocks' errors average, and the union's adds to them.
    return Coreset(coreset.points, coreset.weights, before + coreset.error, total)


def _compress_block(
    points: Float[Tensor, "n d"], weights: Float[Tensor, " n"], size: int, sigma: float, method: Compression, max_error: float
) -> Coreset:
    if method == "herding":
        indices, error = herding(points, size, sigma, weights, max_error)
        return Coreset(points[indices].float(), _uniform(len(indices)), error, len(points))
    indices = _thinned(points, weights, size, sigma) if method == "thinning" else herding(points, size, sigma, weights)[0]
    chosen = points[indices]
    if method == "nystrom":
        target = torch.cat([gaussian(block, points, sigma) @ weights for block in torch.split(chosen, _ROWS)])
        kernel = gaussian(chosen, chosen, sigma)
        kernel.diagonal().add_(1e-8)  # the Gram matrix of near points is singular to rounding
        best = torch.linalg.solve(kernel, target)
    else:
        best = _uniform(len(chosen))
    return Coreset(chosen.float(), best, weighted_mmd(points, weights, chosen.float(), best, sigma), len(points))


def _thinned(points: Float[Tensor, "n d"], weights: Float[Tensor, " n"], size: int, sigma: float) -> Int[Tensor, " m"]:
    try:
        from goodpoints import compress as goodpoints
    except ImportError as error:
        raise ValueError("thinning needs the package goodpoints: pip install 'mdmf[thinning]'") from error
    # Kernel thinning takes equal weights: an even draw along the cumulative weight stands for the weighted source.
    wanted = 4 ** int(np.log2(size))  # its coreset is the root of the largest power of four
    ladder = (np.arange(wanted) + 0.5) / wanted
    rows = np.searchsorted(np.cumsum(weights.numpy()) / float(weights.sum()), ladder).clip(max=len(points) - 1)
    rows = np.random.default_rng(0).permutation(rows)
    kept = goodpoints.compresspp_kt(points.numpy()[rows], b"gaussian", k_params=np.array([2.0 * sigma**2]), seed=0)
    return torch.from_numpy(rows[kept])


def weighted_mmd(
    x: Float[Tensor, "n d"], v: Float[Tensor, " n"], y: Float[Tensor, "m d"], w: Float[Tensor, " m"], sigma: float
) -> float:
    """Computes the MMD between two weighted point sets, in float64 and in blocks."""

    def mean(a: Tensor, p: Tensor, b: Tensor, q: Tensor) -> float:
        rows = zip(torch.split(a.double(), _ROWS), torch.split(p.double(), _ROWS), strict=True)
        return math.fsum(float(share @ (gaussian(block, b.double(), sigma) @ q.double())) for block, share in rows)

    return math.sqrt(max(mean(x, v, x, v) - 2.0 * mean(x, v, y, w) + mean(y, w, y, w), 0.0))


def _uniform(n: int) -> Float[Tensor, " n"]:
    return torch.full((n,), 1.0 / n, dtype=torch.float64)
