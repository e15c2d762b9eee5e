"""A scorer looks at native-resolution squares of an image, in one encoding. Nothing is resized or padded."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from mdmf_core.images.reencode import reencoded
from mdmf_core.records import ExclusionReason, ImageExcluded


@dataclass(frozen=True, slots=True)
class CropPlan:
    """A plan cuts squares of ``size`` px, at most ``most`` of them, on an even grid that reaches all four edges.

    One crop is the centre crop. Neighbours overlap when the image is not a multiple of ``size``.

    Attributes:
        quality: JPEG quality that every crop passes, or None. With one, PNG, WebP and JPEG files reach the backbone in the same
            last encoding, its 8 px grid at the same place in every crop, so that a file's own format cannot decide.
    """

    size: int
    most: int
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.quality is not None and (not 1 <= self.quality <= 100 or self.size % 8):
            raise ValueError(f"a quality of 1 to 100 needs crops of a multiple of 8 px, got {self.quality} and {self.size} px")
        if self.size < 1 or self.most < 1:
            raise ValueError(f"crop size and count must be at least 1, got {self.size} and {self.most}")

    def boxes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns (top, left) of every crop, row by row.

        Raises:
            ImageExcluded: ``too_small``, when a side is shorter than one crop.

        >>> CropPlan(64, 16).boxes(64, 100)
        [(0, 0), (0, 36)]
        >>> CropPlan(224, 1).boxes(256, 300)
        [(16, 38)]
        """
        if min(height, width) < self.size:
            raise ImageExcluded(
                ExclusionReason.TOO_SMALL,
                f"{width} x {height} px without its border; this scorer needs {self.size} x {self.size}",
            )
        rows, columns = math.ceil(height / self.size), math.ceil(width / self.size)
        if rows * columns > self.most:
            # As many as the budget allows in the image's own proportion, never beyond one per cell.
            rows = min(rows, max(1, min(self.most, round(math.sqrt(self.most * height / width)))))
            columns = min(columns, self.most // rows)
            rows = min(math.ceil(height / self.size), self.most // columns)
        return [(top, left) for top in self._offsets(height, rows) for left in self._offsets(width, columns)]

    def _offsets(self, length: int, count: int) -> list[int]:
        room = length - self.size
        if count == 1:
            return [room // 2]
        return [room * index // (count - 1) for index in range(count)]

    def cut(self, pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "crops 3 size size"]:
        """Cuts the crops out of an image, channels first, contiguous."""
        height, width, _ = pixels.shape
        crops = [pixels[top : top + self.size, left : left + self.size] for top, left in self.boxes(height, width)]
        return self.finish(np.stack(crops))

    def finish(self, crops: UInt8[np.ndarray, "crops size size 3"]) -> UInt8[np.ndarray, "crops 3 size size"]:
        """Puts crops into the scorer's encoding, channels first."""
        if self.quality is not None:  # as one column, since 4:4:4 blocks of 8 px do not reach across crops
            column = crops.reshape(-1, self.size, 3)
            crops = reencoded(column, "JPEG", quality=self.quality, subsampling=0).reshape(crops.shape)
        return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
