"""Identifies a process by machine, process id and start time, so that a lease names exactly one process."""

import os
import socket
from typing import Any


def this_process() -> dict[str, Any]:
    """Identifies this process among those of all machines."""
    return {"host": socket.gethostname(), "machine": machine(), "pid": os.getpid(), "started": started(os.getpid())}


def machine() -> str:
    """Names this machine or container, because a process id means something only there."""
    try:
        return f"{socket.gethostname()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def started(pid: int) -> str | None:
    """Tells when a process of this machine began; None = it is gone. A later process under the same id began later."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        return None
