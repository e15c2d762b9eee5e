"""Parts: one immutable Parquet file per shard, one row per member, written before anything is visible."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.digests import digest_of, short_id
from mdmf_core.errors import PartDamaged
from mdmf_core.records import Shard
from tasks.storage import atomic_path, file_sha256

_METADATA = b"mdmf"
_NOT_INSIDE = ("part", "part_sha256", "generation")  # what a part cannot say of itself
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("locator", pa.int64()),
        ("jpeg_quality", pa.int32()),
        ("border_px", pa.int32()),
        ("resized", pa.bool_()),
        ("caption", pa.string()),
        ("url", pa.string()),
        ("sidecar", pa.string()),
        ("reason", pa.string()),  # null = scored
        ("detail", pa.string()),
        ("score", pa.float64()),
        ("mmd2", pa.float64()),
        ("cross_term", pa.float64()),
        ("self_term", pa.float64()),
        ("top_k", pa.float64()),
        ("top_patch", pa.int32()),
        ("patches", pa.int32()),
        ("p_value", pa.float64()),
        ("domain", pa.string()),
        ("in_support", pa.bool_()),
        ("scored_at", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True)
class WorkKey:
    """What a score depends on beside the shard: whole sha256 digests."""

    scorer_id: str
    bank_id: str
    calibration_id: str

    @property
    def ids(self) -> list[str]:
        """As the tables have them: the first 128 bits as UUIDs, in the order of the fields."""
        return [str(short_id(digest)) for digest in (self.scorer_id, self.bank_id, self.calibration_id)]


@dataclass(frozen=True)
class Work:
    """One shard of a plan."""

    shard: Shard
    generation: int  # of its newest rows in the warehouse, 0 = none
    retry: tuple[str, ...] = ()  # read only the members that were excluded for these reasons; empty = all members


@dataclass(frozen=True)
class ShardOutcome:
    """What became of one shard, small enough to pass between tasks. ``part`` is a path, None unless complete.

    A reason of a deferred or failed shard begins with its class and a colon: ``storage``, ``unfinished``, ``corrupt``,
    ``killed`` or ``error``.
    """

    url: str
    kind: str
    size_bytes: int
    fingerprint: str
    state: str  # complete | deferred | failed | elsewhere (another run is at it)
    reason: str | None
    digest: str | None
    members: int
    scored: int
    excluded: int
    seconds: float
    run_id: str
    part: str | None
    part_sha256: str | None = None  # of the part's file
    generation: int = 0  # of the lease under which it was made


def without_part(shard: Shard, state: str, reason: str, run_id: str, seconds: float = 0.0) -> ShardOutcome:
    """The outcome of a shard that gave no rows."""
    return ShardOutcome(
        shard.url, shard.kind, max(shard.size_bytes, 0), shard.fingerprint, state, reason, None, 0, 0, 0, seconds, run_id, None
    )


def part_path(folder: str, shard: Shard, key: WorkKey) -> str:
    """Where the part of this shard content under this key lies; the same for every run."""
    name = short_id(digest_of({"url": shard.url, "size": shard.size_bytes, "fingerprint": shard.fingerprint} | asdict(key)))
    return os.path.join(folder, "scores", f"{name}.parquet")


def work_name(url: str, key: WorkKey) -> str:
    """Under which one run at a time works on a shard, whatever its content."""
    return str(short_id(digest_of({"url": url} | asdict(key))))


def finished_part(path: str) -> ShardOutcome | None:
    """The outcome that an earlier run left in ``path`` before it could land it; None if there is none."""
    return read_part(path) if os.path.exists(path) else None


def read_part(path: str) -> ShardOutcome:
    """The outcome that a part records, with the digest of its file.

    Raises:
        PartDamaged: it is no whole part.
    """
    try:
        record: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[_METADATA])
        return ShardOutcome(**record, part=path, part_sha256=file_sha256(path))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise PartDamaged(f"part {path} is damaged ({error}); remove it and run again") from error


class PartWriter:
    """Takes rows batch by batch, and at the end the outcome that they add up to."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._writer.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA))

    def close_with(self, outcome: ShardOutcome) -> None:
        record = {name: value for name, value in asdict(outcome).items() if name not in _NOT_INSIDE}
        self._writer.add_key_value_metadata({_METADATA: json.dumps(record).encode()})


@contextmanager
def part_writer(path: str) -> Iterator[PartWriter]:
    """A part that appears under ``path`` only if the block ends well, whole and fsynced; nothing stays otherwise."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as sink,  # the writer would leave its own file open when the disk is full
        pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer,
    ):
        yield PartWriter(writer)


def write_plan(path: str, groups: Iterable[Sequence[Work]]) -> None:
    """The plan as one Parquet file, one row per shard, so that tasks are passed a path and a number."""
    rows = [
        work.shard.record()
        | {"keys": [os.fsencode(key) for key in work.shard.keys]}  # names need not be valid UTF-8
        | {"generation": work.generation, "retry": list(work.retry), "group": number}
        for number, group in enumerate(groups)
        for work in group
    ]
    schema = pa.schema(
        [("url", pa.string()), ("kind", pa.string()), ("size_bytes", pa.int64()), ("fingerprint", pa.string()),
         ("unfinished", pa.string()), ("keys", pa.list_(pa.binary())), ("generation", pa.int64()),
         ("retry", pa.list_(pa.string())), ("group", pa.int64())]
    )  # fmt: skip
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def read_plan(path: str, group: int) -> list[Work]:
    """One group of a plan."""
    rows = pq.read_table(path, filters=[("group", "=", group)]).drop_columns(["group"]).to_pylist()
    return [
        Work(
            generation=row.pop("generation"),
            retry=tuple(row.pop("retry")),
            shard=Shard(**row | {"keys": tuple(map(os.fsdecode, row["keys"]))}),
        )
        for row in rows
    ]
