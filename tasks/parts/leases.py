"""Grants leases: one live run works on a shard at a time, and the leases of a dead run are taken over.

Leases are files beside the parts, on disk or in an object store. An owner is one run of a flow in one process. Its file
``owners/RUN.TOKEN.json`` is kept fresh by a heartbeat. A lease is the file ``held/SHARD.GENERATION.json``, which is created
whole and only if there is none: of two owners that try, one wins. The generation grows with every owner of the shard, and
landing refuses rows of a lower generation than the warehouse holds. A writer whose lease expired can therefore never undo
its successor's rows, whatever it believes. A store that ignores ``If-None-Match`` lets both owners win; then work is done
twice and no row is wrong, and the owners say so in the log.

The process at work may be a worker of Ray or Dask rather than the owner itself. When a worker dies, the owner gives the shard
to another one, and the lease counts that as a further attempt.
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
from tasks.parts.process_identity import machine, started, this_process
from tasks.parts.store import store_of

_log = logging.getLogger(__name__)
HEARTBEAT = 10.0  # seconds between two signs of life of an owner
EXPIRY = 60.0  # seconds of silence after which an owner counts as dead
MOST_ATTEMPTS = 5  # owners and workers that may die while they work on one shard; then it is set aside


@dataclass(frozen=True)
class Lease:
    """The right to land a shard's rows, until rows of a higher generation land."""

    shard: str  # name of the shard's work
    generation: int
    attempts: int  # owners and workers that took the shard since one last finished it, this one included
    lost: float = 0.0  # seconds that the earlier attempts lasted, up to their last sign of life


@dataclass(frozen=True)
class HeldElsewhere:
    """Another live owner holds the lease on the shard."""

    run_id: str
    host: str
    pid: int


def run_of(owner: str) -> str:
    """Gives the id of an owner's run."""
    return owner.partition(".")[0]


@contextmanager
def owner(folder: str, run_id: str, heartbeat: float = HEARTBEAT) -> Iterator[str]:
    """Registers this process as an owner, keeps it fresh for the length of the block, and gives the owner's name.

    When the block ends, well or badly, the owner's leases are removed, and none of them counts as an attempt.

    Raises:
        WarehouseError: the folder cannot be written.
    """
    name = f"{run_id}.{uuid.uuid4().hex[:8]}"
    path, store = _owner_path(folder, name), store_of(folder)
    process = this_process()
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
            with suppress(Exception):  # a full disk or a lost store must not end the run; others notice the silence
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
    """Takes the lease on a shard for the owner ``name`` and this process, or tells who holds it.

    Args:
        shard: name of the shard's work, without dots.
        floor: generation of the shard's newest rows in the warehouse; the lease's generation is higher.
        expiry: seconds of silence after which an owner counts as dead. An owner on another machine is watched for that long,
            since clocks differ.
    """
    store, worker = store_of(folder), this_process()
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
    """Gives a lease back, once its rows are landed or there is nothing to land."""
    store_of(folder).remove(_held_path(folder, shard, generation))


def dead_owners(folder: str, expiry: float = EXPIRY) -> list[str]:
    """Lists the owners whose process ended without removing them."""
    names = _owners(folder)
    for name in names:
        _observe(_owner_path(folder, name))  # all of them are watched from now on, so that the waits overlap
    return [name for name in names if not _alive(folder, name, expiry)]


def live_runs(folder: str, expiry: float = EXPIRY) -> set[str]:
    """Lists the runs that have a live owner."""
    return {run_of(name) for name in _owners(folder) if _alive(folder, name, expiry)}


def forget(folder: str, name: str) -> None:
    """Removes a dead owner. Its leases stay, free to be taken, because they count the attempts."""
    store_of(folder).remove(_owner_path(folder, name))


def _seconds_at_it(folder: str, record: dict[str, Any], ours: bool) -> float:
    """Tells how many seconds a dead attempt lasted: to its owner's last sign of life, or until now if only a worker died.

    It is 0 if the owner was removed already; it is an estimate, since the clocks of machines differ.
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
    if record["machine"] == machine():
        if started(record["pid"]) != record["started"]:
            return False
        silent = store_of(path).silent(path)
        if silent is not None:
            return silent < expiry
        if record["pid"] == os.getpid():
            return True
    # The clock of another machine or of a store may be wrong, so that only a change which this process sees counts.
    while True:
        seen = _observe(path)
        if seen is None or time.monotonic() - seen.at > expiry:
            return False
        if seen.moved:
            return True
        time.sleep(min(1.0, expiry / 20))


@dataclass(frozen=True)
class _Observation:
    """An owner's newest sign of life, when this process first saw it, and whether it saw an older one before."""

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
    """Reads generation and record of a shard's newest lease; the record is empty if the file was removed meanwhile."""
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
    entries = store_of(folder).entries(os.path.join(folder, kind), prefix)
    return [entry.path for entry in entries if entry.path.endswith(".json")]


def _owner_path(folder: str, name: str) -> str:
    return os.path.join(folder, "owners", f"{name}.json")


def _held_path(folder: str, shard: str, generation: int) -> str:
    return os.path.join(folder, "held", f"{shard}.{generation}.json")
