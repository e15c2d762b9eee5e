"""A closed-form start of the PFS: a ridge discriminant that is widened one-sidedly."""

import numpy as np
import torch
from jaxtyping import Float

from mdmf_core.errors import LabelError
from mdmf_core.mmd.kernels import median_heuristic
from mdmf_core.signatures.pfs import PatchSignature
from mdmf_core.training.recipe import GENERATED, REAL, REGENERATED, Recipe, TrainingTokens


def discriminant(rows: TrainingTokens, recipe: Recipe) -> PatchSignature:
    """The one-sided start: a signature of one dimension, GELU(gain (b z - threshold)) / gain.

    b solves (S + ridge I + invariance V) b = difference of the class means, on mean tokens of crops, where S is the scatter of
    both classes and V the spread of the real sources' means. Groups count by the root of their size, classes alike.

    Raises:
        LabelError: a class without crops.
    """
    means = rows.tokens.float().mean(1).numpy().astype(np.float64)
    weight = _class_weights(rows, recipe.regenerated)
    centre = weight @ means
    spread = np.sqrt(weight @ (means - centre) ** 2) + 1e-3
    z = np.clip((means - centre) / spread, -PatchSignature.CLIP, PatchSignature.CLIP)
    scatter = (z * weight[:, None]).T @ z + recipe.ridge * np.eye(z.shape[1])
    for kind in (REAL, REGENERATED):
        sources = [z[(rows.kinds == kind) & (rows.groups == g)].mean(0) for g in np.unique(rows.groups[rows.kinds == kind])]
        if len(sources) > 1:
            off = np.stack(sources) - np.mean(sources, 0)
            scatter += recipe.invariance * off.T @ off / len(sources)
    direction = np.linalg.solve(scatter, z.T @ (weight * np.where(rows.kinds == REAL, -1.0, 1.0)))
    projected = z @ direction
    direction /= np.sqrt(weight @ (projected - weight @ projected) ** 2)
    head = PatchSignature(z.shape[1], 1, 1)
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(centre))
        head.std.copy_(torch.from_numpy(spread))
        head.inner.weight.copy_(torch.from_numpy(recipe.gain * direction)[None])
        head.inner.bias.fill_(-recipe.gain * recipe.threshold)
        head.outer.weight.fill_(1 / recipe.gain)
        head.outer.bias.zero_()
    return head.requires_grad_(False).eval()


def _class_weights(rows: TrainingTokens, regenerated: float) -> Float[np.ndarray, " crops"]:
    """Weights that sum to 1, half of them on real crops; within a kind a group counts by the root of its size."""
    if not (rows.kinds == REAL).any() or not (rows.kinds == GENERATED).any():
        raise LabelError(
            f"training needs crops of both classes, got {int((rows.kinds == REAL).sum())} real and "
            f"{int((rows.kinds == GENERATED).sum())} generated"
        )
    share = regenerated if (rows.kinds == REGENERATED).any() else 0.0
    weight = np.zeros(len(rows.kinds))
    for kind, part in ((REAL, 0.5), (GENERATED, 0.5 * (1 - share)), (REGENERATED, 0.5 * share)):
        here = rows.kinds == kind
        if part:
            _, inverse, counts = np.unique(rows.groups[here], return_inverse=True, return_counts=True)
            found = (1 / np.sqrt(counts))[inverse]
            weight[here] = part * found / found.sum()
    return weight


def widened(start: PatchSignature, recipe: Recipe, seed: int) -> PatchSignature:
    """The same signature with further small random units and dimensions, for gradients to use."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wide = PatchSignature(len(start.mean), 1 + recipe.hidden, recipe.signature)
    with torch.no_grad():
        wide.mean.copy_(start.mean)
        wide.std.copy_(start.std)
        first, last = wide.inner, wide.outer
        first.weight.mul_(0.5)
        first.bias.fill_(-0.5)
        last.weight.mul_(0.1)
        last.bias.zero_()
        first.weight[0], first.bias[0] = start.inner.weight[0], start.inner.bias[0]
        last.weight[0], last.weight[:, 0] = 0.0, 0.0
        last.weight[0, 0] = start.outer.weight[0, 0]
    return wide


def start_bandwidth(head: PatchSignature | None, rows: TrainingTokens) -> float:
    """Median heuristic on an even stride of real and generated patches alike."""
    flat = rows.tokens.flatten(0, 1)
    points = flat[:: max(1, len(flat) // 2000)].float()
    return median_heuristic(points if head is None else head(points))
