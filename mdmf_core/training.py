"""Training a Patch Forensic Signature: a one-sided start in closed form, then MMD test power or cross-entropy.

Distance from a bank has no direction: a photograph that is cleaner than the bank is as far from it as a generated one. A random
start learns what is special about the few generators it sees and flags unusual photographs as readily. The start used here has
a direction: the first hidden unit is GELU(b z - t), with b a ridge discriminant between real and generated patches. What looks
more real than the bank saturates at 0; only the generated side moves away. The paper publishes neither start nor widths.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64
from torch import Tensor, nn
from torch.nn.functional import softplus

from mdmf_core.errors import LabelError
from mdmf_core.kernels import gaussian, median_heuristic
from mdmf_core.pfs import PatchSignature

Objective = Literal["none", "closed-form", "mmd-d", "mmd-mp", "bce"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
REAL, GENERATED, REGENERATED = 0, 1, 2
_DROP = 0.1  # share of token entries that an episode does not see


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of. ``objective`` none = raw tokens, no PFS; closed-form = the start as it is."""

    objective: Objective = "closed-form"
    regenerated: float = 0.4  # weight of regenerated photographs among the generated examples
    ridge: float = 0.03  # of the discriminant, in units of a standardised token's variance
    invariance: float = 10.0  # penalty on directions that tell one real source from another
    gain: float = 2.0  # slope of the one-sided unit
    threshold: float = 0.0  # its bend, in standard deviations of the discriminant; reals lie below 0
    hidden: int = 32  # further units and signature dimensions for the objectives that train by gradient
    signature: int = 8
    steps: int = 300
    rate: float = 3e-4
    patches: int = 256  # n of the MMD, a side
    episodes: int = 2  # MMD problems in one step
    variance_floor: float = 1e-2  # lambda of the test power; with n this small 1e-8 would collapse the variance
    patience: int = 3  # evaluations without a better validation figure before stopping

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if not 0 <= self.regenerated < 1 or self.ridge <= 0 or self.invariance < 0 or self.patches < 2 or self.steps < 1:
            raise ValueError(
                f"regenerated in [0, 1), ridge > 0, invariance >= 0, patches >= 2 and steps >= 1 are needed: {self}"
            )


@dataclass(frozen=True)
class TrainingTokens:
    """Patch tokens of training crops; all patches of a crop share its group and kind."""

    tokens: Float16[Tensor, "crops k d"]
    groups: Int64[np.ndarray, " crops"]
    kinds: Int64[np.ndarray, " crops"]  # REAL, GENERATED or REGENERATED

    def subset(self, rows: np.ndarray) -> "TrainingTokens":
        """The crops at ``rows`` (indices or mask)."""
        return TrainingTokens(self.tokens[torch.from_numpy(rows)], self.groups[rows], self.kinds[rows])


@dataclass(frozen=True)
class Fitted:
    """A trained signature (None = raw tokens), its bandwidth, and how it got there."""

    signature: PatchSignature | None
    sigma: float
    curve: tuple[tuple[int, float, float], ...]  # step, loss, validation figure
    best_step: int


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


def start_bandwidth(head: PatchSignature | None, rows: TrainingTokens) -> float:
    """Median heuristic on an even stride of real and generated patches alike."""
    flat = rows.tokens.flatten(0, 1)
    points = flat[:: max(1, len(flat) // 2000)].float()
    return median_heuristic(points if head is None else head(points))


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
