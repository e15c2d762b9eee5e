"""Landing shards of 10,000 images into warehouses of one, ten and a hundred million rows, and asking those.

The warehouses are made up. What is compared is the seconds of one commit with those into the smallest warehouse: landing must
not slow down as the corpus grows. Questions that read everything may grow as the rows do, not faster.
"""

import statistics
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness.frame import Better, Part, Record, Setting, timed
from mdmf_core.digests import sha256_hex
from tasks.parts.outcome import ShardOutcome, WorkKey
from tasks.parts.part_files import part_writer
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
from corpora import IDS, register

SIZES = (1_000_000, 10_000_000, 100_000_000)
PER_SHARD, LANDED = 10_000, 9  # images of a shard, shards that are landed one by one
KEY = WorkKey(*IDS.values())
QUESTIONS = {
    "flagged at 5 %": "SELECT count(*) FROM flagged(0.05)",
    "kept by host": "SELECT regexp_extract(url, '://([^/]+)', 1) AS host, count(*) FROM kept(0.05) GROUP BY host",
    "accounting": "SELECT state, sum(members), sum(scored), sum(excluded) FROM accounting GROUP BY state",
}
_ROW = {
    "format": "JPEG", "width": 512, "height": 384, "bytes": 50_000, "jpeg_quality": 90, "border_px": 0, "caption": "a picture",
    "sidecar": '{"status": "success"}', "mmd2": 0.1, "cross_term": 0.5, "self_term": 0.5, "top_k": 0.1, "top_patch": 0,
    "patches": 49, "domain": "photo", "in_support": True,
}  # fmt: skip


def fill(warehouse: str, images: int) -> None:
    """So many scored images in shards, under one promoted scorer."""
    shard, share = f"md5('s' || i // {PER_SHARD})::UUID", "hash(i) / 18446744073709551616.0"
    with Warehouse.at(warehouse).connect() as connection:
        migrate(connection)
        ids = ", ".join(f"'{one}'" for one in register(connection))
        connection.execute(
            "INSERT INTO shards SELECT md5('s' || i)::UUID, printf('s3://bucket/laion/%06d.tar', i), 'tar', sha256('' || i), "
            f"1000000000, 'etag', 'complete', NULL, {PER_SHARD}, {PER_SHARD}, 0, false, {ids}, uuid(), 1, now(), 0, NULL "
            f"FROM range({images // PER_SHARD}) t(i)"
        )
        connection.execute(
            f"INSERT INTO images SELECT md5('' || i)::UUID, {shard}, printf('%09d', i), md5('' || i), 'JPEG', 512, 384, "
            "50000, i, 90, 0, false, 'a picture', 'https://site' || i % 1000 || '.example.org/' || i || '.jpg', "
            f'\'{{"status": "success"}}\' FROM range({images}) t(i)'
        )
        connection.execute(
            f"INSERT INTO scores SELECT md5('' || i)::UUID, {shard}, {ids}, uuid(), 1 - {share}, 0, 0, 0, 0, 0, 49, {share}, "
            f"'photo', true, now(), 'site' || i % 1000 || '.example.org' FROM range({images}) t(i)"
        )


def outcomes(folder: Path) -> Iterator[ShardOutcome]:
    """Finished parts of shards that no warehouse holds."""
    now = datetime.now(UTC)
    for number in range(LANDED):
        rows: list[dict[str, Any]] = []
        for index in range(PER_SHARD):
            key = f"{number}-{index:06d}"
            share = (index * 7919 % PER_SHARD + 0.5) / PER_SHARD
            rows.append(
                _ROW | {"key": key, "sha256": sha256_hex(key.encode()), "locator": 512 * index, "score": 1 - share,
                        "p_value": share, "scored_at": now, "url": f"https://site{index % 1000}.example.org/{key}.jpg"}
            )  # fmt: skip
        path = folder / f"{number}.parquet"
        outcome = ShardOutcome(
            f"s3://bucket/new/{number:05d}.tar", "tar", 10**9, "etag", "complete", None, sha256_hex(str(number).encode()),
            PER_SHARD, PER_SHARD, 0, 1.0, str(uuid.uuid4()), None, generation=1,
        )  # fmt: skip
        with part_writer(str(path)) as part:
            part.write(rows)
            part.close_with(outcome)
        yield part.outcome


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises ValueError when the answer is empty, as the question would then have been of nothing."""
    answer = connection.execute(sql).fetchall()
    if not answer or not any(isinstance(value, int) and value for value in answer[0]):
        raise ValueError(f"{sql}: expected rows, got {answer}")


def records(setting: Setting) -> list[Record]:
    (parts := setting.work / "parts").mkdir()
    ready = list(outcomes(parts))
    commits: dict[int, list[float]] = {}
    answers: dict[int, dict[str, float]] = {}
    for size in SIZES:
        warehouse = setting.work / f"{size}.duckdb"
        setting.say(f"making {size:,} rows, {timed(partial(fill, str(warehouse), size)):.0f} s")
        commits[size] = [timed(partial(land, Warehouse.at(str(warehouse)), [one], KEY)) for one in ready]
        with Warehouse.at(str(warehouse)).connect(read_only=True) as connection:
            answers[size] = {
                name: statistics.median(timed(partial(ask, connection, sql)) for _ in range(3))
                for name, sql in QUESTIONS.items()
            }
        setting.say(f"{size:,} rows: a commit {statistics.median(commits[size]):.3f} s, {answers[size]}")
        warehouse.unlink()
    smallest = SIZES[0]
    found = []
    for size in SIZES[1:]:
        growth = [now / before for now, before in zip(commits[size], commits[smallest], strict=True)]
        seconds = statistics.median(commits[size])
        parts_of = {
            f"into {smallest:,} rows": Part(statistics.median(commits[smallest]), "s"),
            f"into {size:,} rows": Part(seconds, "s"),
            "rows landed": Part(PER_SHARD / seconds, "rows/s"),
        }
        did = f"{LANDED} shards of {PER_SHARD:,} rows, opened, landed and closed one by one"
        found.append(
            Record(
                name=f"a commit into {size:,} rows, over {smallest:,}",
                ratio=statistics.median(growth),
                better=Better.LOWER,
                low=min(growth),
                high=max(growth),
                repeats=LANDED,
                parts=parts_of,
                did=did,
            )
        )
        for name in QUESTIONS:
            per_row = answers[size][name] / answers[smallest][name] / (size / smallest)
            asked = {f"at {rows:,} rows": Part(answers[rows][name], "s") for rows in (smallest, size)}
            found.append(
                Record(
                    name=f"{name}: seconds per row at {size:,} rows, over {smallest:,}",
                    ratio=per_row,
                    better=Better.LOWER,
                    low=per_row,
                    high=per_row,
                    repeats=3,
                    parts=asked,
                    target=1.5,
                    did=QUESTIONS[name],
                )
            )
    return found
