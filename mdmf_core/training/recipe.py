"""The recipe of a training, and the tokens that it trains on."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float16, Int64
from torch import Tensor

from mdmf_core.choices import Objective

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
REAL, GENERATED, REGENERATED = 0, 1, 2


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
