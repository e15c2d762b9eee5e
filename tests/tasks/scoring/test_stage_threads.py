"""Stages in threads: order, bounds, errors from any of them, and nothing left behind."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.scoring.stage_threads import ahead, in_order


def test_items_come_in_order_and_no_more_than_asked_for_are_made_ahead():
    made: list[int] = []
    full = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            if number == 4:
                full.set()
            yield number

    items = ahead(numbers(), 3, "numbers")
    assert next(items) == 0
    assert full.wait(30)  # one taken, three waiting, one in hand
    assert len(made) == 5
    assert list(items) == list(range(1, 20))


def test_stages_run_at_the_same_time():
    met = threading.Barrier(2, timeout=30)  # would break if one waited for the other's end

    def numbers() -> Iterator[int]:
        for number in range(3):
            yield number
            met.wait()

    for _ in ahead(numbers(), 1, "numbers"):
        met.wait()


def test_an_error_comes_after_the_items_before_it():
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("line is cut")

    items = ahead(broken(), 5, "broken")
    assert next(items) == 1
    with pytest.raises(OSError, match="line is cut"):
        next(items)
    assert threads("broken") == 0


def test_closing_ends_all_stages_and_closes_their_sources():
    closed: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    first = ahead(endless(), 2, "first")

    def second() -> Iterator[int]:
        try:
            yield from first
        finally:
            first.close()

    last = ahead(second(), 2, "second")
    assert next(last) == 1
    assert threads("first") == threads("second") == 1
    last.close()
    assert closed == ["first"]  # in the thread that ran it
    assert threads("first") == threads("second") == 0


def test_a_pool_holds_no_more_bytes_than_asked_for_but_always_one_item():
    held, most = 0, 0

    def sized() -> Iterator[int]:
        nonlocal held, most
        for size in (3, 4, 2, 50, 5, 1):
            held += size
            most = max(most, held)
            yield size

    with ThreadPoolExecutor(2) as pool:
        found = []
        for size in in_order(pool, lambda size: size, sized(), 100, 10, lambda size: size):
            held -= size
            found.append(size)
    assert found == [3, 4, 2, 50, 5, 1]
    assert most == 59  # the large one was read, and waits until those before it are gone: 3, 4, 2 and itself


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())
