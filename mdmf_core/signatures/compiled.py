"""A backbone is compiled by ``torch.compile``."""

from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class CompiledBackbone(nn.Module):
    """A compiled backbone gives its backbone's tokens up to rounding; on CUDA by one captured graph per number of crops.

    Passes are filled up to a power of two, so that few numbers are compiled.
    """

    def __init__(self, backbone: nn.Module, cuda: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self._run = torch.compile(backbone, mode="reduce-overhead" if cuda else "default", dynamic=False)

    def forward(self, crops: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n k d"]:
        n = len(crops)
        filled = torch.cat([crops, crops.new_zeros((1 << (n - 1).bit_length()) - n, *crops.shape[1:])])
        tokens = cast(Tensor, self._run(filled))
        return tokens[:n].clone()  # the next replay of a graph writes over what this one gave

    def patch_boxes(self) -> list[tuple[float, float, float]]:
        """Returns the patch boxes of the backbone that was compiled."""
        return cast(list[tuple[float, float, float]], self.backbone.patch_boxes())  # type: ignore[operator]
