"""Training a Patch Forensic Signature: a one-sided start in closed form, then MMD test power or cross-entropy.

Distance from a bank has no direction: a photograph that is cleaner than the bank is as far from it as a generated one. A random
start learns what is special about the few generators it sees and flags unusual photographs as readily. The start used here has
a direction: the first hidden unit is GELU(b z - t), with b a ridge discriminant between real and generated patches. What looks
more real than the bank saturates at 0; only the generated side moves away. The paper publishes neither start nor widths.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from mdmf_core.choices import Objective
from mdmf_core.mmd.kernels import gaussian
from mdmf_core.signatures.pfs import PatchSignature
from mdmf_core.training.one_sided_start import discriminant, start_bandwidth, widened
from mdmf_core.training.recipe import GENERATED, REAL, REGENERATED, Recipe, TrainingTokens

_DROP = 0.1  # share of token entries that an episode does not see


@dataclass(frozen=True)
class Fitted:
    """A trained signature (None = raw tokens), its bandwidth, and how it got there."""

    signature: PatchSignature | None
    sigma: float
    curve: tuple[tuple[int, float, float], ...]  # step, loss, validation figure
    best_step: int


def test_power(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], sigma: float | Tensor, objective: Objective, variance_floor: float
) -> Float[Tensor, ""]:
    """Regularised test power of MMD^2 between real ``x`` and generated ``y``: MMD2_u / sqrt(var + lambda).

    ``mmd-d`` after Liu et al. (ICML 2020), eq. 3 and 5; ``mmd-mp`` after Zhang et al. (ICLR 2024), which leaves k(y, y) out, as
    generated patches of several generators need not be alike.
    """
    n = len(x)
    cross = gaussian(x, y, sigma)
    h = gaussian(x, x, sigma) - cross - cross.T
    if objective == "mmd-d":
        h = h + gaussian(y, y, sigma)
    mmd2 = (h.sum() - h.diagonal().sum()) / (n * (n - 1))
    variance = 4 / n**3 * h.sum(1).square().sum() - 4 / n**4 * h.sum() ** 2
    return mmd2 / torch.sqrt(variance.clamp_min(0) + variance_floor)


def fit(
    rows: TrainingTokens,
    recipe: Recipe,
    seed: int,
    validate: Callable[[PatchSignature | None, float], float] | None,
) -> Fitted:
    """Trains one signature; the best of the evaluations is kept.

    Args:
        validate: figure of (signature, sigma) on held-out groups, higher is better; None = no early stop, all steps are run.
    """
    if recipe.objective == "none":
        sigma = start_bandwidth(None, rows)
        return Fitted(None, sigma, ((0, 0.0, validate(None, sigma) if validate else 0.0),), 0)
    head = discriminant(rows, recipe)
    sigma = start_bandwidth(head, rows)
    begin = validate(head, sigma) if validate else 0.0
    if recipe.objective == "closed-form":
        return Fitted(head, sigma, ((0, 0.0, begin),), 0)
    return _tuned(widened(head, recipe, seed), sigma, rows, recipe, seed, validate, begin)


def _tuned(
    head: PatchSignature,
    sigma: float,
    rows: TrainingTokens,
    recipe: Recipe,
    seed: int,
    validate: Callable[[PatchSignature | None, float], float] | None,
    begin: float,
) -> Fitted:
    random, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    pools = _Pools(rows, random)
    log_sigma = nn.Parameter(torch.tensor(np.log(sigma), dtype=torch.float32))
    logit = nn.Parameter(torch.zeros(recipe.signature + 1))
    optimizer = torch.optim.Adam([*head.parameters(), log_sigma, logit], recipe.rate)
    every = max(1, recipe.steps // 10)
    best = (begin, 0, _frozen(head), sigma)
    curve = [(0, 0.0, begin)]
    for step in range(1, recipe.steps + 1):
        loss = torch.zeros(())
        for _ in range(recipe.episodes):
            x, y = (_dropped(part, head, noise) for part in pools.episode(recipe))
            fx, fy = head.project(x), head.project(y)
            if recipe.objective == "bce":
                scores = [f @ logit[1:] + logit[0] for f in (fx, fy)]
                loss = loss + softplus(scores[0]).mean() + softplus(-scores[1]).mean()
            else:
                loss = loss - test_power(fx, fy, log_sigma.exp(), recipe.objective, recipe.variance_floor)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % every == 0:
            bandwidth = float(log_sigma.detach().exp())
            figure = validate(_frozen(head), bandwidth) if validate else float(step)
            curve.append((step, loss.item(), figure))
            if figure > best[0]:
                best = (figure, step, _frozen(head), bandwidth)
            elif (step - best[1]) // every >= recipe.patience:
                break
    return Fitted(best[2], best[3], tuple(curve), best[1])


def _dropped(tokens: Float[Tensor, "n d"], head: PatchSignature, noise: torch.Generator) -> Float[Tensor, "n d"]:
    z = head.standardised(tokens)
    return z * (torch.rand(z.shape, generator=noise) > _DROP) / (1 - _DROP)


def _frozen(head: PatchSignature) -> PatchSignature:
    copy = PatchSignature(len(head.mean), head.inner.out_features, head.outer.out_features)
    copy.load_state_dict(head.state_dict())
    return copy.eval().requires_grad_(False)


class _Pools:
    """Draws the two sides of an episode: real patches of all sources alike, against one generator or regenerated ones."""

    def __init__(self, rows: TrainingTokens, random: np.random.Generator) -> None:
        self.tokens, self.random = rows.tokens, random
        self.by_kind = {
            kind: [
                np.flatnonzero((rows.kinds == kind) & (rows.groups == group))
                for group in np.unique(rows.groups[rows.kinds == kind])
            ]
            for kind in (REAL, GENERATED, REGENERATED)
        }

    def episode(self, recipe: Recipe) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        regenerated = self.by_kind[REGENERATED] and self.random.random() < recipe.regenerated
        generators = self.by_kind[GENERATED]
        against = self.by_kind[REGENERATED] if regenerated else [generators[int(self.random.integers(len(generators)))]]
        return self._draw(self.by_kind[REAL], recipe.patches), self._draw(against, recipe.patches)

    def _draw(self, pools: list[np.ndarray], count: int) -> Float[Tensor, "n d"]:
        of = self.random.integers(len(pools), size=count)
        crops = np.array([pools[pool][self.random.integers(len(pools[pool]))] for pool in of])
        patches = self.random.integers(self.tokens.shape[1], size=count)
        return self.tokens[torch.from_numpy(crops), torch.from_numpy(patches)].float()
