"""Training a Patch Forensic Signature from a random start: MMD test power between real and generated patches, or cross-entropy.

The paper publishes neither start nor widths. What is here was chosen on held-out generators under the neutral protocol; see
docs/detection.md for what each part is worth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from mdmf_core.choices import Objective
from mdmf_core.errors import LabelError
from mdmf_core.mmd.kernels import gaussian, median_heuristic
from mdmf_core.signatures.pfs import PatchSignature
from mdmf_core.training.recipe import Recipe, TrainingTokens

_STANDARDISED_ON = 500  # crops that mean and spread of the tokens are taken from


@dataclass(frozen=True)
class Fitted:
    """A trained signature (None = raw tokens), its bandwidth, and how it got there."""

    signature: PatchSignature | None
    sigma: float
    curves: tuple[tuple[float, ...], ...]  # loss at every tenth of the steps, one curve a seed


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


def fit(rows: TrainingTokens, recipe: Recipe, seeds: Sequence[int]) -> Fitted:
    """Trains one signature for each seed and joins them.

    Raises:
        LabelError: a class without crops.
    """
    if not rows.generated.any() or rows.generated.all():
        made = int(rows.generated.sum())
        raise LabelError(f"training needs crops of both classes, got {len(rows.generated) - made} real and {made} generated")
    if recipe.objective == "none":
        return Fitted(None, median_heuristic(rows.some(2000).float()), ())
    with torch.random.fork_rng(devices=[]):
        found = [_trained(rows, recipe, seed) for seed in seeds]
        return Fitted(joined([(head, sigma) for head, sigma, _ in found]), 1.0, tuple(curve for *_, curve in found))


def joined(members: Sequence[tuple[PatchSignature, float]]) -> PatchSignature:
    """One signature whose kernel at bandwidth 1 is the geometric mean of the members' kernels at their own bandwidths.

    The members' hidden units and outputs stand side by side, the outputs divided by sigma sqrt(members). All members must
    standardise tokens alike.
    """
    heads = [head for head, _ in members]
    inner, outer = (sum(getattr(head, part).out_features for head in heads) for part in ("inner", "outer"))
    whole = PatchSignature(len(heads[0].mean), inner, outer)
    shares = [1 / (sigma * math.sqrt(len(members))) for _, sigma in members]
    with torch.no_grad():
        whole.mean.copy_(heads[0].mean)
        whole.std.copy_(heads[0].std)
        whole.inner.weight.copy_(torch.cat([head.inner.weight for head in heads]))
        whole.inner.bias.copy_(torch.cat([head.inner.bias for head in heads]))
        blocks = [head.outer.weight * share for head, share in zip(heads, shares, strict=True)]
        whole.outer.weight.copy_(torch.block_diag(*blocks))  # type: ignore[no-untyped-call]
        whole.outer.bias.copy_(torch.cat([head.outer.bias * s for head, s in zip(heads, shares, strict=True)]))
    return whole.eval().requires_grad_(False)


def _random_start(rows: TrainingTokens, recipe: Recipe) -> PatchSignature:
    patches = rows.some(_STANDARDISED_ON).float()
    head = PatchSignature(patches.shape[1], recipe.hidden, recipe.signature)
    head.mean.copy_(patches.mean(0))
    head.std.copy_(patches.std(0) + 1e-6)
    return head


def _trained(rows: TrainingTokens, recipe: Recipe, seed: int) -> tuple[PatchSignature, float, tuple[float, ...]]:
    """(signature, bandwidth, losses) of one seed."""
    torch.manual_seed(seed)
    episodes, head = _Episodes(rows, recipe, seed), _random_start(rows, recipe)
    dropout = _TokenDropout(rows.tokens.shape[-1], recipe.dropout)
    log_sigma = nn.Parameter(torch.tensor(math.log(math.sqrt(recipe.signature))))
    vote = nn.Linear(recipe.signature, 1)  # of cross-entropy alone
    layers: dict[str, Any] = {"params": [*head.parameters(), *vote.parameters()]}
    optimizer = torch.optim.AdamW(
        [layers, {"params": [log_sigma], "weight_decay": 0.0}], lr=recipe.rate, weight_decay=recipe.decay
    )
    curve = []
    for step in range(1, recipe.steps + 1):
        loss = torch.zeros(())
        for _ in range(recipe.episodes):
            x, y = (head.project(dropout(head.standardised(part))) for part in episodes.draw())
            if recipe.objective == "bce":
                loss = loss + softplus(vote(x)).mean() + softplus(-vote(y)).mean()
            else:
                loss = loss - test_power(x, y, log_sigma.exp(), recipe.objective, recipe.variance_floor)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % max(1, recipe.steps // 10) == 0:
            curve.append(loss.item())
    head.requires_grad_(False)
    sigma = median_heuristic(head(rows.some(100).float())) if recipe.objective == "bce" else float(log_sigma.detach().exp())
    return head, sigma, tuple(curve)


class _TokenDropout:
    """Leaves out a share of every token's entries. Masks are drawn once and dealt anew: drawing them took a third of a step."""

    _MASKS = 1024

    def __init__(self, width: int, share: float) -> None:
        self._masks = (torch.rand(self._MASKS, width) >= share).float() / (1 - share)

    def __call__(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return tokens * self._masks[torch.randint(self._MASKS, (len(tokens),))]


class _Episodes:
    """Draws the two sides of an MMD problem: real patches of all sources alike, against one generator drawn evenly."""

    def __init__(self, rows: TrainingTokens, recipe: Recipe, seed: int) -> None:
        self._rows, self._patches, self._random = rows, recipe.patches, np.random.default_rng(seed)

        def pools(generated: bool) -> list[np.ndarray]:
            here = rows.generated == generated
            return [np.flatnonzero(here & (rows.groups == group)) for group in np.unique(rows.groups[here])]

        self._real, self._generated = pools(False), pools(True)

    def draw(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        generator = self._generated[int(self._random.integers(len(self._generated)))]
        return self._of(self._real), self._of([generator])

    def _of(self, pools: list[np.ndarray]) -> Float[Tensor, "n d"]:
        """Patches: a pool drawn evenly, then one of its crops, then one of its patches."""
        chosen = self._random.integers(len(pools), size=self._patches)
        rows = np.array([pools[pool][self._random.integers(len(pools[pool]))] for pool in chosen])
        patches = self._random.integers(self._rows.tokens.shape[1], size=self._patches)
        return self._rows.tokens[torch.from_numpy(self._rows.crops[rows]), torch.from_numpy(patches)].float()
