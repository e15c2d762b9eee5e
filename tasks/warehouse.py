"""The DuckDB warehouse: opening, migrating, registering, and questions to it."""

import json
import os
import random
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import duckdb
import pandas as pd

from mdmf_core.digests import short_id
from mdmf_core.errors import WarehouseError
from mdmf_core.records import Shard
from tasks.kit import ScoringKit
from tasks.parts import WorkKey
from tasks.registry import register
from tasks.storage import disk_full

# Readable by the DuckDB shells of 1.5 and 2.x alike.
_STORAGE_VERSION = "v1.5.0"
_PATIENCE = 120.0  # seconds that a commit waits for readers and other writers


def parts_folder(warehouse: str) -> str:
    """Where the parts and plans of a warehouse lie: beside its file."""
    return os.path.abspath(warehouse) + ".parts"


def _open(path: str, read_only: bool) -> duckdb.DuckDBPyConnection:
    if read_only:
        return duckdb.connect(path, read_only=True)
    connection = duckdb.connect()
    quoted = path.replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS warehouse (STORAGE_VERSION '{_STORAGE_VERSION}')")
    connection.execute("USE warehouse")
    return connection


@contextmanager
def connect(warehouse: str, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the warehouse for the length of the block, waiting with jitter while another process holds it.

    Raises:
        WarehouseError: not there (read-only), not a DuckDB file, not writable, or held for over two minutes; its disk is full.
    """
    path = os.path.abspath(warehouse)
    if read_only and not os.path.exists(path):
        raise WarehouseError(f"no warehouse at {path}; run `mdmf curate SOURCE --warehouse {warehouse}` first")
    deadline = time.monotonic() + _PATIENCE
    pause = 0.05
    while True:
        try:
            if not read_only:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            connection = _open(path, read_only)
            break
        except (duckdb.Error, OSError) as error:
            held = "lock" in str(error).lower()
            if not held or time.monotonic() > deadline:
                advice = "another process holds it open; close it" if held else _advice(str(error))
                raise WarehouseError(f"cannot open warehouse {path}: {advice} ({str(error).splitlines()[0]})") from error
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.5, 2.0)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    except duckdb.Error as error:
        if "No space left" not in str(error):
            raise
        raise disk_full(path, str(error)) from error
    finally:
        connection.close()


def _advice(said: str) -> str:
    if "read-only file system" in said.lower():
        return "its disk is read-only; make it writable, or choose another place"
    return "check the path and its permissions"


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Brings the schema up to this version, each step in its own transaction.

    Raises:
        WarehouseError: the warehouse was written by a newer version.
    """
    steps = sorted(entry.name for entry in files("warehouse").iterdir() if entry.name.endswith(".sql"))
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)")
    applied = {name for (name,) in connection.execute("SELECT name FROM migrations").fetchall()}
    unknown = applied - set(steps)
    if unknown:
        raise WarehouseError(
            f"the warehouse was written by a newer version (it knows {', '.join(sorted(unknown))}); upgrade mdmf"
        )
    for name in steps:
        if name not in applied:
            with transaction(connection):
                connection.execute((files("warehouse") / name).read_text())
                connection.execute("INSERT INTO migrations VALUES (?, ?)", [name, datetime.now(UTC)])


@dataclass(frozen=True)
class RunRecord:
    """The facts of a run at its start."""

    run_id: str
    flow: str
    source: str
    parameters: dict[str, Any]
    code_version: str
    host: str
    device: str


def start_run(connection: duckdb.DuckDBPyConnection, run: RunRecord, kit: ScoringKit, promote: bool) -> bool:
    """Registers scorer, bank and calibration and opens the run's row; True if they are now the promoted ones.

    The first scorer and bank of a warehouse are promoted by themselves; later ones only when asked.
    """
    key, now = kit.key, datetime.now(UTC)
    ids = [str(short_id(digest)) for digest in (key.scorer_id, key.bank_id, key.calibration_id)]
    with transaction(connection):
        register(connection, kit)
        current = connection.execute("SELECT * FROM promoted").fetchall()
        ours = [tuple(uuid.UUID(value) for value in ids)]
        if current != ours and (promote or not current):
            connection.execute("INSERT INTO bank_aliases VALUES ('production', ?, ?, ?, ?)", [*ids, now])
            current = ours
        connection.execute(
            "INSERT INTO runs VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            [run.run_id, run.flow, run.source, *ids, json.dumps(run.parameters), run.code_version, run.host, run.device, now],
        )
    return current == ours


def finish_run(connection: duckdb.DuckDBPyConnection, run_id: str, state: str, message: str | None) -> None:
    """Closes the run's row."""
    connection.execute(
        "UPDATE runs SET state = ?, message = ?, finished_at = ? WHERE run_id = ?", [state, message, datetime.now(UTC), run_id]
    )


def still_to_do(connection: duckdb.DuckDBPyConnection, shards: list[Shard], key: WorkKey) -> list[Shard]:
    """The shards that are not complete under this key with the content that the listing shows now."""
    rows = connection.execute(
        "SELECT url, size_bytes, fingerprint FROM shards WHERE state = 'complete' AND NOT superseded "
        "AND scorer_id = ? AND bank_id = ? AND calibration_id = ?",
        [str(short_id(digest)) for digest in (key.scorer_id, key.bank_id, key.calibration_id)],
    ).fetchall()
    done = set(rows)
    return [shard for shard in shards if (shard.url, shard.size_bytes, shard.fingerprint) not in done]


def query(warehouse: str, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
    """The result of one read-only query as a frame."""
    with connect(warehouse, read_only=True) as connection, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The inplace keyword")  # duckdb's own way with time zones
        return connection.execute(sql, parameters or []).df()
