"""Stages run at the same time, each in a thread of its own, a bounded number of items ahead of the next."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], most: int, name: str, depth: Callable[[int], None] = lambda _: None) -> Generator[T, None, None]:
    """Passes items on in their order, while a thread makes them and is at most ``most`` of them ahead.

    What ``items`` raises is raised here, after the items before it. Closing this generator, or an error in who reads it, ends
    the thread at its next item, closes ``items`` in it and waits for it; so whatever the stages share may be closed then.

    Args:
        depth: is told, each time that somebody comes for an item, how many wait.
    """
    handed: _Handover[T] = _Handover(most, depth)
    thread = threading.Thread(target=_make, args=(items, handed), name=name, daemon=True)
    thread.start()
    try:
        yield from handed
    finally:
        handed.refuse()
        thread.join()


class _Handover(Generic[T]):
    """A queue of bounded length holds the items that one thread has made and another has not taken yet."""

    def __init__(self, most: int, depth: Callable[[int], None]) -> None:
        self._most, self._depth, self._changed = most, depth, threading.Condition()
        self._waiting: deque[T] = deque()
        self._ended = self._refused = False
        self._error: BaseException | None = None

    def offer(self, item: T) -> bool:
        """Waits for room and adds an item; returns False when the reader takes no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._refused or len(self._waiting) < self._most)
            if not self._refused:
                self._waiting.append(item)
                self._changed.notify_all()
            return not self._refused

    def end(self, error: BaseException | None) -> None:
        """Marks the end: no item comes after those that wait, but perhaps an error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def refuse(self) -> None:
        """Drops the waiting items and tells the maker that the reader takes no more."""
        with self._changed:
            self._refused = True
            self._waiting.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                if not self._ended:  # what waits then says nothing of who is the slower
                    self._depth(len(self._waiting))
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error


def _make(items: Iterable[T], handed: _Handover[T]) -> None:
    error: BaseException | None = None
    source = iter(items)
    try:
        try:
            for item in source:
                if not handed.offer(item):
                    break
        finally:  # here, since only the thread that runs a generator can close it
            if isinstance(source, Generator):
                source.close()
    except BaseException as caught:  # every one of them belongs to the thread that reads
        error = caught
    handed.end(error)


def in_order(
    pool: Executor,
    function: Callable[[T], R],
    items: Iterable[T],
    window: int,
    most_bytes: int | None = None,
    size: Callable[[T], int] = lambda item: 0,
) -> Generator[R, None, None]:
    """Maps a function over items in a pool, in order, with at most ``window`` items and ``most_bytes`` of them at once.

    One item is always let in, however large.
    """
    pending: deque[tuple[Future[R], int]] = deque()
    held = 0
    try:
        for item in items:
            while pending and most_bytes is not None and held + size(item) > most_bytes:
                held -= pending[0][1]
                yield pending.popleft()[0].result()
            pending.append((pool.submit(function, item), size(item)))
            held += size(item)
            if len(pending) >= window:
                held -= pending[0][1]
                yield pending.popleft()[0].result()
        while pending:
            yield pending.popleft()[0].result()
    finally:  # the pool outlives a reader that fails halfway
        for future, _ in pending:
            future.cancel()
