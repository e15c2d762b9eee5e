"""Who a process is: machine, process id and start time, so that a lease names exactly one process."""

import os
import socket
from typing import Any


def _process() -> dict[str, Any]:
    """Which process this is, among those of all machines."""
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


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
