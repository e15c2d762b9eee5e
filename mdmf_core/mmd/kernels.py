"""The Gaussian kernel on patch forensic signatures."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|a_i - b_j|^2 by the expanded square, clamped at 0; in the inputs' dtype (pass float64 where it matters).

    ``torch.cdist`` is not used: its gradient at distance 0 is NaN.
    """
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2.0 * (a @ b.T)
    return squares.clamp_min(0.0)


def gaussian(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], sigma: float | Tensor) -> Float[Tensor, "n m"]:
    """k(a, b) = exp(-|a - b|^2 / (2 sigma^2)), in [0, 1]."""
    return torch.exp(squared_distances(a, b) / (-2.0 * sigma**2))


def median_heuristic(points: Float[Tensor, "n d"], most: int = 2000) -> float:
    """Returns the median distance between distinct points, on an even stride of at most ``most`` of them.

    Raises:
        ValueError: fewer than two points, or all of them the same.
    """
    if len(points) < 2:
        raise ValueError(f"the median heuristic needs at least 2 points, got {len(points)}")
    points = points[:: -(-len(points) // most)].double()
    rows, columns = torch.triu_indices(len(points), len(points), offset=1)
    squared = float(squared_distances(points, points)[rows, columns].median())
    # The expanded square leaves rounding of this size between points that coincide.
    if squared <= 1e-12 * float(points.square().sum(1).max()):
        raise ValueError("more than half of the points coincide: no bandwidth follows from them")
    return math.sqrt(squared)
