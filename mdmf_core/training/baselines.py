"""What the method has to beat on the same tokens and the same training images: global linear probes and a per-patch vote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mdmf_core.training.model_choice import ImageTokens
from mdmf_core.training.recipe import TrainingTokens

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
        """Returns the model as named tensors, for the scorer's directory."""
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


def mean_tokens(images: Sequence[Float[Tensor, "k d"]]) -> Float[np.ndarray, "images d"]:
    """The mean token of every image."""
    return torch.stack([tokens.float().mean(0) for tokens in images]).numpy()


def train_vote(rows: TrainingTokens) -> LinearModel:
    """A probe on single patches, of an even stride of crops, about 20,000 in all."""
    k = rows.tokens.shape[1]
    stride = max(1, -(-len(rows.crops) * k // _PATCHES))
    some = rows.subset(np.arange(0, len(rows.crops), stride))
    features = some.tokens[torch.from_numpy(some.crops)].flatten(0, 1).float().numpy()
    return train_probe(features, np.repeat(some.generated, k), np.repeat(some.groups, k))


def vote(model: LinearModel, images: ImageTokens) -> Float[np.ndarray, " images"]:
    """Mean over an image's patches of the patch's probability of being generated."""
    return np.array([float((1 / (1 + np.exp(-model.logits(tokens.float().numpy())))).mean()) for tokens in images.tokens])


@dataclass(frozen=True)
class Peers:
    """Every peer that learns, trained on the crops that the scorer was trained on."""

    class_token: LinearModel
    mean_token: LinearModel
    patch: LinearModel

    @classmethod
    def train(cls, rows: TrainingTokens, embeddings: Float[np.ndarray, "all e"]) -> "Peers":
        """From training crops and the global embeddings of all crops."""
        means = mean_tokens(list(rows.tokens[torch.from_numpy(rows.crops)]))
        class_token, mean_token = (
            train_probe(features, rows.generated, rows.groups) for features in (embeddings[rows.crops], means)
        )
        return cls(class_token, mean_token, train_vote(rows))

    def scores(self, images: ImageTokens) -> dict[str, Float[np.ndarray, " images"]]:
        """Scores of images by the name of the peer; higher = more likely generated."""
        return {
            "class-token probe": self.class_token.logits(images.embeddings),
            "mean-token probe": self.mean_token.logits(mean_tokens(images.tokens)),
            "patch vote": vote(self.patch, images),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Returns the model as named tensors, for the scorer's directory."""
        return self.class_token.tensors("class") | self.mean_token.tensors("mean") | self.patch.tensors("patch")

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Peers":
        """Raises KeyError for tensors that are not there."""
        return cls(*(LinearModel.from_tensors(tensors, prefix) for prefix in ("class", "mean", "patch")))
