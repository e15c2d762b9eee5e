"""What the method has to beat on the same tokens and the same training images: a global linear probe and a per-patch vote."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mdmf_core.training.model_choice import ImageTokens

PEERS = "peers.safetensors"  # in a scorer's directory
_PATCHES = 20_000  # that the vote is trained on


@dataclass(frozen=True)
class LinearModel:
    """A logistic model on standardised features."""

    mean: Float[np.ndarray, " d"]
    std: Float[np.ndarray, " d"]
    weight: Float[np.ndarray, " d"]
    bias: float

    def logits(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log odds of "generated"."""
        odds: Float[np.ndarray, " n"] = (features.astype(np.float64) - self.mean) / self.std @ self.weight + self.bias
        return odds

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """As named tensors, for the scorer's directory."""
        parts = {"mean": self.mean, "std": self.std, "weight": self.weight, "bias": np.array([self.bias])}
        return {f"{prefix}.{name}": torch.from_numpy(np.asarray(value, dtype=np.float64)) for name, value in parts.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str) -> "LinearModel":
        """Raises KeyError for tensors that are not there."""
        mean, std, weight, bias = (tensors[f"{prefix}.{name}"].numpy() for name in ("mean", "std", "weight", "bias"))
        return cls(mean, std, weight, float(bias[0]))


def train_probe(
    features: Float[np.ndarray, "n d"], generated: Bool[np.ndarray, " n"], groups: np.ndarray, regularisation: float = 3e-3
) -> LinearModel:
    """Logistic regression in which the classes weigh alike and a group counts by the root of its size.

    The recipe of UnivFD (Ojha, Li, Lee, CVPR 2023) when the features are a backbone's global embedding.
    """
    weight = np.zeros(len(features))
    for label in (False, True):
        here = generated == label
        _, inverse, counts = np.unique(groups[here], return_inverse=True, return_counts=True)
        found = (1 / np.sqrt(counts))[inverse]
        weight[here] = len(features) / 2 * found / found.sum()
    wide = features.astype(np.float64)
    mean, std = wide.mean(0), wide.std(0) + 1e-3
    model = LogisticRegression(C=regularisation, max_iter=500).fit((wide - mean) / std, generated, sample_weight=weight)
    return LinearModel(mean, std, model.coef_[0], float(model.intercept_[0]))


def train_vote(tokens: Float[Tensor, "crops k d"], generated: Bool[np.ndarray, " crops"], groups: np.ndarray) -> LinearModel:
    """The same on single patches, an even stride of at most 20,000."""
    k = tokens.shape[1]
    rows = np.arange(0, len(tokens) * k, max(1, len(tokens) * k // _PATCHES))
    features = tokens.flatten(0, 1)[torch.from_numpy(rows)].float().numpy()
    return train_probe(features, generated[rows // k], groups[rows // k])


def vote(model: LinearModel, images: ImageTokens) -> Float[np.ndarray, " images"]:
    """Mean over an image's patches of the patch's probability of being generated."""
    return np.array([float((1 / (1 + np.exp(-model.logits(tokens.float().numpy())))).mean()) for tokens in images.tokens])
