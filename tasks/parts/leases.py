"""Leases: one live run works on a shard at a time, and what a dead one held is taken over.

Files beside the parts, on disk or in an object store. An owner is a run of a flow in a process, ``owners/RUN.TOKEN.json``,
kept fresh by a heartbeat. A lease is ``held/SHARD.GENERATION.json``, made whole and only if it is not there: of two who try,
one wins. The number grows with every owner, and landing refuses rows of a lower one than the warehouse holds: a writer that
slept through its expiry cannot get past its successor, whatever it believes. So a store that lets both win, since it does not
heed ``If-None-Match``, costs work that is done twice, and no row; owners say so in the log.

The process at work may be another than the owner's: a worker of Ray or Dask. When it dies, its owner gives the shard to the
next one, and the lease counts that as an attempt too.
"""

import errno
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mdmf_core.errors import WarehouseError
from tasks.parts.process_identity import _machine, _process, _started
from tasks.parts.store import store_of

_log = logging.getLogger(__name__)
HEARTBEAT = 10.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds of silence after which an owner counts as dead
MOST_ATTEMPTS = 5  # owners and their workers that may die on one shard before it is set aside


@dataclass(frozen=True)
class Lease:
    """The right to land a shard's rows, until a higher generation lands."""

    shard: str  # name of its part
    generation: int
    attempts: int  # owners and workers so far that took it, this one included, since somebody last finished it
    lost: float = 0.0  # seconds that the earlier of them were at it, up to their last sign of life


@dataclass(frozen=True)
class HeldElsewhere:
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
    path, store = _owner_path(folder, name), store_of(folder)
    process = _process()
    try:
        store.create(path, json.dumps(process).encode())
        heeded = store.heeds_create(path)
    except OSError as error:
        advice = "its disk is read-only" if error.errno == errno.EROFS else "check the path and its permissions"
        raise WarehouseError(f"cannot open warehouse: {folder} beside it cannot be written: {advice} ({error})") from error
    if not heeded:
        _log.warning(
            "%s lies in a store that does not heed `If-None-Match: *`: two runs that begin a shard at the same moment both "
            "score it. The rows are right all the same; the work is done twice, and `mdmf verify` may find a part rewritten",
            folder,
        )
    stop = threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(heartbeat):
            beats += 1
            with suppress(Exception):  # a full disk or a lost store must not kill the run; silence says enough
                store.freshen(path, json.dumps(process | {"beats": beats}).encode())

    thread = threading.Thread(target=beat, name="lease heartbeat", daemon=True)
    thread.start()
    try:
        yield name
    finally:
        stop.set()
        thread.join()
        for lease in _files(folder, "held"):
            if _read(lease).get("owner") == name:
                store.remove(lease)
        store.remove(path)


def acquire(folder: str, shard: str, name: str, floor: int, expiry: float = EXPIRY) -> Lease | HeldElsewhere:
    """The lease on a shard for the owner ``name`` and this process, or who holds it.

    Args:
        shard: name of the shard's work, without dots.
        floor: generation of the shard's newest rows in the warehouse; the lease's is higher.
        expiry: seconds. An owner on another machine is watched for so long before it counts as dead, since clocks differ.
    """
    store, worker = store_of(folder), _process()
    while True:
        before = _newest(folder, shard)
        attempts, lost = 1, 0.0
        if before is not None:
            generation, record = before
            ours = record.get("owner") == name
            if ours and record["worker"] == worker:
                return Lease(shard, generation, record["attempts"], record["lost"])
            if record and not ours and _alive(folder, record["owner"], expiry):
                holder = _read(_owner_path(folder, record["owner"]))
                return HeldElsewhere(run_of(record["owner"]), holder.get("host", "?"), holder.get("pid", 0))
            floor = max(floor, generation)
            attempts += record.get("attempts", 0)
            lost = record.get("lost", 0.0) + _seconds_at_it(folder, record, ours)
        lease = Lease(shard, floor + 1, attempts, lost)
        with suppress(FileExistsError):
            record = {"owner": name, "worker": worker, "since": time.time(), "attempts": attempts, "lost": lost}
            store.create(_held_path(folder, shard, lease.generation), json.dumps(record).encode())
            if before is not None:
                store.remove(_held_path(folder, shard, before[0]))
            return lease


def release(folder: str, shard: str, generation: int) -> None:
    """Gives a lease back once its rows are landed, or nothing is to land."""
    store_of(folder).remove(_held_path(folder, shard, generation))


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
    store_of(folder).remove(_owner_path(folder, name))


def _seconds_at_it(folder: str, record: dict[str, Any], ours: bool) -> float:
    """How long a dead attempt lasted: to its owner's last sign of life, or until now if only the owner's worker died.

    Nothing if the owner is forgotten already; clocks of several machines may differ.
    """
    if not record:
        return 0.0
    signs = store_of(folder).entries(os.path.join(folder, "owners"), f"{record['owner']}.json")
    until = time.time() if ours else max((sign.changed for sign in signs), default=0.0)
    return max(0.0, until - float(record.get("since", until)))


def _alive(folder: str, name: str, expiry: float) -> bool:
    path = _owner_path(folder, name)
    record = _read(path)
    if not record:
        return False
    if record["machine"] == _machine():
        if _started(record["pid"]) != record["started"]:
            return False
        silent = store_of(path).silent(path)
        if silent is not None:
            return silent < expiry
        if record["pid"] == os.getpid():
            return True
    # The clock of another machine, or of a store, may be wrong, so that only a change that is seen counts.
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

    sign: str
    at: float
    moved: bool


_observations: dict[str, _Observation] = {}


def _observe(path: str) -> _Observation | None:
    sign = store_of(path).sign(path)
    if sign is None:
        return None
    seen = _observations.get(path)
    if seen is None or seen.sign != sign:
        seen = _observations[path] = _Observation(sign, time.monotonic(), moved=seen is not None)
    return seen


def _newest(folder: str, shard: str) -> tuple[int, dict[str, Any]] | None:
    """Generation and record of the newest lease; an empty record when it went away meanwhile."""
    generations = [int(os.path.basename(path).split(".")[1]) for path in _files(folder, "held", f"{shard}.")]
    if not generations:
        return None
    newest = max(generations)
    return newest, _read(_held_path(folder, shard, newest))


def _read(path: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(store_of(path).read(path) or b"{}")
    return record


def _owners(folder: str) -> list[str]:
    return [os.path.basename(path)[:-5] for path in _files(folder, "owners")]


def _files(folder: str, kind: str, prefix: str = "") -> list[str]:
    found = store_of(folder).entries(os.path.join(folder, kind), prefix)
    return [entry.path for entry in found if entry.path.endswith(".json")]


def _owner_path(folder: str, name: str) -> str:
    return os.path.join(folder, "owners", f"{name}.json")


def _held_path(folder: str, shard: str, generation: int) -> str:
    return os.path.join(folder, "held", f"{shard}.{generation}.json")
