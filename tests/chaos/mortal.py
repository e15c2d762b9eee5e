"""Kills the processes that hold leases, as the kernel does when memory runs out."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def killing_workers(leases: str, count: int, shard: str = "", pause: float = 0.0) -> Iterator[list[int]]:
    """Kills ``count`` workers while the block runs, each as soon as it is seen at work; gives the list of their process ids.

    Args:
        leases: folder of the warehouse's leases.
        shard: only at this one; any by default.
        pause: seconds for which a worker may be at it first.
    """
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while len(killed) < count and not stop.wait(0.002):
            pid = _at_work(leases, shard, killed)
            if pid is not None and not stop.wait(pause):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=watch, name="killer")
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def _at_work(leases: str, shard: str, killed: list[int]) -> int | None:
    for lease in Path(leases, "held").glob(f"{shard}*.json"):
        with suppress(FileNotFoundError):
            pid: int = json.loads(lease.read_text())["worker"]["pid"]
            if pid not in killed and pid != os.getpid():
                return pid
    return None
