"""Bank compression with a certificate: a few points whose kernel mean is close to the whole bank's."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdmf_core.kernels import gaussian

_BLOCK = 4096


def kernel_means(points: Float[Tensor, "n d"], sigma: float) -> Float[Tensor, " n"]:
    """1/n sum_j k(x_i, x_j) for every i, in blocks, so that no n x n matrix is held."""
    points = points.double()
    return torch.cat([gaussian(block, points, sigma).mean(1) for block in torch.split(points, _BLOCK)])


def herding(points: Float[Tensor, "n d"], size: int, sigma: float) -> tuple[Int[Tensor, " size"], float]:
    """Greedy kernel herding (Chen, Welling, Smola 2010): indices of ``size`` points, and MMD(bank, coreset).

    Each step takes the point that most lowers MMD between the full set and the equal-weight coreset. The distance is the
    certificate: |MMD(X, bank) - MMD(X, coreset)| and every |mu_bank(t) - mu_coreset(t)| are at most this much.

    Raises:
        ValueError: ``size`` outside 1..n.
    """
    if not 1 <= size <= len(points):
        raise ValueError(f"a coreset of {len(points)} points holds 1 to {len(points)}, not {size}")
    points = points.double()
    means = kernel_means(points, sigma)
    chosen: list[int] = []
    taken = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    to_chosen = torch.zeros(len(points), dtype=torch.float64, device=points.device)  # sum of k to the chosen
    within = cross = 0.0
    for step in range(size):
        # argmin over t of MMD^2 with t added; k(t, t) = 1 is the same for all.
        gain = means - to_chosen / (step + 1)
        best = int(gain.masked_fill(taken, -torch.inf).argmax())
        within += 2.0 * float(to_chosen[best]) + 1.0
        cross += float(means[best])
        chosen.append(best)
        taken[best] = True
        to_chosen += gaussian(points, points[best : best + 1], sigma)[:, 0]
    squared = float(means.mean()) - 2.0 * cross / size + within / size**2
    return torch.tensor(chosen), max(squared, 0.0) ** 0.5
