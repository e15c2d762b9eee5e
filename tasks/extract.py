"""One shard through reading, decoding, backbone and MMD into a part."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from mdmf_core.collections.text import was_resized
from mdmf_core.crops import CropPlan
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ShardCorrupt, ShardUnfinished, SourceError
from mdmf_core.images import ImageLimits
from mdmf_core.records import DecodedFacts, ImageShape, Member, Shard
from mdmf_core.scoring import ImageScore
from tasks.decoding import DecodePool, decode_pool
from tasks.faults import reading_again
from tasks.kit import ScoringKit
from tasks.parts import ShardOutcome, finished_part, part_path, part_writer, read_part, without_part
from tasks.shards import expected_members, open_shard
from tasks.signatures import SignatureWriter, is_kept, signature_writer, signatures_path

LIMITS = ImageLimits()
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Prepared:
    """A member after decoding: either crops to score or the reason why not, and the decoded facts if there are any."""

    member: Member
    sha256: str
    image: DecodedFacts | None
    crops: UInt8[np.ndarray, "n 3 size size"] | None
    reason: str | None = None
    detail: str = ""


def prepare(member: Member, plan: CropPlan, pool: DecodePool) -> Prepared:
    """A member decoded and cut by one of the pool's children; never raises for what the member holds."""
    digest = sha256_hex(member.data)
    if member.excluded is not None:
        return Prepared(member, digest, None, None, member.excluded, member.detail)
    found = pool.decode(member.data, plan)
    return Prepared(member, digest, found.facts, found.crops, found.reason, found.detail)


def score_shard(
    shard: Shard, kit: ScoringKit, folder: str, run_id: str, storage_block: str | None, progress: Callable[[int], None]
) -> ShardOutcome:
    """Scores one shard into a part, or says why it was deferred or failed. Memory does not grow with the shard.

    A part that an earlier run finished but did not land is taken as it is.
    """
    path = part_path(folder, shard, kit.key)
    earlier = finished_part(path)
    if earlier is not None:
        return earlier
    started = time.monotonic()
    try:
        _write_part(shard, kit, folder, path, run_id, storage_block, progress, started)
        return read_part(path)
    except ShardUnfinished as error:
        return without_part(shard, "deferred", f"unfinished: {error}", run_id, time.monotonic() - started)
    except SourceError as error:
        return without_part(shard, "deferred", f"storage: {error}", run_id, time.monotonic() - started)
    except ShardCorrupt as error:
        return without_part(shard, "failed", f"corrupt: {error}", run_id, time.monotonic() - started)


@reading_again
def _write_part(
    shard: Shard,
    kit: ScoringKit,
    folder: str,
    path: str,
    run_id: str,
    storage_block: str | None,
    progress: Callable[[int], None],
    started: float,
) -> None:
    members = scored = 0
    with part_writer(path) as part:
        with (
            _signature_writer(shard, kit, folder) as signatures,
            open_shard(shard, LIMITS.max_bytes, storage_block) as reader,
        ):
            plan, pool = kit.scorer.crops, decode_pool(kit.decode_threads)
            prepared = in_order(pool.threads, lambda member: prepare(member, plan, pool), reader, window=2 * kit.batch_images)
            for batch in batches(prepared, kit.batch_images):
                rows = score_batch(batch, kit, signatures)
                part.write(rows)
                members += len(rows)
                scored += sum(row["reason"] is None for row in rows)
                progress(members)
            expected = expected_members(shard, storage_block)
            if expected is not None and members < expected:
                raise ShardUnfinished(f"{members} members, but its stats file promises {expected}")
        outcome = ShardOutcome(
            shard.url, shard.kind, shard.size_bytes, shard.fingerprint, "complete", None, reader.digest,
            members, scored, members - scored, time.monotonic() - started, run_id, path,
        )  # fmt: skip
        part.close_with(outcome)


def _signature_writer(shard: Shard, kit: ScoringKit, folder: str) -> AbstractContextManager[SignatureWriter | None]:
    if not is_kept(shard, kit.keep_signatures):
        return nullcontext()
    return signature_writer(signatures_path(folder, shard.url, shard.size_bytes, shard.fingerprint, kit.key.scorer_id))


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], window: int) -> Iterator[R]:
    """``map`` over a pool that keeps the order and never holds more than ``window`` items."""
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # the pool outlives a reader that fails halfway
        for future in pending:
            future.cancel()


def batches(prepared: Iterable[Prepared], images: int) -> Iterator[list[Prepared]]:
    """Groups with at most ``images`` images to score; excluded members ride along."""
    batch: list[Prepared] = []
    waiting = 0
    for item in prepared:
        batch.append(item)
        waiting += item.crops is not None
        if waiting == images or len(batch) >= 4 * images:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def score_batch(batch: list[Prepared], kit: ScoringKit, signatures: SignatureWriter | None) -> list[dict[str, Any]]:
    """Part rows in the order of the shard."""
    ready = [(item, item.crops, item.image) for item in batch if item.crops is not None and item.image is not None]
    scores: Iterator[ImageScore] = iter(())
    if ready:
        found = kit.scorer.extract([crops for _, crops, _ in ready])
        shapes = [shape_of(item.member, image) for item, _, image in ready]
        scores = iter(kit.scorer.score(found, shapes, kit.bank, kit.calibration))
        if signatures is not None:
            signatures.write([item.member.key for item, *_ in ready], [item.sha256 for item, *_ in ready], found)
    now = datetime.now(UTC)
    rows = []
    for item in batch:
        row = _facts(item)
        if item.crops is not None:
            row |= asdict(next(scores)) | {"scored_at": now}
        rows.append(row)
    return rows


def shape_of(member: Member, image: DecodedFacts) -> ImageShape:
    """What decides which real images an image can be compared with."""
    return ImageShape(image.width, image.height, image.jpeg_quality, was_resized(member.sidecar))


def _facts(item: Prepared) -> dict[str, Any]:
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
