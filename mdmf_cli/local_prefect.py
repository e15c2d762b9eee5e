"""A Prefect server and worker on loopback for as long as a block runs, in a folder of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdmf_core.errors import MdmfError

POOL = "local-process"
_START_SECONDS = 180


class LocalPrefect:
    """Runs `prefect` commands against a server of its own; never touches the user's profile or database."""

    def __init__(self, root: Path, home: Path) -> None:
        self._root, self.home = root, home
        self.port = _free_port()
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_LOGGING_COLORS": "false",
            "DO_NOT_TRACK": "1",
        }
        home.mkdir(parents=True, exist_ok=True)

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a `prefect` command in the background, with its output in NAME.log and a process group of its own."""
        with open(self.home / f"{name}.log", "wb") as log:
            self.started[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=self._root, env=self.environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        return self.started[name]

    def run(self, *arguments: str) -> str:
        """Runs a `prefect` command to its end and returns its output.

        Raises:
            MdmfError: it failed; the text says how it ended.
        """
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=self._root, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise MdmfError(f"`prefect {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def api(self, path: str, question: dict[str, Any]) -> Any:
        """Sends JSON to the server and returns the answer."""
        body = json.dumps(question).encode()
        request = urllib.request.Request(f"{self.ui}/api/{path}", body, {"Content-Type": "application/json"})  # noqa: S310 - our own
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
            return json.load(answer)

    def await_healthy(self, server: subprocess.Popen[bytes]) -> None:
        """Raises MdmfError when the server ends or does not answer."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if server.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.ui}/api/health", timeout=2):  # noqa: S310 - our own http address
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        tail = (self.home / "server.log").read_text(errors="replace")[-1500:]
        raise MdmfError(f"the Prefect server did not start; see {self.home / 'server.log'}:\n{tail}")


@contextmanager
def local_prefect(root: Path, home: Path) -> Iterator[LocalPrefect]:
    """Starts server, pool and worker; stops them when the block ends, however it ends."""
    prefect = LocalPrefect(root, home)
    try:
        server = prefect.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(prefect.port))
        prefect.await_healthy(server)
        prefect.run("--no-prompt", "work-pool", "create", POOL, "--type", "process", "--overwrite")
        prefect.start("worker", "worker", "start", "--pool", POOL)
        yield prefect
    finally:
        for process in reversed(prefect.started.values()):
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=15)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
