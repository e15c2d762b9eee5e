"""Leases: one at a time, taken over from the dead, never lost to the living."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.parts import leases
from tasks.parts.leases import HeldElsewhere, Lease, acquire, dead_owners, forget, live_runs, owner, release

RUN, OTHER = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2))


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "leases")


def _hold(folder: str, run: str, shards: list[str], held) -> None:
    with owner(folder, run) as name:
        for shard in shards:
            acquire(folder, shard, name, 0)
        held.set()
        time.sleep(600)


@pytest.fixture
def holder(folder):
    """A living process that holds the leases on a and b."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(folder, OTHER, ["a", "b"], held))
    process.start()
    try:
        assert held.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def test_a_lease_is_above_the_warehouse_and_the_same_for_its_owner(folder):
    with owner(folder, RUN) as name:
        first = acquire(folder, "a", name, floor=4)
        assert first == Lease("a", 5, 1)
        assert acquire(folder, "a", name, floor=0) == first
        release(folder, "a", 5)
        assert acquire(folder, "a", name, floor=5) == Lease("a", 6, 1)
    assert os.listdir(Path(folder) / "held") == os.listdir(Path(folder) / "owners") == []


def test_what_the_living_hold_is_left_to_them(folder, holder):
    with owner(folder, RUN) as name:
        found = acquire(folder, "a", name, 0)
        assert isinstance(found, HeldElsewhere)
        assert (found.run_id, found.pid) == (OTHER, holder.pid)
        assert isinstance(acquire(folder, "c", name, 0), Lease)
    assert live_runs(folder) == {OTHER}
    assert dead_owners(folder) == []


def test_what_the_dead_held_is_taken_over_once_with_a_higher_number(folder, holder):
    holder.kill()
    holder.join()
    (dead,) = dead_owners(folder)
    assert dead.startswith(OTHER)
    assert live_runs(folder) == set()
    with owner(folder, RUN) as name:
        assert acquire(folder, "a", name, 0) == Lease("a", 2, 2)
        assert len([file for file in os.listdir(Path(folder) / "held") if file.startswith("a.")]) == 1
        release(folder, "a", 1)  # the dead one's; ours stays
        assert acquire(folder, "a", name, 0) == Lease("a", 2, 2)
        forget(folder, dead)
        assert acquire(folder, "b", name, 0) == Lease("b", 2, 2)


def test_a_stopped_process_loses_its_leases_after_the_expiry(folder, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        path = next((Path(folder) / "owners").iterdir())
        os.utime(path, (time.time() - 100, time.time() - 100))
        with owner(folder, RUN) as name:
            assert acquire(folder, "a", name, 0, expiry=60) == Lease("a", 2, 2)
    finally:
        os.kill(holder.pid, signal.SIGCONT)


def test_the_heartbeat_keeps_a_lease(folder):
    with owner(folder, RUN, heartbeat=0.05) as name:
        path = Path(folder) / "owners" / f"{name}.json"
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_another_process_under_the_same_id_is_not_taken_for_the_owner(folder):
    with owner(folder, RUN) as name:
        path = Path(folder) / "owners" / f"{name}.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"started": "1"}))
        assert dead_owners(folder) == [name]


def on_another_machine(folder: str, name: str) -> Path:
    """Makes an owner look as if it lived elsewhere, with a clock that is a year behind."""
    path = Path(folder) / "owners" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "elsewhere 1", "pid": 1}))
    os.utime(path, (time.time() - 3e7, time.time() - 3e7))
    return path


def test_an_owner_on_another_machine_is_watched_not_judged_by_the_clock(folder):
    with owner(folder, OTHER) as theirs, owner(folder, RUN) as ours:
        acquire(folder, "a", theirs, 0)
        path = on_another_machine(folder, theirs)
        beat = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os, sys, time\nfor n in range(600):\n  os.utime(sys.argv[1], (n, n)); time.sleep(0.1)",
                path,
            ]
        )
        try:
            assert isinstance(acquire(folder, "a", ours, 0, expiry=30), HeldElsewhere)
        finally:
            beat.kill()
            beat.wait()
        time.sleep(0.6)  # the last beat that was seen is older than the expiry
        assert acquire(folder, "a", ours, 0, expiry=0.5) == Lease("a", 2, 2)


def test_of_many_that_try_one_wins(folder):
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        won = pool.starmap(_race, [(folder, number) for number in range(4)])
    for shard in range(20):
        assert sum(shard in mine for mine in won) == 1


def _race(folder: str, number: int) -> set[int]:
    run = f"00000000-0000-0000-0000-0000000001{number:02d}"
    with owner(folder, run) as name:
        mine = {shard for shard in range(20) if isinstance(acquire(folder, f"s{shard}", name, 0), Lease)}
        done = Path(folder) / f"done{number}"
        done.touch()
        deadline = time.monotonic() + 60
        while len(list(Path(folder).glob("done*"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)  # nobody leaves before all have tried
        return mine


def test_a_disk_that_refuses_the_sign_of_life_does_not_end_the_run(folder, monkeypatch):
    beats = []

    def refuse(*_: object) -> None:
        beats.append(1)
        raise OSError("no space left on device")

    monkeypatch.setattr(leases.os, "utime", refuse)
    with owner(folder, RUN, heartbeat=0.01) as name:
        deadline = time.monotonic() + 60
        while len(beats) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert isinstance(acquire(folder, "a", name, 0), Lease)


def _take(folder: str, name: str) -> None:
    acquire(folder, "a", name, 0)


def test_a_worker_that_dies_is_an_attempt_though_its_owner_lives(folder):
    with owner(folder, RUN) as name:
        worker = multiprocessing.get_context("spawn").Process(target=_take, args=(folder, name))
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        next_one = acquire(folder, "a", name, 0)
        assert (next_one.generation, next_one.attempts) == (2, 2)
        assert next_one.lost > 0
        assert acquire(folder, "a", name, 0) == next_one
        release(folder, "a", 1)  # what the dead one held
        assert len(os.listdir(Path(folder) / "held")) == 1


def test_what_dead_attempts_lost_is_counted_up_to_the_last_sign_of_life_and_added_up(folder, holder):
    holder.kill()
    holder.join()
    (path,) = (Path(folder) / "owners").iterdir()
    os.utime(path, (1010, 1010))
    for shard, since in (("a", 1000), ("b", 2000)):  # b: the clocks of two machines
        lease = Path(folder) / "held" / f"{shard}.1.json"
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"since": since, "lost": 5.0}))
    with owner(folder, RUN) as name:
        assert acquire(folder, "a", name, 0).lost == 15.0
        assert acquire(folder, "b", name, 0).lost == 5.0


def test_what_a_forgotten_owner_lost_is_not_known(folder, holder):
    holder.kill()
    holder.join()
    (dead,) = dead_owners(folder)
    forget(folder, dead)
    with owner(folder, RUN) as name:
        assert acquire(folder, "a", name, 0).lost == 0.0
