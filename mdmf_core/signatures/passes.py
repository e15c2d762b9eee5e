"""Crops go through a backbone in passes, whose size follows the device's memory."""

import logging
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mdmf_core.errors import MdmfError

_log = logging.getLogger(__name__)
Described = tuple[Float[Tensor, "n k d"], Float[Tensor, "n e"]]


class Passes:
    """A number of crops that doubles after every full pass that went well, and halves when the device's memory runs out.

    A number that was too many is never tried again, so that it settles. Crops do not depend on each other: how they are split
    changes a score by rounding at most.

    Args:
        crops: of the first pass.
        most: where the number stops growing; None = it does not grow.
    """

    def __init__(self, crops: int, most: int | None = None) -> None:
        if crops < 1:
            raise ValueError(f"a pass takes at least 1 crop, got {crops}")
        self.crops = crops
        self._most = crops if most is None else most

    def run(
        self, function: Callable[[UInt8[Tensor, "n 3 size size"]], Described], crops: UInt8[Tensor, "n 3 size size"]
    ) -> Described:
        """Applies ``function`` to all crops, pass by pass; a pass that found no memory is done again in halves.

        Raises:
            MdmfError: not even one crop fits.
        """
        described: list[Described] = []
        done = 0
        while done < len(crops):
            part = crops[done : done + self.crops]
            try:
                described.append(function(part))
            except torch.OutOfMemoryError as error:
                problem = str(error)
            else:
                done += len(part)
                if len(part) == self.crops:
                    self.crops = min(2 * self.crops, self._most)
                continue
            self._shrink(len(part), crops, problem)  # outside of the handler, which holds on to what the pass had allocated
        vectors, means = zip(*described, strict=True)
        return torch.cat(vectors), torch.cat(means)

    def _shrink(self, tried: int, crops: Tensor, problem: str) -> None:
        if tried == 1:
            size = crops.shape[-1]
            raise MdmfError(
                f"one crop of {size} x {size} px does not fit into the memory of {crops.device}: {problem}. Free the device, "
                "take a smaller backbone, or set device=cpu"
            )
        self._most = self.crops = tried // 2
        if crops.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning("%d crops at once are too many for %s; from now on %d", tried, crops.device, self.crops)
