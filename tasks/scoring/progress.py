"""Progress of scoring as log lines, at most one every few seconds."""

import time
from collections.abc import Callable

from prefect import get_run_logger

_LOG_SECONDS = 20.0


def progress_log(name: str) -> Callable[[int], None]:
    """A function that is told how many images are done so far, and logs it with the rate every 20 seconds."""
    logger, started = get_run_logger(), time.monotonic()
    last = started

    def progress(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LOG_SECONDS:
            last = now
            logger.info("%s: %d images so far, %.1f images/s", name, done, done / (now - started))

    return progress
