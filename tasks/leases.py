"""Leases: one live run works on a shard at a time, and what a dead one held is taken over.

Files beside the parts. An owner is a run of a flow in a process, ``owners/RUN.TOKEN.json``, kept fresh by a heartbeat.
A lease is ``held/SHARD.GENERATION.json``, made whole and only if it is not there (a hard link): of two who try, one wins.
The number grows with every owner, and landing refuses rows of a lower one than the warehouse holds: a writer that slept
through its expiry cannot get past its successor, whatever it believes.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mdmf_core.errors import WarehouseError

HEARTBEAT = 10.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds of silence after which an owner counts as dead
MOST_ATTEMPTS = 5  # owners that may die on one shard before it is set aside


@dataclass(frozen=True)
class Lease:
    """The right to land a shard's rows, until a higher generation lands."""

    shard: str  # name of its part
    generation: int
    attempts: int  # owners so far that took it, this one included, since somebody last finished it


@dataclass(frozen=True)
class Elsewhere:
    """Somebody else is at work on the shard, and alive."""

    run_id: str
    host: str
    pid: int


def run_of(owner: str) -> str:
    """The run of an owner."""
    return owner.partition(".")[0]


@contextmanager
def owner(folder: str, run_id: str, heartbeat: float = HEARTBEAT) -> Iterator[str]:
    """Registers this process as an owner and keeps it alive for the length of the block; its name.

    When the block ends, however it ends, its leases are free again and nobody's attempt.

    Raises:
        WarehouseError: the folder cannot be written.
    """
    name = f"{run_id}.{uuid.uuid4().hex[:8]}"
    path = _owner_path(folder, name)
    process = {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.makedirs(os.path.join(folder, "held"), exist_ok=True)
        _write_once(path, process)
    except OSError as error:
        advice = "its disk is read-only" if error.errno == errno.EROFS else "check the path and its permissions"
        raise WarehouseError(f"cannot open warehouse: {folder} beside it cannot be written: {advice} ({error})") from error
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(heartbeat):
            with suppress(OSError):  # a full or lost disk must not kill the run; silence says enough
                os.utime(path, (time.time(), time.time()))  # of this clock, whatever the file server's says

    thread = threading.Thread(target=beat, name="lease heartbeat", daemon=True)
    thread.start()
    try:
        yield name
    finally:
        stop.set()
        thread.join()
        for file in _files(folder):
            if _read(os.path.join(folder, "held", file)).get("owner") == name:
                _remove(os.path.join(folder, "held", file))
        _remove(path)


def acquire(folder: str, shard: str, name: str, floor: int, expiry: float = EXPIRY) -> Lease | Elsewhere:
    """The lease on a shard for the owner ``name``, or who holds it.

    Args:
        shard: name of the shard's work, without dots.
        floor: generation of the shard's newest rows in the warehouse; the lease's is higher.
        expiry: seconds. An owner on another machine is watched for so long before it counts as dead, since clocks differ.
    """
    while True:
        before = _newest(folder, shard)
        attempts = 1
        if before is not None:
            generation, record = before
            if record.get("owner") == name:
                return Lease(shard, generation, record["attempts"])
            if record and _alive(folder, record["owner"], expiry):
                holder = _read(_owner_path(folder, record["owner"]))
                return Elsewhere(run_of(record["owner"]), holder.get("host", "?"), holder.get("pid", 0))
            floor = max(floor, generation)
            attempts += record.get("attempts", 0)
        lease = Lease(shard, floor + 1, attempts)
        with suppress(FileExistsError):
            _write_once(_held_path(folder, shard, lease.generation), {"owner": name, "attempts": attempts})
            if before is not None:
                _remove(_held_path(folder, shard, before[0]))
            return lease


def release(folder: str, shard: str, generation: int) -> None:
    """Gives a lease back once its rows are landed, or nothing is to land."""
    _remove(_held_path(folder, shard, generation))


def dead_owners(folder: str, expiry: float = EXPIRY) -> list[str]:
    """Owners that ended without a word."""
    names = _owners(folder)
    for name in names:
        _observe(_owner_path(folder, name))  # so that the watch over all of them begins now
    return [name for name in names if not _alive(folder, name, expiry)]


def live_runs(folder: str, expiry: float = EXPIRY) -> set[str]:
    """Runs with a live owner."""
    return {run_of(name) for name in _owners(folder) if _alive(folder, name, expiry)}


def forget(folder: str, name: str) -> None:
    """Removes a dead owner. Its leases stay, free to take, for their count of attempts."""
    _remove(_owner_path(folder, name))


def _alive(folder: str, name: str, expiry: float) -> bool:
    path = _owner_path(folder, name)
    record = _read(path)
    if not record:
        return False
    if record["machine"] == _machine():
        if _started(record["pid"]) != record["started"]:
            return False
        with suppress(FileNotFoundError):
            return time.time() - os.path.getmtime(path) < expiry
        return False
    # Another machine's clock may be wrong, so that only a change that is seen counts.
    while True:
        seen = _observe(path)
        if seen is None or time.monotonic() - seen.at > expiry:
            return False
        if seen.moved:
            return True
        time.sleep(min(1.0, expiry / 20))


@dataclass(frozen=True)
class _Observation:
    """When this process first saw an owner's newest sign of life, and whether it saw an older one before."""

    sign: float
    at: float
    moved: bool


_observations: dict[str, _Observation] = {}


def _observe(path: str) -> _Observation | None:
    try:
        sign = os.path.getmtime(path)
    except FileNotFoundError:
        return None
    seen = _observations.get(path)
    if seen is None or seen.sign != sign:
        seen = _observations[path] = _Observation(sign, time.monotonic(), moved=seen is not None)
    return seen


def _machine() -> str:
    """Tells machines and containers apart, so that a process id is only looked up where it means something."""
    try:
        return f"{socket.gethostname()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process of this machine began, so that another one under its id is not taken for it; None = it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        return None


def _newest(folder: str, shard: str) -> tuple[int, dict[str, Any]] | None:
    """Generation and record of the newest lease; an empty record when it went away meanwhile."""
    generations = [int(file.split(".")[1]) for file in _files(folder) if file.startswith(f"{shard}.")]
    if not generations:
        return None
    newest = max(generations)
    return newest, _read(_held_path(folder, shard, newest))


def _write_once(path: str, record: dict[str, Any]) -> None:
    """Whole or not at all, and never over another's; raises FileExistsError."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with open(temporary, "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    finally:
        os.remove(temporary)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            record: dict[str, Any] = json.load(file)
            return record
    except FileNotFoundError:
        return {}


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.remove(path)


def _files(folder: str) -> list[str]:
    return [file for file in os.listdir(os.path.join(folder, "held")) if file.endswith(".json")]


def _owners(folder: str) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(file[:-5] for file in os.listdir(os.path.join(folder, "owners")) if file.endswith(".json"))
    return []


def _owner_path(folder: str, name: str) -> str:
    return os.path.join(folder, "owners", f"{name}.json")


def _held_path(folder: str, shard: str, generation: int) -> str:
    return os.path.join(folder, "held", f"{shard}.{generation}.json")
