"""Many flow runs with many tasks at once against a real Prefect server: what it lost, and how often it said 503.

Run: PYTHONPATH=tests/helpers python benchmarks/scale/soak.py [FLOWS TASKS]
"""

import asyncio
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from postgres_server import postgres_server
from prefect.client.orchestration import PrefectClient
from prefect_servers import BATCHES, SERVER_ENV, env_file, on_postgres, prefect_server

from mdmf_cli.local_prefect import LocalPrefect

ROOT = Path(__file__).parent.parent.parent
_SETTLE_SECONDS = 120  # task runs are recorded behind the flows' backs
# In a process of its own, as a worker would run it. Threads, as in `curate`.
_FLOW = """
import sys
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

@task
def touch(number: int) -> int:
    return number

@flow(name="soak", task_runner=ThreadPoolTaskRunner(max_workers=8))
def soak(tasks: int) -> int:
    return len([future.result() for future in [touch.submit(number) for number in range(tasks)]])

soak(int(sys.argv[1]))
"""


@dataclass
class Outcome:
    """What became of the runs on one kind of server."""

    server: str
    flows: int
    flows_completed: int  # by the server's word
    processes_failed: int  # flow processes that ended with an error
    tasks: int
    tasks_completed: int  # recorded as completed on the server
    refused: int  # 503 answers, which clients try again
    errors: int  # other answers from 500 on, which they do not
    seconds: float  # until the last flow process ended
    settled: float  # until the server's record stood still

    @property
    def lost(self) -> int:
        """Flow runs and task runs that the server does not know as completed."""
        return self.flows - self.flows_completed + self.tasks - self.tasks_completed

    def row(self) -> str:
        return (
            f"| {self.server} | {self.flows_completed} of {self.flows} | {self.processes_failed} "
            f"| {self.tasks_completed} of {self.tasks} | {self.refused} | {self.errors} "
            f"| {self.seconds:.0f} | {self.settled:.0f} |"
        )


@contextmanager
def server_kinds(folder: Path) -> Iterator[dict[str, Mapping[str, str]]]:
    """Settings by the name of the configuration; PostgreSQL runs as long as the block."""
    batches = {name: value for name, value in env_file(SERVER_ENV).items() if name.startswith(BATCHES)}
    with postgres_server(folder / "postgres") as postgres:
        impatient = {n: v for n, v in on_postgres(postgres, "impatient").items() if not n.endswith(("TIMEOUT", "POOL_SIZE"))}
        yield {
            "SQLite, as it comes": {},
            "SQLite, batches of deploy/server.env": batches,
            "PostgreSQL, batches, Prefect's own timeouts": impatient,
            "PostgreSQL, deploy/server.env": on_postgres(postgres),
        }


def soak(name: str, prefect: LocalPrefect, folder: Path, flows: int, tasks: int) -> Outcome:
    """Runs the flows at once on a server that has seen no others of this kind, and asks it what it knows of them."""
    with ExitStack() as files:
        logs = [files.enter_context(open(folder / f"flow-{number}.log", "w")) for number in range(flows)]
        command = [sys.executable, "-c", _FLOW, str(tasks)]
        started = time.monotonic()
        running = [
            subprocess.Popen(command, cwd=folder, env=prefect.environment, stdout=log, stderr=subprocess.STDOUT) for log in logs
        ]
        failed = sum(process.wait() != 0 for process in running)
        ended = time.monotonic() - started
    states, recorded = asyncio.run(_settled(prefect, flows, flows * tasks))
    settled = time.monotonic() - started
    answers = Counter(re.findall(r'HTTP/1\.1" (5\d\d)', (prefect.home / "server.log").read_text(errors="replace")))
    refused, errors = answers["503"], answers.total() - answers["503"]
    completed, known = states["COMPLETED"], recorded["COMPLETED"]
    return Outcome(name, flows, completed, failed, flows * tasks, known, refused, errors, ended, settled)


async def _settled(prefect: LocalPrefect, flows: int, tasks: int) -> tuple[Counter[str], Counter[str]]:
    """States of flow runs and of task runs, once all are completed or nothing has changed for long."""
    async with PrefectClient(f"{prefect.ui}/api") as client:
        last, changed = (Counter[str](), Counter[str]()), time.monotonic()
        while time.monotonic() - changed < _SETTLE_SECONDS:
            now = (await _states(client, "flow_runs"), await _states(client, "task_runs"))
            if now[0]["COMPLETED"] >= flows and now[1]["COMPLETED"] >= tasks:
                return now
            if now != last:
                last, changed = now, time.monotonic()
            await asyncio.sleep(1)
        return last


async def _states(client: PrefectClient, kind: str) -> Counter[str]:
    """How many runs are in each state."""
    counts = Counter[str]()
    for state in ("COMPLETED", "RUNNING", "PENDING", "FAILED", "CRASHED"):
        wanted = {"flows": {"name": {"any_": ["soak"]}}, kind: {"state": {"type": {"any_": [state]}}}}
        answer = await client.request("POST", f"/{kind}/count", json=wanted)
        counts[state] = answer.json()
    return counts


def main(flows: int = 4, tasks: int = 500) -> None:
    print(f"{flows} flows x {tasks} tasks at once; {os.cpu_count()} cores, {platform.system()} {platform.release()}, ")
    print(f"Python {platform.python_version()}, one run of each\n")
    print("| server | flow runs completed | processes failed | task runs recorded | 503 | other 5xx | s | s until recorded |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name, server_kinds(Path(name)) as kinds:
        for number, (kind, settings) in enumerate(kinds.items()):
            home = Path(name) / str(number)
            with prefect_server(home, settings) as prefect:
                print(soak(kind, prefect, home, flows, tasks).row(), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
