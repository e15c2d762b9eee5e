"""Frozen backbones from timm: uint8 crops in, patch tokens out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mdmf_core.errors import ArtifactError


@dataclass(frozen=True)
class TimmConfig:
    """A configuration names a timm ViT and says which of its patch tokens are used.

    Attributes:
        model: timm name with its weights tag, such as ``vit_large_patch14_dinov2.lvd142m``.
        size: side of a crop in pixels.
        blocks: transformer blocks whose tokens are concatenated; negative counts from the last; -1 = timm's own output.
        pool: side W of a pooled patch in pixels: the tokens' grid is averaged to size // W patches a side; None = the
            model's own patch.
        norm: whether the model's final norm is applied to the tokens of every block, as timm does to the last one's.
    """

    model: str
    size: int = 224
    blocks: tuple[int, ...] = (-1,)
    pool: int | None = None
    norm: bool = True

    def record(self) -> dict[str, Any]:
        """Returns what enters the digest of a scorer. The norm is named only where it is left out: older digests lack it."""
        record = {"kind": "timm"} | asdict(self) | {"blocks": list(self.blocks)}
        if self.norm:
            del record["norm"]
        return record


class TimmBackbone(nn.Module):
    """A timm ViT that normalises uint8 crops as its own configuration says and returns patch tokens only.

    Class and register tokens are dropped. With the model's final norm, as by default, the last block's tokens equal
    ``forward_features``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, config: TimmConfig) -> None:
        super().__init__()
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        if not hasattr(model, "forward_intermediates") or not isinstance(patch, tuple):
            raise ValueError(f"{config.model} has no patch tokens; choose a ViT from timm.list_models('vit*')")
        depth = len(model.blocks)  # type: ignore[arg-type]
        outside = [block for block in config.blocks if not -depth <= block < depth]
        if outside or not config.blocks:
            raise ValueError(f"blocks of {config.model} run from {-depth} to {depth - 1}, got {list(config.blocks)}")
        side: int = patch[0]
        if config.pool is not None and not side <= config.pool <= config.size:
            raise ValueError(
                f"pool must lie between the model's patch of {side} px and the crop's {config.size} px, got {config.pool}"
            )
        self.model = model.eval()
        self._norm = config.norm
        self._blocks = sorted(block % depth for block in config.blocks)
        self._grid = config.size // (side if config.pool is None else config.pool)
        self._side = config.size / self._grid
        cfg: Mapping[str, Sequence[float]] = model.pretrained_cfg  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(cfg["std"]).view(1, 3, 1, 1))

    def forward(self, crops: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n k d"]:
        return self.describe(crops)[0]

    def patch_boxes(self) -> list[tuple[float, float, float]]:
        """(top, left, side) of every token's patch, in pixels of a crop; pooled patches to the nearest of the model's own."""
        edges = [index * self._side for index in range(self._grid)]
        return [(top, left, self._side) for top in edges for left in edges]

    def describe(self, crops: UInt8[Tensor, "n 3 size size"]) -> tuple[Float[Tensor, "n k d"], Float[Tensor, "n e"]]:
        """Patch tokens, and a global embedding: the class token of the last block asked for, or the mean token without one.

        Blocks after the last one that is asked for are not run.
        """
        found = self.model.forward_intermediates(  # type: ignore[operator]
            self._normalised(crops),
            indices=self._blocks,
            return_prefix_tokens=True,
            norm=self._norm,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        has_class_token = isinstance(found[-1], tuple)
        tokens = self._pooled([part[0] for part in found] if has_class_token else found)
        return tokens, found[-1][1][:, 0] if has_class_token else tokens.mean(1)

    def _normalised(self, crops: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n 3 size size"]:
        return (crops.float() / 255 - self.mean) / self.std  # in timm's own order, to the last bit

    def _pooled(self, maps: list[Float[Tensor, "n d rows columns"]]) -> Float[Tensor, "n k d"]:
        grid = torch.cat(maps, dim=1)
        if self._grid != grid.shape[-1]:
            grid = nn.functional.adaptive_avg_pool2d(grid, self._grid)
        return grid.flatten(2).transpose(1, 2)


def timm_backbone(config: TimmConfig, weights: str | None = None, revision: str | None = None) -> TimmBackbone:
    """Builds a timm backbone with weights from a local safetensors file, or from the model hub at a pinned revision.

    timm itself resamples position embeddings when ``config.size`` is not the size that the weights were trained at.

    Raises:
        ValueError: an unknown model, one without patch tokens, or neither weights nor revision.
        ArtifactError: weights that do not fit the model, or a hub that cannot be reached.
    """
    if (weights is None) == (revision is None):
        raise ValueError(
            f"timm:{config.model} needs its weights pinned: add either ?revision=COMMIT (of the model hub) or "
            "?weights=FILE.safetensors"
        )
    if weights is not None and not weights.endswith(".safetensors"):
        raise ValueError(f"weights must be a .safetensors file (other formats can run code when read), got {weights}")
    name = config.model.partition(".")[0]
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:12]}*")[:5]) or "none"
        raise ValueError(f"timm has no model {name!r}; near: {near}")
    overlay = {"file": weights} if weights else {"hf_hub_id": f"timm/{config.model}@{revision}"}
    try:
        model = timm.create_model(config.model, pretrained=True, pretrained_cfg_overlay=overlay, img_size=config.size)
    except TypeError as error:
        raise ValueError(f"{config.model} has no patch tokens; choose a ViT from timm.list_models('vit*')") from error
    except Exception as error:  # hub client, safetensors and torch each raise their own types
        raise ArtifactError(f"weights of {config.model} cannot be loaded: {str(error)[:500]}") from error
    return TimmBackbone(model, config)
