"""A real PostgreSQL server on loopback, with a cluster of its own that goes with it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

USER, PASSWORD = "mdmf", "a-password-of-the-tests"


class PostgresServer(NamedTuple):
    """Where a PostgreSQL server answers. The password is for PGPASSWORD or a URL of the test's own."""

    port: int
    user: str = USER
    password: str = PASSWORD

    def create(self, database: str) -> str:
        """Makes a database and returns its name."""
        tools = binaries()
        command = [str(tools / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, database]
        subprocess.run(command, check=True, env=os.environ | {"PGPASSWORD": self.password})
        return database


def binaries() -> Path | None:
    """Gives the folder of the newest installed server's programs; Debian keeps it off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(on_path).resolve().parent if on_path else None


def why_not() -> str | None:
    """Says why no server can be started here; None if one can."""
    if binaries() is None:
        return "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and (shutil.which("runuser") is None or not _has_user("nobody")):
        return "PostgreSQL does not run as root, and there is no runuser to change to another user"
    return None


def _has_user(name: str) -> bool:
    return any(line.startswith(f"{name}:") for line in Path("/etc/passwd").read_text().splitlines())


@contextmanager
def postgres_server(root: Path, *settings: str) -> Iterator[PostgresServer]:
    """Runs a server with password logins on a free port for the length of the block.

    Args:
        root: folder for its log; made here. The cluster itself is elsewhere, and goes at the end.
        settings: further ones, such as ``max_connections=200``.
    """
    tools = binaries()
    root.mkdir(parents=True)
    # Not in `root`: pytest keeps the folders above it to their owner, and PostgreSQL refuses to run as root.
    cluster = Path(tempfile.mkdtemp(prefix="postgres-"))
    (cluster / "password").write_text(PASSWORD)
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "nobody", "--"]
        for path in (cluster, cluster / "password"):
            shutil.chown(path, "nobody")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(cluster / "data")
    flags = [f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={cluster / 'password'}", "--no-sync", "--encoding=UTF8"]
    initdb = [*as_user, str(tools / "initdb"), "-D", data, *flags, "--no-locale"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=cluster)
    options = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *settings]
    command = [*as_user, str(tools / "postgres"), "-D", data, *(part for option in options for part in ("-c", option))]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=cluster)
    try:
        _wait(tools, port, process, root / "log")
        yield PostgresServer(port)
    finally:
        # Its own way to stop at once: sessions are cut, the cluster stays sound. runuser passes no SIGINT on.
        stop = [*as_user, str(tools / "pg_ctl"), "-D", data, "-m", "fast", "stop"]
        subprocess.run(stop, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cluster)
        process.wait(60)
        shutil.rmtree(cluster)


def _wait(tools: Path, port: int, process: subprocess.Popen, log: Path) -> None:
    ready = [str(tools / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    for _ in range(300):
        if subprocess.run(ready, check=False).returncode == 0:
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
