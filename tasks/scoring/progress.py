"""The progress of scoring is logged, at most one line every few seconds; an interrupted run ends scoring here."""

import threading
import time
from collections.abc import Callable

from prefect import get_run_logger

from mdmf_core.errors import MdmfError

_LOG_SECONDS = 20.0
STOPPING = threading.Event()  # set when the run is interrupted: other threads than the main one hear of Ctrl-C by nothing else


class Interrupted(MdmfError):
    """The run was interrupted while a shard was scored. The shard has no rows; the next run scores it."""


def progress_log(name: str) -> Callable[[int], None]:
    """Returns a function that is told how many images are done so far, and logs it with the rate every 20 seconds.

    The function raises Interrupted once ``STOPPING`` is set, so that scoring ends with the batch that it is at.
    """
    logger, started = get_run_logger(), time.monotonic()
    last = started

    def progress(done: int) -> None:
        nonlocal last
        if STOPPING.is_set():
            raise Interrupted(f"{name}: interrupted after {done} images; the next run scores it again")
        now = time.monotonic()
        if now - last >= _LOG_SECONDS:
            last = now
            logger.info("%s: %d images so far, %.1f images/s", name, done, done / (now - started))

    return progress
