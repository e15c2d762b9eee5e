"""A compiled backbone gives the same tokens."""

import shutil

import pytest
import torch
from torch import nn

from mdmf_core.signatures.compiled import CompiledBackbone


class Tokens(nn.Module):
    """Four tokens of three numbers from a crop."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return torch.sin(nn.functional.avg_pool2d(crops.float(), 4)).flatten(2).transpose(1, 2)

    def patch_boxes(self) -> list[tuple[float, float, float]]:
        return [(0.0, 0.0, 4.0)]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's own compiler
def test_a_compiled_backbone_gives_the_same_tokens_of_a_pass_that_is_no_power_of_two():
    crops = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = Tokens()
    fast = CompiledBackbone(plain, cuda=False)
    assert torch.allclose(fast(crops), plain(crops), atol=1e-5)
    assert fast(crops).shape == (3, 4, 3)
    assert fast.patch_boxes() == plain.patch_boxes()
