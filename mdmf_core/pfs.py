"""Patch Forensic Signatures: one small MLP shared by all patches."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mdmf_core.errors import ArtifactError


class PatchSignature(nn.Module):
    """Standardised patch tokens to a compact forensic space: Linear, GELU, Linear.

    Width and depth are ours; the paper publishes neither.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tokens: int, hidden: int, signature: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tokens))
        self.register_buffer("std", torch.ones(tokens))
        self.layers = nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, signature))

    def forward(self, tokens: Float[Tensor, "n tokens"]) -> Float[Tensor, "n signature"]:
        result: Tensor = self.layers((tokens - self.mean) / self.std)
        return result

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "PatchSignature":
        """Rebuilds the module from ``mean``, ``std``, ``layers.{0,2}.{weight,bias}``.

        Raises:
            ArtifactError: a tensor is missing or its shape does not fit the others.
        """
        try:
            hidden, width = tensors["layers.0.weight"].shape
            module = cls(width, hidden, tensors["layers.2.weight"].shape[0])
            module.load_state_dict(dict(tensors), strict=True)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"PFS weights do not fit Linear-GELU-Linear: {error}") from error
        return module.eval()
