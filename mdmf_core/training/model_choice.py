"""Choosing objective and statistic on held-out groups, and measuring the choice on groups that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16
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

STATISTICS: dict[StatisticName, dict[str, float]] = {"mmd2": {"mmd2": 1.0}, "cross": {"cross": -1.0}, "top-k": {"top_k": -1.0}}
_BANK_TOKENS = 6000  # patches that a bank is chosen from while arms are compared


@dataclass(frozen=True)
class ImageTokens:
    """All patch tokens of some images under one condition."""

    tokens: Sequence[Float16[Tensor, "k d"]]
    embeddings: Float[np.ndarray, "images e"]  # global, mean over crops
    generated: Bool[np.ndarray, " images"]
    groups: np.ndarray  # names
    domains: np.ndarray
    pairs: np.ndarray  # None where an image belongs to no content-matched pair
    sha256s: np.ndarray

    def subset(self, rows: np.ndarray) -> "ImageTokens":
        """The images at a mask."""
        index = np.flatnonzero(rows)
        return ImageTokens(
            [self.tokens[i] for i in index.tolist()], self.embeddings[index], self.generated[index], self.groups[index],
            self.domains[index], self.pairs[index], self.sha256s[index],
        )  # fmt: skip


@dataclass(frozen=True)
class Fold:
    """Tokens of one split; no group is both in training (with its bank) and in the test."""

    train: TrainingTokens
    bank: ImageTokens
    test: Mapping[str, ImageTokens]  # by condition


@dataclass(frozen=True)
class Arm:
    """One objective on one fold: what it learned and the terms of every image."""

    recipe: Recipe
    fitted: Fitted
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
    signature: PatchSignature | None, sigma: float, bank: Float[Tensor, "m d"], images: ImageTokens, k: int
) -> Float[np.ndarray, "images terms"]:
    """The MMD terms of every image, in the order of ``TERMS``."""
    weights = torch.full((len(bank),), 1 / len(bank), dtype=torch.float64)
    constant = float(gaussian(bank.double(), bank.double(), sigma).mean())
    found = []
    for start in range(0, len(images.tokens), 32):
        some = images.tokens[start : start + 32]
        vectors = signatures(signature, torch.cat(list(some)))
        terms = patch_terms(vectors, [len(tokens) for tokens in some], bank, weights, sigma, constant, k)
        found.append(torch.stack([getattr(terms, name) for name in TERMS], 1))
    return torch.cat(found).numpy() if found else np.zeros((0, len(TERMS)))


def run_arm(fold: Fold, recipe: Recipe, seeds: Sequence[int], points: int, k: int) -> Arm:
    """Trains one arm on a fold and measures every test image of it."""
    fitted = fit(fold.train, recipe, seeds)
    vectors = signatures(fitted.signature, bank_tokens(fold.bank))
    bank = vectors[herding(vectors, min(points, len(vectors)), fitted.sigma)[0]]
    terms = {name: image_terms(fitted.signature, fitted.sigma, bank, images, k) for name, images in fold.test.items()}
    return Arm(recipe, fitted, terms)


def statistic_of(name: str, k: int) -> Statistic:
    """The named statistic.

    Raises:
        ValueError: a name that is not one of mmd2, cross, top-k.
    """
    terms = {str(known): terms for known, terms in STATISTICS.items()}
    if name not in terms:
        raise ValueError(f"statistic must be one of {', '.join(terms)}, got {name!r}")
    return Statistic(terms[name], k)


def scores(statistic: Statistic, terms: Float[np.ndarray, "n terms"]) -> Float[np.ndarray, " n"]:
    """The statistic of every image; higher = more likely generated."""
    values: Float[np.ndarray, " n"] = terms @ np.array([statistic.terms.get(name, 0.0) for name in TERMS])
    return values


def _figure(values: Float[np.ndarray, " n"], images: ImageTokens) -> float:
    """Mean AUROC over the generators, each against all real images: no large generator decides."""
    real = values[~images.generated]
    names = np.unique(images.groups[images.generated])
    return float(np.mean([auroc(values[images.generated & (images.groups == name)], real) for name in names]))


@dataclass(frozen=True)
class Choice:
    """An objective with a statistic, and the figure on held-out groups that it won by."""

    objective: str
    statistic: str
    figure: float


def choose(
    arms: Sequence[Arm], folds: Sequence[Fold], statistics: Sequence[str], k: int, condition: str
) -> tuple[Choice, dict[str, float]]:
    """The best pair by mean figure on the test groups of these folds (one entry of ``folds`` per arm), and all the figures.

    Whoever reports a fold must leave it out here.
    """
    figures: dict[str, list[float]] = {}
    for arm, fold in zip(arms, folds, strict=True):
        for name in statistics:
            found = _figure(scores(statistic_of(name, k), arm.test[condition]), fold.test[condition])
            figures.setdefault(f"{arm.recipe.objective} {name}", []).append(found)
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    best = max(means, key=lambda name: means[name])
    objective, _, statistic_name = best.partition(" ")
    return Choice(objective, statistic_name, means[best]), means
