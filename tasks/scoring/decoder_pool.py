"""Images are decoded in child processes: one that crashes, hangs or fills its decoder's memory costs one row, not the run."""

import atexit
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Self, cast

from mdmf_core.images.crops import CropPlan
from mdmf_core.images.decode import ImageLimits
from mdmf_core.records import DecodedImage, ExclusionReason, ImageExcluded
from tasks.scoring.decoder_pipe import CHILD, Decoded, DecoderEnded, DecoderOverran, _Child


class DecodePool:
    """A pool holds some decoder processes, each fed by one thread of this process. They start when first needed.

    Args:
        argv: the child's command; it speaks the frames of ``tasks.scoring.decoder_process``.
    """

    def __init__(self, workers: int, limits: ImageLimits | None = None, argv: Sequence[str] = CHILD) -> None:
        self.limits, self.argv = limits or ImageLimits(), argv
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._seats: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(workers):
            self._seats.put(None)

    def upright(self, data: bytes) -> DecodedImage:
        """Returns one image with all its pixels, as ``mdmf_core.images.decode`` gives it; waits for a free child.

        Raises:
            ImageExcluded: also where the image ended its decoder or took too long.
            MdmfError: no child can be started at all.
        """
        answer = self.decode(data, None)
        if answer.image is None:
            raise ImageExcluded(cast(ExclusionReason, answer.reason), answer.detail)
        return answer.image

    def decode(self, data: bytes, plan: CropPlan | None) -> Decoded:
        """Returns the crops of one image, or all of it where there is no plan, or its exclusion; waits for a free child.

        Raises:
            MdmfError: no child can be started at all.
        """
        idle = self._seats.get()
        ended = []
        try:
            for _ in range(2):
                child, idle = idle or _Child(self.argv), None
                try:
                    answer = child.decode(data, plan, self.limits)
                    idle = child
                    return answer
                except DecoderOverran:
                    return _excluded(ExclusionReason.DECODER_TIMEOUT, f"longer than {self.limits.max_seconds:g} s")
                except DecoderEnded as error:
                    ended.append(str(error))
                finally:
                    if idle is None:  # whatever came in between, it may answer this image when it is asked for the next
                        child.kill()
            return _excluded(ExclusionReason.DECODER_CRASHED, "; again: ".join(ended))
        finally:
            self._seats.put(idle)

    def close(self) -> None:
        """Ends the pool's threads and its decoder processes."""
        self.threads.shutdown(cancel_futures=True)
        with suppress(queue.Empty):
            while True:
                if (child := self._seats.get_nowait()) is not None:
                    child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_pools: dict[int, DecodePool] = {}
_pools_lock = threading.Lock()


def decode_pool(workers: int = os.cpu_count() or 1) -> DecodePool:
    """Returns this process's pool of so many children, by default one per core; they live until the process ends."""
    with _pools_lock:
        if workers not in _pools:
            _pools[workers] = DecodePool(workers)
            atexit.register(_pools[workers].close)
        return _pools[workers]


def _excluded(reason: ExclusionReason, detail: str) -> Decoded:
    return Decoded(None, None, reason, detail)


LIMITS = ImageLimits()
