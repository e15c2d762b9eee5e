"""Patch Forensic Signatures: one small MLP shared by all patches."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from mdmf_core.errors import ArtifactError


class PatchSignature(nn.Module):
    """Standardised patch tokens to a compact forensic space: Linear, GELU, Linear.

    Tokens are clipped at four standard deviations, so that one wild entry cannot decide. Width and depth are ours; the paper
    publishes neither.
    """

    CLIP = 4.0

    mean: Tensor
    std: Tensor

    def __init__(self, tokens: int, hidden: int, signature: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tokens))
        self.register_buffer("std", torch.ones(tokens))
        self.inner = nn.Linear(tokens, hidden)
        self.outer = nn.Linear(hidden, signature)

    def forward(self, tokens: Float[Tensor, "n tokens"]) -> Float[Tensor, "n signature"]:
        return self.project(self.standardised(tokens))

    def project(self, standardised: Float[Tensor, "n tokens"]) -> Float[Tensor, "n signature"]:
        """Puts standardised tokens through the two layers."""
        result: Tensor = self.outer(gelu(self.inner(standardised)))
        return result

    def standardised(self, tokens: Float[Tensor, "n tokens"]) -> Float[Tensor, "n tokens"]:
        """Standardises patch tokens, as the first layer wants them."""
        return ((tokens - self.mean) / self.std).clamp(-self.CLIP, self.CLIP)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "PatchSignature":
        """Rebuilds the module from ``mean``, ``std``, ``{inner,outer}.{weight,bias}``.

        Raises:
            ArtifactError: a tensor is missing or its shape does not fit the others.
        """
        try:
            hidden, width = tensors["inner.weight"].shape
            module = cls(width, hidden, tensors["outer.weight"].shape[0])
            module.load_state_dict(dict(tensors), strict=True)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"PFS weights do not fit Linear-GELU-Linear: {error}") from error
        return module.eval()
