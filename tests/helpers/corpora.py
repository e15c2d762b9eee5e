"""Warehouses over real shards without a backbone: facts from the readers, scores made from a hash of the image's bytes."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from mdmf_core.collections.text import original_url, readable
from mdmf_core.digests import sha256_hex, short_id
from mdmf_core.records import ExclusionReason, Shard
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard
from tasks.parts.outcome import ShardOutcome
from tasks.warehouse.migrations import migrate
from tasks.warehouse.part_rows import _IMAGE_ID, shard_id
from tasks.warehouse.warehouse import Warehouse

IDS = {kind: sha256_hex(kind.encode()) for kind in ("scorer", "bank", "calibration")}
RUN = "00000000-0000-0000-0000-000000000001"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def register(connection: duckdb.DuckDBPyConnection, name: str = "made") -> list[str]:
    """Registers and promotes a made-up scorer, bank and calibration (199 images in photo, 9 in art); returns their ids."""
    scorer, bank, calibration = ids = [str(short_id(digest)) for digest in IDS.values()]
    for sql in (
        f"INSERT INTO scorers VALUES ('{scorer}', '{name}', '{IDS['scorer']}', '{{}}', now())",
        "INSERT INTO banks (bank_id, scorer_id, name, digest, points, patches, images, sigma, coreset_error, registered_at, "
        f"version) VALUES ('{bank}', '{scorer}', 'photos', '{IDS['bank']}', 1, 1, 1, 1, 0, now(), 1)",
        "INSERT INTO calibrations (calibration_id, scorer_id, bank_id, domain, digest, images, smallest_budget, registered_at, "
        f"version) VALUES ('{calibration}', '{scorer}', '{bank}', 'photo', '{IDS['calibration']}', 199, 0.005, now(), 1)",
        f"INSERT INTO calibration_slices VALUES ('{calibration}', 'photo', 199, 0.005), ('{calibration}', 'art', 9, 0.1)",
        f"INSERT INTO calibration_budgets VALUES ('{calibration}', 'photo', 0.05, 0.01, 0.1, 0.03)",
        f"INSERT INTO bank_aliases VALUES ('production', '{scorer}', '{bank}', '{calibration}', now())",
    ):
        connection.execute(sql)
    return ids


def scored_warehouse(path: Path, sources: Iterable[object]) -> str:
    """Makes a warehouse in which every image of the sources has a score.

    Its p-value is the second byte of its sha256; three images of ten lie outside support.
    """
    with Warehouse.at(str(path)).connect() as connection:
        migrate(connection)
        ids = register(connection)
        for source in sources:
            for shard in list_shards(str(source), 1000):
                _land(connection, shard, ids)
    return str(path)


def _land(connection: duckdb.DuckDBPyConnection, shard: Shard, ids: list[str]) -> None:
    with open_shard(shard, 1 << 24) as reader:
        members = list(reader)
        digest = reader.digest
    outcome = ShardOutcome(
        shard.url, shard.kind, shard.size_bytes, shard.fingerprint, "complete", None, digest, 0, 0, 0, 0.0, RUN, None
    )
    shard_uuid, excluded = shard_id(outcome), 0
    for member in members:
        sha256 = sha256_hex(member.data)
        reason = member.excluded or (None if member.data[:3] == b"\xff\xd8\xff" else ExclusionReason.NOT_AN_IMAGE)
        if member.data.startswith(b"\xff\xd8\xffsmall"):
            reason = ExclusionReason.TOO_SMALL
        (image_id,) = connection.execute(
            f"SELECT {_IMAGE_ID.format(shard=shard_uuid)} FROM (SELECT ? AS key, ? AS sha256) p", [member.key, sha256]
        ).fetchall()[0]
        if reason in (None, ExclusionReason.TOO_SMALL):
            connection.execute(
                "INSERT INTO images VALUES (?, ?, ?, ?, 'JPEG', 256, 240, ?, ?, 90, 0, false, ?, ?, ?)",
                [image_id, shard_uuid, member.key, sha256, member.size, member.locator, member.caption,
                 original_url(member.sidecar), member.sidecar],
            )  # fmt: skip
        if reason:
            excluded += 1
            connection.execute(
                "INSERT INTO exclusions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [shard_uuid, member.key, image_id, reason, "made", *ids, RUN],
            )
        else:
            p_value = (int(sha256[2:4], 16) + 1) / 257
            connection.execute(
                "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 9, ?, 'photo', ?, ?, NULL)",
                [image_id, shard_uuid, *ids, RUN, 1 - p_value, p_value, int(sha256[:2], 16) >= 77, _NOW],
            )
    connection.execute(
        "INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?, 'complete', NULL, ?, ?, ?, false, ?, ?, ?, ?, 0, ?, 0, NULL)",
        [shard_uuid, shard.url, shard.kind, digest, shard.size_bytes, shard.fingerprint, len(members), len(members) - excluded,
         excluded, *ids, RUN, _NOW],
    )  # fmt: skip


def jpeg(number: int) -> bytes:
    """Gives bytes that pass for a JPEG where nothing is decoded; every number gives other bytes."""
    return b"\xff\xd8\xff" + sha256_hex(str(number).encode()).encode() * 20


def sample(key: str, number: int, **sidecar: object) -> dict[str, bytes]:
    """Gives the files of one sample in img2dataset's order: image, sidecar, caption."""
    record = {"key": readable(key), "url": f"https://example.org/{number}.jpg"} | sidecar
    return {f"{key}.jpg": jpeg(number), f"{key}.json": json.dumps(record).encode(), f"{key}.txt": f"caption {number}".encode()}
