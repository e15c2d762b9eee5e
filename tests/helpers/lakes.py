"""Lakes for the tests, and parts made without a model, so that thousands of rows cost nothing."""

import hashlib
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from postgres_server import PostgresServer

from mdmf_core.errors import WarehouseError
from mdmf_core.records import Shard
from tasks.parts.outcome import ShardOutcome, WorkKey
from tasks.parts.part_files import part_path, part_writer
from tasks.warehouse.address import Lake
from tasks.warehouse.extensions import load_for
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

KEY = WorkKey("a" * 64, "b" * 64, "c" * 64)
RUN = "00000000-0000-0000-0000-000000000001"


def why_no_lakes() -> str | None:
    """Says why DuckDB can open no lake here; None where it can."""
    with duckdb.connect() as connection:
        try:
            load_for(connection, Lake("sqlite", "/", "s3://nowhere"))
            load_for(connection, Lake("postgres", "", "/"))
        except WarehouseError as error:
            return str(error)
    return None


needs_lakes = pytest.mark.skipif(why_no_lakes() is not None, reason=str(why_no_lakes()))
KINDS = ["embedded", pytest.param("sqlite", marks=needs_lakes)]


def place(folder: Path, kind: str) -> str:
    """Gives the address of a warehouse of this kind in a folder."""
    if kind == "embedded":
        return str(folder / "w.duckdb")
    return f"ducklake:sqlite:{folder}/w.sqlite?data={folder}/lake"


def postgres_lake(server: PostgresServer, database: str, data: object) -> str:
    """Makes a database and gives the address of a lake whose catalog it is."""
    name = server.create(database)
    return f"ducklake:postgres:host=127.0.0.1 port={server.port} user={server.user} dbname={name}?data={data}"


def opened_registry(warehouse: str) -> str:
    """Makes the schema and what the views need of the registry, and returns the address that was given."""
    scorer, bank, calibration = KEY.ids
    with Warehouse.at(warehouse).connect() as connection:
        migrate(connection)
        connection.execute("INSERT INTO scorers VALUES (?, 'made', ?, '{}', '2026-01-01 00:00:00+00')", [scorer, KEY.scorer_id])
        connection.execute(
            "INSERT INTO banks VALUES (?, ?, 'made', ?, 1, 1, 1, 1, 0, '2026-01-01 00:00:00+00', 1, NULL, NULL)",
            [bank, scorer, KEY.bank_id],
        )
        connection.execute(
            "INSERT INTO calibrations VALUES (?, ?, ?, 'photo', ?, 999, 0.001, '2026-01-01 00:00:00+00', 1, NULL)",
            [calibration, scorer, bank, KEY.calibration_id],
        )
        connection.execute("INSERT INTO calibration_slices VALUES (?, 'photo', 999, 0.001)", [calibration])
        connection.execute(
            "INSERT INTO bank_aliases VALUES ('production', ?, ?, ?, '2026-01-01 00:00:00+00')", [scorer, bank, calibration]
        )
    return warehouse


def made_outcome(warehouse: str, number: int, rows: int = 20, run: str = RUN, content: str = "1") -> ShardOutcome:
    """Writes the part of a made-up shard, one member of it excluded, not landed. Equal arguments give equal bytes."""
    shard = Shard(f"/made/{number:05d}.tar", "tar", 1000 * rows, f"etag-{number}-{content}")
    path = part_path(Warehouse.at(warehouse).parts, shard, KEY)
    excluded = {"key": "bad", "reason": "truncated", "detail": "made so"}
    digest = hashlib.sha256(f"{number} {content}".encode()).hexdigest()
    with part_writer(path) as part:
        part.write([*(_row(number, at, content) for at in range(rows - 1)), excluded])
        part.close_with(
            ShardOutcome(
                shard.url, shard.kind, shard.size_bytes, shard.fingerprint, "complete", None, digest, rows, rows - 1, 1, 0.5,
                run, None,
            )
        )  # fmt: skip
    return part.outcome


def _row(number: int, at: int, content: str) -> dict[str, object]:
    share = ((number * 7919 + at * 104729) % 1000 + 0.5) / 1000
    return {
        "key": f"{number:05d}{at:04d}", "sha256": hashlib.sha256(f"{number} {at} {content}".encode()).hexdigest(),
        "format": "JPEG", "width": 256, "height": 240, "bytes": 10_000 + at, "locator": 512 * at, "jpeg_quality": 90,
        "border_px": 0, "caption": f"caption {at}", "url": f"https://host{at % 7}.example.org/{number}/{at}.jpg",
        "sidecar": f'{{"at": {at}}}', "score": 1 - share, "mmd2": share / 2, "cross_term": share / 3, "self_term": share / 5,
        "top_k": share / 7, "top_patch": at % 16, "patches": 16, "p_value": share, "domain": "photo", "in_support": at % 10 > 0,
        "scored_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip


class _Conflicts(logging.Handler):
    """Counts how often a commit came second."""

    seen = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += "committed first" in record.getMessage()


def land_made(warehouse: str, numbers: Sequence[int], group: int = 1, rows: int = 20) -> int:
    """Lands made-up shards, ``group`` in one transaction; returns how often another writer was first."""
    conflicts, log = _Conflicts(), logging.getLogger("mdmf")
    log.addHandler(conflicts)
    log.setLevel(logging.INFO)
    outcomes = [made_outcome(warehouse, number, rows) for number in numbers]
    for start in range(0, len(outcomes), group):
        land(Warehouse.at(warehouse), outcomes[start : start + group], KEY)
    return conflicts.seen


def land_side_by_side(warehouse: str, writers: int, shards: int) -> int:
    """Has ``writers`` processes land ``shards`` shards each at the same time; returns how often any of them came second."""
    with ProcessPoolExecutor(writers, multiprocessing.get_context("spawn")) as pool:
        ranges = [range(shards * writer, shards * (writer + 1)) for writer in range(writers)]
        return sum(pool.map(land_made, [warehouse] * writers, ranges))


def land_again_and_again(warehouse: str, numbers: Sequence[int], started: Path) -> None:
    """Lands the same shards again and again until its process is killed."""
    outcomes = [made_outcome(warehouse, number) for number in numbers]
    while True:
        land(Warehouse.at(warehouse), outcomes, KEY)
        started.touch()
