"""A clock beside the stages adds up how long each was at work, in whatever thread."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mdmf_core.scoring.stage_costs import Cost, Depth, StageCosts
from tasks.scoring import prometheus as metrics


class Stages:
    """The costs of one shard's stages are added up here while they run, in whatever threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, Cost] = {}
        self._queues: dict[str, Depth] = {}
        self._began = time.monotonic()

    @contextmanager
    def timed(self, stage: str, items: int = 0, bytes: int = 0, share: float = 1.0) -> Iterator[None]:
        """Adds the wall time of the block to a stage, however it ends; see ``mdmf_core.scoring.stage_costs.STAGES``.

        Args:
            share: of the stage that is at work in the block: one of n threads that are its one worker together is 1 / n of it.
        """
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, share * (time.perf_counter() - began), items, bytes)

    def add(self, stage: str, seconds: float = 0.0, items: int = 0, bytes: int = 0) -> None:
        """Adds work to a stage when the caller has measured its time."""
        metrics.count(stage, seconds, items, bytes)
        with self._lock:
            self._stages[stage] = self._stages.get(stage, Cost()) + Cost(seconds, items, bytes)

    def depth(self, queue: str, waiting: int) -> None:
        """Notes how many things wait in a queue."""
        metrics.QUEUE.labels(queue).set(waiting)
        with self._lock:
            self._queues[queue] = self._queues.get(queue, Depth()) + Depth(waiting, 1, waiting)

    def snapshot(self) -> StageCosts:
        """Returns all costs so far; their wall time is the time since this object was made."""
        with self._lock:
            return StageCosts(time.monotonic() - self._began, dict(self._stages), dict(self._queues))
