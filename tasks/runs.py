"""Runs in the warehouse: how one starts, what it finds left to do, how it ends."""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb

from mdmf_core.records import Shard
from tasks.kit import ScoringKit
from tasks.landing import generations
from tasks.parts import Work, WorkKey
from tasks.registry import register
from tasks.warehouse import transaction


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
    ids = key.ids
    with transaction(connection):
        register(connection, kit)
        current = connection.execute("SELECT * FROM promoted").fetchall()
        ours = [tuple(uuid.UUID(value) for value in ids)]
        if current != ours and (promote or not current):
            connection.execute("INSERT INTO bank_aliases VALUES ('production', ?, ?, ?, ?)", [*ids, now])
            current = ours
        connection.execute("DELETE FROM runs WHERE run_id = ?", [run.run_id])  # Prefect starts a run again under its id
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


def still_to_do(connection: duckdb.DuckDBPyConnection, shards: list[Shard], key: WorkKey) -> tuple[list[Work], int]:
    """The shards that are not complete under this key with the content that the listing shows now, and how many are set aside.

    Set aside are those that failed for what they are: with the same bytes they would fail again, so only `retry` reads them.
    """
    rows = connection.execute(
        "SELECT url, size_bytes, fingerprint, NOT superseded AND state = 'complete', "
        "state = 'failed' AND NOT starts_with(reason, 'error:') "
        "FROM shards WHERE scorer_id = ? AND bank_id = ? AND calibration_id = ?",
        key.ids,
    ).fetchall()
    done = {tuple(content) for *content, complete, _ in rows if complete}
    aside = {tuple(content) for *content, _, failed in rows if failed}
    newest = generations(connection, key)
    waiting = [shard for shard in shards if (shard.url, shard.size_bytes, shard.fingerprint) not in done]
    to_do = [shard for shard in waiting if (shard.url, shard.size_bytes, shard.fingerprint) not in aside]
    return [Work(shard, newest.get(shard.url, 0)) for shard in to_do], len(waiting) - len(to_do)
