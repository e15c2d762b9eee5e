"""Real clusters of several processes on this machine, as their own commands start them."""

import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RAY, DASK = "ray", "dask"
_READY_SECONDS = 180
_TOKEN = secrets.token_hex(32)  # Ray reads it once a process


@contextmanager
def cluster(name: str, workers: int = 2, gpus: int = 0) -> Iterator[str]:
    """Starts a cluster with ``workers`` processes of one core each and gives its address; skips where packages are missing.

    Args:
        gpus: workers that say they had one; the engine believes them.
    """
    pytest.importorskip(f"prefect_{name}", reason=f"needs pip install 'mdmf[{name}]'", exc_type=ModuleNotFoundError)
    with _ray(workers, gpus) if name == RAY else _dask(workers, gpus) as address:
        yield address


@contextmanager
def _ray(workers: int, gpus: int) -> Iterator[str]:
    port = free_port()
    ray = Path(sys.executable).with_name("ray")
    arguments = (
        "--head",
        "--block",
        f"--port={port}",
        f"--num-cpus={workers}",
        f"--num-gpus={gpus}",
        "--include-dashboard=false",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # its ports are open to the network
        patch.setenv("RAY_AUTH_TOKEN", _TOKEN)
        with _command(str(ray), "start", *arguments, "--object-store-memory=80000000", "--disable-usage-stats"):
            address = f"127.0.0.1:{port}"
            look = [sys.executable, "-c", f"import ray; ray.init({address!r}, log_to_driver=False)"]
            _await(lambda: subprocess.run(look, capture_output=True).returncode == 0)
            yield address


@contextmanager
def _dask(workers: int, gpus: int) -> Iterator[str]:
    import dask.config
    from distributed import Nanny, Scheduler, SpecCluster

    def worker(number: int) -> dict[str, object]:
        gpu = {"resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": "0"}} if number < gpus else {}
        return {"cls": Nanny, "options": {"nthreads": 1, "dashboard": False} | gpu}

    scheduler = {
        "cls": Scheduler,
        "options": {"dashboard": False, "dashboard_address": "127.0.0.1:0", "port": 0, "host": "127.0.0.1"},
    }
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),  # a worker loads torch when it starts again
        SpecCluster(workers={number: worker(number) for number in range(workers)}, scheduler=scheduler) as local,
    ):
        yield local.scheduler_address


@contextmanager
def _command(*argv: str) -> Iterator[None]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(argv, start_new_session=True, **quiet)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _await(ready) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster is not ready")
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
