"""Shards are scored again with another bank or calibration from kept signatures: no image is read, no backbone runs."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from mdmf_core.errors import WarehouseError
from mdmf_core.records import ImageShape, Shard
from tasks.parts.kept_signatures import read_signatures, signatures_path
from tasks.parts.outcome import ShardOutcome, Work, WorkKey
from tasks.parts.part_files import finished_part, part_at_hand, part_path, part_writer
from tasks.parts.store import exists
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.warehouse.landing import generations
from tasks.warehouse.warehouse import Warehouse

_BATCH = 256  # images


@dataclass(frozen=True)
class RescorePlan:
    """A plan names the shards to score again, and counts those that need not or cannot be."""

    shards: list[tuple[Work, WorkKey]]  # with a key under which the shard has a part
    complete: int  # under the new key already
    without_signatures: int


def plan_rescore(warehouse: Warehouse, folder: str, setup: ScoringSetup) -> RescorePlan:
    """Plans every shard of the scorer that is complete under some bank, not yet under this one, and has kept signatures."""
    scorer, bank, calibration = setup.key.ids
    with warehouse.connect(read_only=True) as connection:
        rows = connection.execute(
            "SELECT sh.url, sh.kind, sh.size_bytes, sh.fingerprint, s.digest, b.digest, c.digest, "
            "bool_or(sh.bank_id = ? AND sh.calibration_id = ?) "
            "  OVER (PARTITION BY sh.url, sh.size_bytes, sh.fingerprint) AS done "
            "FROM shards sh JOIN scorers s USING (scorer_id) JOIN banks b USING (bank_id) "
            "JOIN calibrations c USING (calibration_id) WHERE sh.state = 'complete' AND NOT sh.superseded AND sh.scorer_id = ? "
            "ORDER BY sh.url, sh.committed_at DESC",
            [bank, calibration, scorer],
        ).fetchall()
        newest = generations(connection, setup.key)
    shards: dict[str, tuple[Work, WorkKey]] = {}
    complete, bare = set(), set()
    for url, kind, size, fingerprint, *digests, done in rows:
        shard, key = Shard(url, kind, size, fingerprint), WorkKey(*digests)
        if done:
            complete.add(url)
        elif not exists(signatures_path(folder, url, size, fingerprint, key.scorer_id)):
            bare.add(url)
        elif url not in shards and exists(part_path(folder, shard, key)):
            shards[url] = (Work(shard, newest.get(url, 0)), key)
    return RescorePlan(list(shards.values()), len(complete), len(bare - set(shards) - complete))


def rescore_shard(shard: Shard, old: WorkKey, setup: ScoringSetup, folder: str, run_id: str) -> ShardOutcome:
    """A part under the setup's key: the facts of the old part, scores from the kept signatures.

    Raises:
        WarehouseError: signatures and part do not hold the same images.
    """
    path = part_path(folder, shard, setup.key)
    earlier = finished_part(path)
    if earlier is not None:
        return earlier
    source = part_path(folder, shard, old)
    if not exists(source):
        raise WarehouseError(f"{shard.url}: its part {source} is gone; curate it with the new bank")
    started, kept = time.monotonic(), signatures_path(folder, shard.url, shard.size_bytes, shard.fingerprint, old.scorer_id)
    with part_at_hand(source) as before, part_writer(path) as part, pq.ParquetFile(before.part) as file:
        scores = _scores(kept, shard, setup, before.part or "")
        for batch in file.iter_batches(_BATCH):
            part.write([_rescored(row, scores, shard) for row in batch.to_pylist()])
        if next(scores, None) is not None:
            raise WarehouseError(f"{shard.url}: the kept signatures hold more images than the part")
        part.close_with(replace(before, run_id=run_id, seconds=time.monotonic() - started, costs=None))
    return part.outcome


def _rescored(row: dict[str, Any], scores: Iterator[tuple[str, dict[str, Any]]], shard: Shard) -> dict[str, Any]:
    if row["reason"] is not None:
        return row
    sha256, columns = next(scores, ("", {}))
    if sha256 != row["sha256"]:
        raise WarehouseError(f"{shard.url}: no kept signature for {row['key']!r}; curate it with the new bank")
    return row | columns


def _scores(path: str, shard: Shard, setup: ScoringSetup, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(sha256, new score columns) of every scored image, in the order of the shard."""
    shapes = _shapes(part)
    now = datetime.now(UTC)
    for kept in read_signatures(path, _BATCH):
        rows = setup.scorer.score(kept.signatures, [next(shapes) for _ in kept.keys], setup.bank, setup.calibration)
        for sha256, score in zip(kept.sha256s, rows, strict=True):
            yield sha256, asdict(score) | {"scored_at": now}


def _shapes(part: str) -> Iterator[ImageShape]:
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(_BATCH, columns=["width", "height", "jpeg_quality", "resized", "reason"]):
            for row in batch.to_pylist():
                if row["reason"] is None:
                    yield ImageShape(row["width"], row["height"], row["jpeg_quality"], row["resized"])
