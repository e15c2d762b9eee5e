"""Runs in the warehouse: how one starts, what it finds left to do, how it ends."""

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa

from mdmf_core.records import Shard
from tasks.kit import ScoringKit
from tasks.parts import Work, WorkKey
from tasks.plans import batched
from tasks.registry import register
from tasks.warehouse import Note, commit, connect, migrate

_BATCH = 20_000  # shards of a listing that are compared with the warehouse at once


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

    def start() -> bool:
        register(connection, kit)
        current = connection.execute("SELECT * FROM promoted").fetchall()
        ours = [tuple(uuid.UUID(value) for value in ids)]
        if current != ours and (promote or not current):
            connection.execute("INSERT INTO bank_aliases VALUES ('production', ?, ?, ?, ?)", [*ids, now])
            current = ours
        connection.execute("DELETE FROM runs WHERE run_id = ?", [run.run_id])  # Prefect starts a run again under its id
        connection.execute(
            "INSERT INTO runs (run_id, flow, state, source, scorer_id, bank_id, calibration_id, parameters, code_version, "
            "host, device, started_at) VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [run.run_id, run.flow, run.source, *ids, json.dumps(run.parameters), run.code_version, run.host, run.device, now],
        )
        return bool(current == ours)

    return commit(connection, start, Note(run.run_id, f"{run.flow} started"))


def finish_run(
    connection: duckdb.DuckDBPyConnection, run_id: str, state: str, message: str | None, costs: dict[str, Any] | None = None
) -> None:
    """Closes the run's row.

    Args:
        costs: of its stages, as ``StageCosts.record`` has them.
    """
    end = "UPDATE runs SET state = ?, message = ?, metrics = ?, finished_at = ? WHERE run_id = ?"
    values = [state, message, None if costs is None else json.dumps(costs), datetime.now(UTC), run_id]
    commit(connection, partial(connection.execute, end, values), Note(run_id, state))


@dataclass
class Tally:
    """What was found while a source was listed."""

    shards: int = 0
    already_complete: int = 0
    set_aside: int = 0  # failed before with the same bytes
    to_do: int = 0


def waiting(warehouse: str, shards: Iterable[Shard], key: WorkKey, most: int | None, tally: Tally) -> Iterator[Work]:
    """Of a listing, however long, what is left to do, ``most`` shards of it; everything is counted.

    The warehouse, which is made or brought up to date, is open for a moment per batch only.
    """
    for number, batch in enumerate(batched(shards, _BATCH)):
        with connect(warehouse, read_only=number > 0) as connection:
            if number == 0:
                migrate(connection)
            work, aside = still_to_do(connection, batch, key)
        tally.shards += len(batch)
        tally.already_complete += len(batch) - len(work) - aside
        tally.set_aside += aside
        chosen = work if most is None else work[: most - tally.to_do]
        tally.to_do += len(chosen)
        yield from chosen


def still_to_do(connection: duckdb.DuckDBPyConnection, shards: list[Shard], key: WorkKey) -> tuple[list[Work], int]:
    """The shards that are not complete under this key with the content that the listing shows now, and how many are set aside.

    Set aside are those that failed for what they are: with the same bytes they would fail again, so only `retry` reads them.
    """
    connection.register("listed", pa.table({"url": [shard.url for shard in shards]}))
    rows = connection.execute(
        "SELECT url, size_bytes, fingerprint, NOT superseded AND state = 'complete', "
        "state = 'failed' AND NOT starts_with(reason, 'error:'), coalesce(generation, 0) "
        "FROM shards SEMI JOIN listed USING (url) WHERE scorer_id = ? AND bank_id = ? AND calibration_id = ?",
        key.ids,
    ).fetchall()
    connection.unregister("listed")
    done = {tuple(content) for *content, complete, _, _ in rows if complete}
    aside = {tuple(content) for *content, _, failed, _ in rows if failed}
    newest: dict[str, int] = {}
    for url, *_, generation in rows:
        newest[url] = max(generation, newest.get(url, 0))
    left = [shard for shard in shards if (shard.url, shard.size_bytes, shard.fingerprint) not in done]
    to_do = [shard for shard in left if (shard.url, shard.size_bytes, shard.fingerprint) not in aside]
    return [Work(shard, newest.get(shard.url, 0)) for shard in to_do], len(left) - len(to_do)
