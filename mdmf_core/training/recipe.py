"""The recipe of a training, and the tokens that it trains on."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float16, Int64
from torch import Tensor

from mdmf_core.choices import Objective

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of. ``objective`` none = raw tokens, no PFS."""

    objective: Objective = "mmd-d"
    hidden: int = 128
    signature: int = 32
    steps: int = 300
    rate: float = 1e-3
    decay: float = 1e-3  # of the weights, not of the bandwidth
    dropout: float = 0.2  # share of token entries that an episode does not see
    patches: int = 256  # n of the MMD, a side
    episodes: int = 2  # MMD problems in one step
    variance_floor: float = 1e-2  # lambda of the test power; with n this small 1e-8 would collapse the variance

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if not 0 <= self.dropout < 1 or self.patches < 2 or self.steps < 1:
            raise ValueError(f"dropout in [0, 1), patches >= 2 and steps >= 1 are needed: {self}")


@dataclass(frozen=True)
class TrainingTokens:
    """Patch tokens of training crops; all patches of a crop share its group and class."""

    tokens: Float16[Tensor, "all k d"]
    crops: Int64[np.ndarray, " crops"]  # which of all; subsets share the tokens, which fill memory once
    groups: Int64[np.ndarray, " crops"]
    generated: Bool[np.ndarray, " crops"]

    def subset(self, rows: np.ndarray) -> "TrainingTokens":
        """The crops at ``rows`` (indices or mask)."""
        return TrainingTokens(self.tokens, self.crops[rows], self.groups[rows], self.generated[rows])

    def some(self, most: int) -> Float16[Tensor, "n d"]:
        """Patches of an even stride of at most ``most`` crops."""
        stride = max(1, -(-len(self.crops) // most))
        return self.tokens[torch.from_numpy(self.crops[::stride])].flatten(0, 1)
