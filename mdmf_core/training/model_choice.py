"""Choosing objective and statistic on held-out groups, and measuring the choice on groups that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16
from scipy.optimize import minimize
from torch import Tensor

from mdmf_core.choices import StatisticName
from mdmf_core.mmd.coreset import herding
from mdmf_core.mmd.kernels import gaussian
from mdmf_core.mmd.terms import patch_terms
from mdmf_core.scoring.scorer import TERMS, Statistic
from mdmf_core.signatures.pfs import PatchSignature
from mdmf_core.training.figures import auroc
from mdmf_core.training.pfs_training import Fitted, fit
from mdmf_core.training.recipe import Recipe, TrainingTokens

STATISTICS: tuple[StatisticName, ...] = get_args(StatisticName)
_FIXED = {"mmd2": {"mmd2": 1.0}, "cross": {"cross": -1.0}, "top-k": {"top_k": -1.0}}
_SIGNS = np.array([1.0, -1.0, 0.0, -1.0])  # of TERMS: how each moves with "generated"; the self term is not monotone
_BANK_TOKENS = 6000  # patches that a bank is chosen from while arms are compared
_QUICK_POINTS = 256  # of the bank that early stopping uses


@dataclass(frozen=True)
class ImageTokens:
    """All patch tokens of some images under one condition."""

    tokens: Sequence[Float16[Tensor, "k d"]]
    embeddings: Float[np.ndarray, "images e"]  # global, mean over crops
    generated: Bool[np.ndarray, " images"]
    groups: np.ndarray  # names
    domains: np.ndarray
    sha256s: np.ndarray

    def subset(self, rows: np.ndarray) -> "ImageTokens":
        """The images at a mask."""
        index = np.flatnonzero(rows)
        return ImageTokens(
            [self.tokens[i] for i in index.tolist()], self.embeddings[index], self.generated[index], self.groups[index],
            self.domains[index], self.sha256s[index],
        )  # fmt: skip


@dataclass(frozen=True)
class Fold:
    """Tokens of one split; no group is in two of training (with its bank), validation and test."""

    train: TrainingTokens
    bank: ImageTokens
    validate: ImageTokens
    test: Mapping[str, ImageTokens]  # by condition


@dataclass(frozen=True)
class Arm:
    """One objective and seed on one fold: what it learned and the terms of every image."""

    recipe: Recipe
    seed: int
    fitted: Fitted
    validate: Float[np.ndarray, "images terms"]
    test: Mapping[str, Float[np.ndarray, "images terms"]]


def bank_tokens(images: ImageTokens, most: int = _BANK_TOKENS) -> Float16[Tensor, "n d"]:
    """Patches of real images, the same number of every source, on an even stride."""
    names = sorted(set(images.groups))
    parts = []
    for name in names:
        patches = torch.cat([images.tokens[i] for i in np.flatnonzero(images.groups == name).tolist()])
        parts.append(patches[:: max(1, -(-len(patches) * len(names) // most))])
    return torch.cat(parts)


def signatures(signature: PatchSignature | None, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n s"]:
    """PFS of tokens, or the tokens themselves."""
    return tokens.float() if signature is None else signature(tokens.float())


@torch.inference_mode()
def image_terms(
    signature: PatchSignature | None, sigma: float, bank: Float[Tensor, "m d"], images: ImageTokens, k: int, stride: int = 1
) -> Float[np.ndarray, "images terms"]:
    """The MMD terms of every image, in the order of ``TERMS``; ``stride`` leaves patches out."""
    weights = torch.full((len(bank),), 1 / len(bank), dtype=torch.float64)
    constant = float(gaussian(bank.double(), bank.double(), sigma).mean())
    found = []
    for start in range(0, len(images.tokens), 32):
        some = [tokens[::stride] for tokens in images.tokens[start : start + 32]]
        vectors = signatures(signature, torch.cat(some))
        terms = patch_terms(vectors, [len(tokens) for tokens in some], bank, weights, sigma, constant, k)
        found.append(torch.stack([getattr(terms, name) for name in TERMS], 1))
    return torch.cat(found).numpy() if found else np.zeros((0, len(TERMS)))


def run_arm(fold: Fold, recipe: Recipe, seed: int, points: int, k: int) -> Arm:
    """Trains one arm on a fold, stopping on its validation groups, and measures every image of it."""
    tokens = bank_tokens(fold.bank)
    quick = tokens[:: max(1, len(tokens) // _QUICK_POINTS)]

    def validation_figure(signature: PatchSignature | None, sigma: float) -> float:
        terms = image_terms(signature, sigma, signatures(signature, quick), fold.validate, k, stride=3)
        return max(_figure(terms @ _weights(statistic), fold.validate) for statistic in _FIXED.values())

    fitted = fit(fold.train, recipe, seed, validation_figure)
    vectors = signatures(fitted.signature, tokens)
    bank = vectors[herding(vectors, min(points, len(vectors)), fitted.sigma)[0]]

    def measured(images: ImageTokens) -> Float[np.ndarray, "images terms"]:
        return image_terms(fitted.signature, fitted.sigma, bank, images, k)

    return Arm(recipe, seed, fitted, measured(fold.validate), {name: measured(images) for name, images in fold.test.items()})


def statistic_for(name: str, k: int, terms: Float[np.ndarray, "n terms"], images: ImageTokens) -> Statistic:
    """The named statistic; ``fusion`` is fitted on these images: a logistic model, monotone in every term.

    Raises:
        ValueError: a name that is not one of mmd2, cross, top-k, fusion.
    """
    if name in _FIXED:
        return Statistic(_FIXED[name], k)
    if name != "fusion":
        raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, got {name!r}")
    used = np.flatnonzero(_SIGNS)
    signed = terms[:, used] * _SIGNS[used]
    spread = signed.std(0) + 1e-9
    z = (signed - signed.mean(0)) / spread
    side = np.where(images.generated, 1.0, -1.0)
    weight = np.where(images.generated, 0.5 / images.generated.sum(), 0.5 / (~images.generated).sum())

    def loss(parameters: np.ndarray) -> float:
        margins = side * (z @ parameters[1:] + parameters[0])
        return float(weight @ np.logaddexp(0, -margins) + 1e-3 * parameters[1:] @ parameters[1:])

    bounds = [(None, None), *[(0.0, None)] * len(used)]
    found = minimize(loss, np.full(len(used) + 1, 0.1), bounds=bounds, method="L-BFGS-B").x[1:]
    weights = found / spread * _SIGNS[used]
    kept = {TERMS[at]: float(value) for at, value in zip(used, weights, strict=True) if value != 0}
    return Statistic(kept or _FIXED["cross"], k)


def scores(statistic: Statistic, terms: Float[np.ndarray, "n terms"]) -> Float[np.ndarray, " n"]:
    """The statistic of every image; higher = more likely generated."""
    values: Float[np.ndarray, " n"] = terms @ _weights(statistic.terms)
    return values


def _weights(terms: Mapping[str, float]) -> Float[np.ndarray, " terms"]:
    return np.array([terms.get(name, 0.0) for name in TERMS])


def _figure(values: Float[np.ndarray, " n"], images: ImageTokens) -> float:
    """Mean AUROC over the generators, each against all real images: no large generator decides."""
    real = values[~images.generated]
    names = np.unique(images.groups[images.generated])
    return float(np.mean([auroc(values[images.generated & (images.groups == name)], real) for name in names]))


@dataclass(frozen=True)
class Choice:
    """An objective with a statistic, and the validation figure that it won by."""

    objective: str
    statistic: str
    figure: float


def choose(arms: Sequence[Arm], folds: Sequence[Fold], statistics: Sequence[str], k: int) -> tuple[Choice, dict[str, float]]:
    """The best pair by mean validation figure over the given arms (one entry of ``folds`` per arm), and all the figures.

    A fusion is fitted on the same images that it is compared on; it must win by more than .005 for its freedom.
    """
    figures: dict[str, list[float]] = {}
    for arm, fold in zip(arms, folds, strict=True):
        for name in statistics:
            statistic = statistic_for(name, k, arm.validate, fold.validate)
            found = _figure(scores(statistic, arm.validate), fold.validate) - (0.005 if name == "fusion" else 0.0)
            figures.setdefault(f"{arm.recipe.objective} {name}", []).append(found)
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    best = max(means, key=lambda name: means[name])
    objective, _, statistic_name = best.partition(" ")
    return Choice(objective, statistic_name, means[best]), means
