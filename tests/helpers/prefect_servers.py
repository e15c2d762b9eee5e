"""A real Prefect server in a process of its own, with settings as deploy/ gives them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from postgres_server import PostgresServer

from mdmf_cli.local_prefect import LocalPrefect, stop

ROOT = Path(__file__).parents[2]
SERVER_ENV = ROOT / "deploy" / "server.env"
BATCHES = "PREFECT_SERVER_SERVICES_"


def env_file(path: Path) -> dict[str, str]:
    """Reads the variables of an env file."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def on_postgres(server: PostgresServer, database: str = "prefect") -> dict[str, str]:
    """Gives the settings of deploy/server.env together with the place of a new database."""
    return env_file(SERVER_ENV) | {
        "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
        "PREFECT_SERVER_DATABASE_PORT": str(server.port),
        "PREFECT_SERVER_DATABASE_USER": server.user,
        "PREFECT_SERVER_DATABASE_PASSWORD": server.password,
        "PREFECT_SERVER_DATABASE_NAME": server.create(database),
    }


@contextmanager
def prefect_server(home: Path, settings: Mapping[str, str], cwd: Path = ROOT) -> Iterator[LocalPrefect]:
    """Runs a server on loopback in a folder of its own; it and all that was started with it end with the block."""
    prefect = LocalPrefect(cwd, home)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    prefect.environment = prefect.environment | {"PYTHONPATH": paths} | dict(settings)
    try:
        arguments = ["--host", "127.0.0.1", "--port", str(prefect.port), "--log-level", "INFO"]
        prefect.await_healthy(prefect.start("server", "server", "start", *arguments))
        yield prefect
    finally:
        for process in reversed(prefect.started.values()):
            stop(process)
