"""One run of a flow in a process of its own that can be killed at every step that leaves a trace.

A step is a link, rename, removal or fsync under the warehouse's folder, and the begin and commit of a transaction.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

import flows.curate
import tasks.warehouse.attach
from tasks.storage import checked_reads as reading
from tasks.storage import retries as faults

NEVER = 1 << 30


class _Steps:
    """Counts steps, and dies before or after one of them."""

    def __init__(self, folder: str, step: int, after: bool, log: str | None) -> None:
        self._folder, self._step, self._after, self._log, self._count = folder, step, after, log, 0

    def around(self, name: str, act: Callable[[], Any]) -> Any:
        mine = self._count
        self._count += 1
        if self._log is not None:
            with open(self._log, "a") as file:
                file.write(f"{name}\n")
        if mine == self._step and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = act()
        if mine == self._step:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def on_paths(self, name: str) -> None:
        real = getattr(os, name)

        def watched(path: Any, *rest: Any, **options: Any) -> Any:
            where = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
            if not str(where).startswith(self._folder):
                return real(path, *rest, **options)
            kind = Path(str(rest[0] if rest else where)).parent.name
            return self.around(f"{name} {kind}", lambda: real(path, *rest, **options))

        setattr(os, name, watched)


class _Watched:
    """A connection whose transactions are steps."""

    def __init__(self, connection: Any, steps: _Steps) -> None:
        self._connection, self._steps = connection, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *rest: Any) -> Any:
        if sql in ("BEGIN", "COMMIT"):
            return self._steps.around(sql, lambda: self._connection.execute(sql, *rest))
        return self._connection.execute(sql, *rest)


def _note_peak(path: Path) -> None:
    path.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def curate(
    parameters: dict[str, Any],
    step: int = NEVER,
    after: bool = False,
    log: str | None = None,
    store: dict[str, str] | None = None,
) -> None:
    """Runs the flow; SIGKILLs itself around one step.

    Args:
        store: environment of a store that breaks requests; reads are then many and small, and wait little.
    """
    if store is not None:
        os.environ.update(store)
        reading._BLOCK = 8192
        faults.LIMITS = faults.StorageLimits(
            tries=1000, small_tries=50, skewed_tries=50, rereads=50, pause=0.001, longest_pause=0.01, stall=1.0
        )
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, sys.stdout.fileno())
    os.dup2(quiet, sys.stderr.fileno())
    torch.set_num_threads(1)
    steps = _Steps(str(Path(parameters["warehouse"]).parent), step, after, log)
    for name in ("link", "replace", "remove", "fsync"):
        steps.on_paths(name)
    opened = tasks.warehouse.attach._open
    tasks.warehouse.attach._open = lambda *args: _Watched(opened(*args), steps)  # type: ignore[assignment]
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # its thread takes a second to end
        flows.curate.curate(**parameters)
    _note_peak(Path(parameters["warehouse"]).with_name("peak"))
