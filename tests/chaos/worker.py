"""A real worker and the run that it started, killed at once, as a machine that loses power does."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

from mdmf_cli.local_prefect import POOL, LocalPrefect
from tasks.warehouse.warehouse import Warehouse

_DEPLOYMENT = "curate/laion-shard"  # one run at a time; others wait for its slot


def kill_worker_and_run(prefect: LocalPrefect, parameters: dict[str, object]) -> tuple[str, str]:
    """Kills both in the middle of a run, reaps, runs again; returns the dead run's states before and after the reaper."""
    chosen = [part for name, value in parameters.items() for part in ("--param", f"{name}={json.dumps(value)}")]
    folder = Path(Warehouse.at(str(parameters["warehouse"])).leases)
    prefect.run("deployment", "run", _DEPLOYMENT, *chosen)
    while not ((folder / "held").is_dir() and any((folder / "held").iterdir())):
        time.sleep(0.02)
    (owner,) = (folder / "owners").glob("*.json")
    worker = prefect.started["worker"]
    for process in (worker.pid, json.loads(owner.read_text())["pid"]):
        os.kill(process, signal.SIGKILL)
    worker.wait()
    run = owner.name.partition(".")[0]
    before = _state(prefect, run)
    prefect.start("worker", "worker", "start", "--pool", POOL)
    reap = ("--param", f"warehouse={json.dumps(parameters['warehouse'])}")
    prefect.run("deployment", "run", "reaper/dead-runs", *reap, "--watch", "--watch-interval", "1")
    after = _state(prefect, run)
    prefect.run("deployment", "run", _DEPLOYMENT, *chosen, "--watch", "--watch-interval", "1")
    return before, after


def _state(prefect: LocalPrefect, run: str) -> str:
    with urllib.request.urlopen(f"{prefect.ui}/api/flow_runs/{run}") as answer:
        state: str = json.load(answer)["state"]["type"]
        return state
