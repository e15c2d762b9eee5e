"""placeholder until the trained backbone lands"""

import torch
from torch import Tensor, nn


class ForensicBackbone(nn.Module):
    def forward(self, crops: Tensor) -> Tensor:
        x = crops.float().mean(1, keepdim=True)
        r = (x[..., 1:] - x[..., :-1])[..., :63]
        p = nn.functional.unfold(nn.functional.pad(r, (0, 1)), 32, stride=32).transpose(1, 2)
        return torch.cat([p.abs().mean(2, keepdim=True), p.square().mean(2, keepdim=True).log1p(), p.std(2, keepdim=True)], 2)
