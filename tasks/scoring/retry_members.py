"""Members that got no score for a reason that may have passed are read again alone; the rest of their shard's part stays."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow.parquet as pq

from mdmf_core.collections.folder import FolderDigest
from mdmf_core.collections.formats import FORMATS
from mdmf_core.collections.text import original_url
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ShardCorrupt, ShardUnfinished, SourceError
from mdmf_core.records import ExclusionReason, Member, Shard
from tasks.collections.open_shards import read_beside, read_member
from tasks.parts.kept_signatures import signatures_path
from tasks.parts.outcome import ShardOutcome
from tasks.parts.part_files import part_at_hand, part_path, part_writer
from tasks.parts.store import exists, remove
from tasks.scoring.decoder_pool import LIMITS
from tasks.scoring.score_shard import score_shard, scored_rows
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.scoring.stage_clock import Stages
from tasks.scoring.stage_threads import in_order

_ROWS = 256  # of the old part, held at a time
_NOTHING = sha256_hex(b"")


def retry_members(
    shard: Shard,
    reasons: tuple[str, ...],
    setup: ScoringSetup,
    folder: str,
    run_id: str,
    storage_block: str | None,
    progress: Callable[[int], None],
) -> ShardOutcome:
    """Replaces the shard's part by one in which the members excluded for ``reasons`` have had another try.

    Signatures that were kept of the shard lack the mended members, so they go; without its part the shard is scored whole.
    """
    path = part_path(folder, shard, setup.key)
    if not exists(path):
        return score_shard(shard, setup, folder, run_id, storage_block, progress)
    started, scored, tried, stages = time.monotonic(), 0, 0, Stages()
    with (
        part_at_hand(path) as before,
        part_writer(path) as part,
        pq.ParquetFile(before.part) as old,
        ThreadPoolExecutor(setup.decode_threads, thread_name_prefix="mend") as readers,
    ):
        digest = FolderDigest()
        for batch in old.iter_batches(_ROWS):
            rows = batch.to_pylist()
            again = [row for row in rows if row["reason"] in reasons]
            read = in_order(readers, lambda row: _read(row, shard, storage_block), again, 2 * setup.decode_threads)
            with closing(scored_rows(read, setup, None, stages)) as ready:
                mended = chain.from_iterable(ready)
                rows = [_better(row, mended) if row["reason"] in reasons else row for row in rows]
            part.write(rows)
            scored += sum(row["reason"] is None for row in rows)
            for row in rows:
                digest.add(row["key"], row["sha256"])
            tried += len(again)
            progress(tried)
        excluded = before.members - scored
        seconds = time.monotonic() - started
        whole = digest.hex if FORMATS[shard.kind].separate_files else before.digest  # a file not read before is now part of it
        costs = stages.snapshot().record()
        part.close_with(
            replace(before, digest=whole, scored=scored, excluded=excluded, run_id=run_id, seconds=seconds, costs=costs)
        )
        if scored > before.scored:
            remove(signatures_path(folder, shard.url, shard.size_bytes, shard.fingerprint, setup.key.scorer_id))
    return part.outcome


def _read(row: dict[str, Any], shard: Shard, storage_block: str | None) -> Member:
    member = Member(
        row["key"], b"", row["bytes"], locator=row["locator"], caption=row["caption"], url=row["url"], sidecar=row["sidecar"]
    )
    if member.size > LIMITS.max_bytes:  # as the shard's reader has it: not even held in memory
        return replace(member, excluded=ExclusionReason.TOO_LARGE, detail=row["detail"])
    try:
        data = read_member(shard.url, shard.kind, member.key, member.locator, member.size, storage_block)
        if FORMATS[shard.kind].separate_files and row["reason"] == ExclusionReason.STORAGE:  # no caption was looked for
            caption, sidecar = read_beside(shard.url, member.key, storage_block)
            member = replace(member, caption=caption, sidecar=sidecar, url=original_url(sidecar))
    except (SourceError, ShardUnfinished, ShardCorrupt) as error:  # of this look; what was read before stands
        return replace(member, excluded=ExclusionReason.STORAGE, detail=str(error))
    if row["sha256"] not in (_NOTHING, sha256_hex(data)):
        return replace(member, excluded=ExclusionReason.STORAGE, detail="its bytes are not those that were read before")
    return replace(member, data=data, size=len(data))


def _better(row: dict[str, Any], mended: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return dict.fromkeys(row) | next(mended)
