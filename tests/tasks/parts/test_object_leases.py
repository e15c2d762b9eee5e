"""Leases in an object store: the promises of those on disk, between machines."""

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import fault_proxy
from hosts import on_host

from mdmf_core.errors import WarehouseError
from tasks.parts.leases import HeldElsewhere, Lease, acquire, dead_owners, forget, live_runs, owner, release
from tasks.parts.store import store_of

RUN, OTHER = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2))
HOLDER = "chaos/lease_holder.py"


@pytest.fixture
def folder(lake: str) -> str:
    return f"{lake}/leases"


@pytest.fixture
def holder(folder) -> Iterator["subprocess.Popen[str]"]:
    """A living process on another machine that holds the leases on a and b."""
    process = on_host("far-away", HOLDER, folder, OTHER, 0.3, "a", "b")
    try:
        assert process.stdout.readline().split() == ["a", "b"]
        yield process
    finally:
        process.kill()
        process.communicate()


def held(folder: str) -> list[str]:
    return [entry.path.rpartition("/")[2] for entry in store_of(folder).entries(f"{folder}/held")]


def test_a_lease_is_above_the_warehouse_and_the_same_for_its_owner(folder):
    with owner(folder, RUN) as name:
        assert acquire(folder, "a", name, floor=4) == acquire(folder, "a", name, floor=0) == Lease("a", 5, 1)
        acquire(folder, "ab", name, floor=9)  # a name that begins with the other's
        release(folder, "a", 5)
        assert acquire(folder, "a", name, floor=5) == Lease("a", 6, 1)
        assert held(folder) == ["a.6.json", "ab.10.json"]
    assert held(folder) == []
    assert live_runs(folder) == set()


def test_what_the_living_hold_on_another_machine_is_left_to_them(folder, holder):
    with owner(folder, RUN) as name:
        assert acquire(folder, "a", name, 0) == HeldElsewhere(OTHER, "far-away", holder.pid)
        assert isinstance(acquire(folder, "c", name, 0), Lease)
        assert dead_owners(folder) == []
    assert live_runs(folder) == {OTHER}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_dead_or_stopped_machine_held_is_taken_over_with_a_higher_number(folder, holder, end):
    os.kill(holder.pid, end)
    with owner(folder, RUN) as name:
        assert acquire(folder, "a", name, 0, expiry=2) == Lease("a", 2, 2)
        assert held(folder) == ["a.2.json", "b.1.json"]
        release(folder, "a", 1)  # the dead one's; ours stays
        assert acquire(folder, "a", name, 0) == Lease("a", 2, 2)
        (dead,) = dead_owners(folder, expiry=2)
        assert dead.startswith(OTHER)
        forget(folder, dead)
        assert acquire(folder, "b", name, 0) == Lease("b", 2, 2)


def test_of_many_machines_that_try_one_wins(folder):
    shards = [f"s{number}" for number in range(12)]
    racers = [
        on_host(f"host-{number}", HOLDER, folder, f"{RUN[:-2]}1{number}", 0.5, *shards[number:], *shards[:number])
        for number in range(4)
    ]
    try:
        won = [racer.stdout.readline().split() for racer in racers]
    finally:
        for racer in racers:
            racer.communicate()
    assert sorted(shard for mine in won for shard in mine) == sorted(shards)
    assert held(folder) == []


@pytest.mark.parametrize("fault", ["reset_body", "500", "reset"])
def test_a_lease_whose_making_went_unanswered_is_ours(folder, sign_in, fault):
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        sign_in(proxy.url)
        with owner(folder, RUN) as name:
            proxy.touches = lambda method, path: method == "PUT" and "/held/" in path
            proxy.script.append(fault)
            assert acquire(folder, "a", name, 0) == Lease("a", 1, 1)
            assert proxy.injected.total() == 1


def test_a_store_that_is_away_does_not_end_the_run_and_beats_come_again(folder, sign_in):
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        sign_in(proxy.url)
        with owner(folder, RUN, heartbeat=0.05) as name:
            proxy.touches = lambda method, path: method == "PUT" and "/owners/" in path
            proxy.chances = {"503": 1.0}
            path = f"{folder}/owners/{name}.json"
            before = store_of(path).sign(path)
            while proxy.injected.total() < 3:
                assert store_of(path).sign(path) is not None
            proxy.calm()
            while store_of(path).sign(path) == before:
                assert isinstance(acquire(folder, "a", name, 0), Lease)


def test_a_store_that_heeds_no_condition_is_named_once_and_serves(signed_in: Path, caplog):
    folder = "s3://corpus/lake.parts/leases"
    with caplog.at_level(logging.WARNING), owner(folder, RUN) as name:
        assert acquire(folder, "a", name, 0) == Lease("a", 1, 1)
        assert acquire(folder, "b", name, 0) == Lease("b", 1, 1)
    (said,) = [record.getMessage() for record in caplog.records if "If-None-Match" in record.getMessage()]
    assert folder in said
    assert "rows are right" in said


def test_a_store_that_heeds_conditions_is_not_warned_of(folder, caplog):
    with caplog.at_level(logging.WARNING), owner(folder, RUN):
        pass
    assert not caplog.records


def test_no_such_bucket_is_one_clear_sentence(lake):
    with (
        pytest.raises(WarehouseError, match=r"parts: s3://nowhere/leases/owners/.*not found. Check the path, the bucket name"),
        owner("s3://nowhere/leases", RUN),
    ):
        pass
