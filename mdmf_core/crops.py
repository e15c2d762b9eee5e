"""Which native-resolution squares of an image a scorer looks at. Nothing is resized or padded."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from mdmf_core.records import ExclusionReason, ImageExcluded


@dataclass(frozen=True, slots=True)
class CropPlan:
    """``size`` px squares, at most ``most`` of them, on an even grid that reaches all four edges.

    One crop is the centre crop. Neighbours overlap when the image is not a multiple of ``size``.
    """

    size: int
    most: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.most < 1:
            raise ValueError(f"crop size and count must be at least 1, got {self.size} and {self.most}")

    def boxes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of every crop, row by row.

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
        """The crops, channels first, contiguous."""
        height, width, _ = pixels.shape
        crops = [pixels[top : top + self.size, left : left + self.size] for top, left in self.boxes(height, width)]
        return np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))
