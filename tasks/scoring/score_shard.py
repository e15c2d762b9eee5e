"""A shard is read, decoded, put through backbone and MMD and written as a part; all these stages work at the same time.

A shard that is unfinished, or whose store fails, is deferred here; one that is damaged fails.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from mdmf_core.collections.text import was_resized
from mdmf_core.errors import ShardCorrupt, ShardUnfinished, SourceError
from mdmf_core.records import Member, Shard
from mdmf_core.scoring.scorer import ImageScore, Loaded, Signatures
from tasks.collections.open_shards import expected_members, open_shard
from tasks.parts.kept_signatures import SignatureWriter, is_kept, signature_writer, signatures_path
from tasks.parts.outcome import ShardOutcome, without_part
from tasks.parts.part_files import finished_part, part_path, part_writer
from tasks.scoring.cpu_threads import model_threads
from tasks.scoring.decoded_members import DecodedMember, batches, prepare, shape_of
from tasks.scoring.decoder_pool import LIMITS, decode_pool
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.scoring.stage_clock import Stages
from tasks.scoring.stage_threads import ahead, in_order
from tasks.storage.retries import reading_again

_READ_BYTES = 4 * LIMITS.max_bytes  # encoded images that are read and not decoded yet
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Batch:
    """A batch is some members of a shard on their way through the backbone; only members with crops are loaded into it."""

    items: list[DecodedMember]
    loaded: Loaded | None
    signatures: Signatures | None = None


def score_shard(
    shard: Shard, setup: ScoringSetup, folder: str, run_id: str, storage_block: str | None, progress: Callable[[int], None]
) -> ShardOutcome:
    """Scores one shard into a part, or says why it was deferred or failed. Memory does not grow with the shard.

    A part that an earlier run finished but did not land is taken as it is.
    """
    path = part_path(folder, shard, setup.key)
    earlier = finished_part(path)
    if earlier is not None:
        return earlier
    started = time.monotonic()
    try:
        return _write_part(shard, setup, folder, path, run_id, storage_block, progress, started)
    except ShardUnfinished as error:
        return without_part(shard, "deferred", f"unfinished: {error}", run_id, time.monotonic() - started)
    except SourceError as error:
        return without_part(shard, "deferred", f"storage: {error}", run_id, time.monotonic() - started)
    except ShardCorrupt as error:
        return without_part(shard, "failed", f"corrupt: {error}", run_id, time.monotonic() - started)


@reading_again
def _write_part(
    shard: Shard,
    setup: ScoringSetup,
    folder: str,
    path: str,
    run_id: str,
    storage_block: str | None,
    progress: Callable[[int], None],
    started: float,
) -> ShardOutcome:
    members = scored = 0
    stages = Stages()
    with part_writer(path) as part:
        with (
            _signature_writer(shard, setup, folder) as signatures,
            open_shard(shard, LIMITS.max_bytes, storage_block) as reader,
            closing(scored_rows(reader, setup, signatures, stages)) as ready,
        ):
            for rows in ready:
                with stages.timed("write", len(rows)):
                    part.write(rows)
                members += len(rows)
                scored += sum(row["reason"] is None for row in rows)
                progress(members)
            with stages.timed("write"):
                part.flush()  # here, so that signatures are not kept of a shard whose part finds the disk full
            expected = expected_members(shard, storage_block)
            if expected is not None and members < expected:
                raise ShardUnfinished(f"{members} members, but its stats file promises {expected}")
        outcome = ShardOutcome(
            shard.url, shard.kind, shard.size_bytes, shard.fingerprint, "complete", None, reader.digest,
            members, scored, members - scored, time.monotonic() - started, run_id, path, costs=stages.snapshot().record(),
        )  # fmt: skip
        part.close_with(outcome)
    return part.outcome


def _signature_writer(shard: Shard, setup: ScoringSetup, folder: str) -> AbstractContextManager[SignatureWriter | None]:
    if not is_kept(shard, setup.keep_signatures):
        return nullcontext()
    return signature_writer(signatures_path(folder, shard.url, shard.size_bytes, shard.fingerprint, setup.key.scorer_id))


def scored_rows(
    members: Iterable[Member], setup: ScoringSetup, signatures: SignatureWriter | None, stages: Stages
) -> Generator[list[dict[str, Any]], None, None]:
    """Makes the part rows of all members in their order, some at a time.

    Reading with decoding, the backbone, and the statistics have a thread each, and decoding its children. Each holds one batch
    and one more waits for the next, so that memory does not grow with the shard.
    """
    loaded = ahead(_loaded(_timed(members, stages), setup, stages), 1, "read", partial(stages.depth, "backbone"))
    described = ahead(_described(loaded, setup, stages), 1, "backbone", partial(stages.depth, "score"))
    return ahead(
        _each(lambda batch: rows_of(batch, setup, signatures, stages), described), 1, "score", partial(stages.depth, "write")
    )


def _each(function: Callable[[T], R], items: Generator[T, None, None]) -> Generator[R, None, None]:
    """Maps a function over a generator, and closes that generator when it is closed itself."""
    with closing(items):
        for item in items:
            yield function(item)


def _timed(members: Iterable[Member], stages: Stages) -> Iterator[Member]:
    """Passes the members on, and times how long each took to read."""
    source = iter(members)
    while True:
        started = time.perf_counter()
        member = next(source, None)
        if member is None:
            return
        stages.add("read", time.perf_counter() - started, 1, len(member.data))
        yield member


def _loaded(members: Iterable[Member], setup: ScoringSetup, stages: Stages) -> Generator[Batch, None, None]:
    plan, pool = setup.scorer.crops, decode_pool(setup.decode_threads)

    def prepared(member: Member) -> DecodedMember:
        with stages.timed("decode", 1, len(member.data)):
            return prepare(member, plan, pool)

    window = setup.decode_threads + max(8, setup.batch_crops // plan.most)
    ready = in_order(pool.threads, prepared, members, window, _READ_BYTES, lambda member: len(member.data))
    with closing(ready):
        for items in batches(ready, setup.batch_crops):
            crops = [item.crops for item in items if item.crops is not None]
            yield Batch(items, setup.scorer.load(crops) if crops else None)


def _described(loaded: Generator[Batch, None, None], setup: ScoringSetup, stages: Stages) -> Generator[Batch, None, None]:
    """Puts batches through the backbone, in order; one more waits in the threads' queue, so that the threads never do."""

    def described(batch: Batch) -> Batch:
        if batch.loaded is None:
            return batch
        with stages.timed("backbone", len(batch.loaded.counts), share=1 / setup.backbones):
            return Batch(batch.items, None, setup.scorer.describe(batch.loaded, setup.passes))

    with closing(loaded):
        yield from in_order(model_threads(setup.backbones), described, loaded, setup.backbones + 1)


def rows_of(batch: Batch, setup: ScoringSetup, signatures: SignatureWriter | None, stages: Stages) -> list[dict[str, Any]]:
    """Makes the part rows of a batch, in the order of the shard."""
    ready = [(item, item.image) for item in batch.items if item.crops is not None and item.image is not None]
    scores: Iterator[ImageScore] = iter(())
    if batch.signatures is not None:
        with stages.timed("score", len(ready)):
            shapes = [shape_of(item.member, image) for item, image in ready]
            scores = iter(setup.scorer.score(batch.signatures, shapes, setup.bank, setup.calibration))
            if signatures is not None:
                signatures.write([item.member.key for item, _ in ready], [item.sha256 for item, _ in ready], batch.signatures)
    now = datetime.now(UTC)
    rows = []
    for item in batch.items:
        row = _facts(item)
        if item.crops is not None:
            row |= asdict(next(scores)) | {"scored_at": now}
        rows.append(row)
    return rows


def _facts(item: DecodedMember) -> dict[str, Any]:
    member, image = item.member, item.image
    row: dict[str, Any] = {
        "key": member.key,
        "sha256": item.sha256,
        "bytes": member.size,
        "locator": member.locator,
        "caption": member.caption,
        "url": member.url,
        "sidecar": member.sidecar,
        "reason": item.reason,
        "detail": item.detail,
    }
    if image is not None:
        row |= {
            "format": image.format,
            "width": image.width,
            "height": image.height,
            "jpeg_quality": image.jpeg_quality,
            "border_px": image.border_px,
            "resized": was_resized(member.sidecar),
        }
    return row
