"""The rows of runs in the warehouse: written when a run starts, closed when it ends."""

import json
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import duckdb
from pydantic import BaseModel

from tasks.scoring.scoring_setup import Lineage
from tasks.warehouse.commits import Note, commit
from tasks.warehouse.registry import register_bank, register_calibration, register_scorer


def register(connection: duckdb.DuckDBPyConnection, lineage: Lineage) -> None:
    """Enters scorer, bank and calibration in the registry where it does not know them yet; call it in a transaction."""
    register_scorer(connection, lineage.scorer)
    register_bank(connection, lineage.bank, lineage.bank_url)
    register_calibration(connection, lineage.calibration, lineage.calibration_url)


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run at its start."""

    run_id: str
    flow: str
    source: str
    parameters: dict[str, Any]
    code_version: str
    host: str
    device: str


def record_of(flow: str, settings: BaseModel, source: str, run_id: str, device: str) -> RunRecord:
    """Makes the record of a run that this process drives.

    Args:
        device: what scores its images, in words.
    """
    return RunRecord(run_id, flow, source, settings.model_dump(exclude={"key"}), version("mdmf"), socket.gethostname(), device)


def start_run(connection: duckdb.DuckDBPyConnection, run: RunRecord, lineage: Lineage, promote: bool) -> bool:
    """Registers scorer, bank and calibration and opens the run's row; returns True if these three are now promoted.

    The first scorer and bank of a warehouse are promoted by themselves; later ones only when asked.
    """
    ids, now = lineage.key.ids, datetime.now(UTC)

    def start() -> bool:
        register(connection, lineage)
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
    """Closes the row of a run with its state and its costs.

    Args:
        costs: of its stages, as ``StageCosts.record`` has them.
    """
    end = "UPDATE runs SET state = ?, message = ?, metrics = ?, finished_at = ? WHERE run_id = ?"
    values = [state, message, None if costs is None else json.dumps(costs), datetime.now(UTC), run_id]
    commit(connection, partial(connection.execute, end, values), Note(run_id, state))
