"""Writes and reads parts: one immutable Parquet file per shard, one row per member, finished before any row is landed."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.digests import digest_of, short_id
from mdmf_core.errors import PartDamaged
from mdmf_core.records import Shard
from tasks.parts.columns import part_schema
from tasks.parts.outcome import ShardOutcome, WorkKey
from tasks.parts.store import near, opened, store_of, writing
from tasks.storage.filesystems import is_remote
from tasks.storage.local_files import file_sha256

_METADATA = b"mdmf"
_GROUP_ROWS, _GROUP_TEXT = 4096, 16 * 2**20  # rows, or characters of captions and the like, in a row group, about
_NOT_INSIDE = ("part", "part_sha256", "generation", "lost")  # fields of an outcome that its part does not record


def part_path(folder: str, shard: Shard, key: WorkKey) -> str:
    """Gives the path of the part of this shard content under this key; every run finds it there."""
    name = short_id(digest_of({"url": shard.url, "size": shard.size_bytes, "fingerprint": shard.fingerprint} | asdict(key)))
    return os.path.join(folder, "scores", f"{name}.parquet")


def list_parts(folder: str) -> list[str]:
    """Lists every part, sorted by name; an object store is asked once per thousand."""
    entries = store_of(folder).entries(os.path.join(folder, "scores"))
    return [entry.path for entry in entries if entry.path.endswith(".parquet")]


def finished_part(path: str) -> ShardOutcome | None:
    """Reads the outcome of the part that lies under ``path``; None if there is no part.

    An object store is asked for the end of the file alone: the digest is in the metadata with which the part was uploaded.

    Raises:
        PartDamaged: the file is no whole part.
    """
    with _damage(path):
        digest = store_of(path).digest(path)
        if digest is None:
            return None
        with opened(path) as file:
            return _recorded(file, path, digest)


@contextmanager
def part_at_hand(path: str) -> Iterator[ShardOutcome]:
    """Reads the outcome of a part; for the length of the block, the outcome's ``part`` is a local file.

    Every byte is read: the digest is computed from that local file, which is a copy if the part lies in an object store.

    Raises:
        PartDamaged: the file is no whole part.
    """
    with near(path) as file:
        with _damage(path), open(file, "rb") as source:
            outcome = _recorded(source, file, file_sha256(file))
        yield outcome


@contextmanager
def at_hand(outcome: ShardOutcome) -> Iterator[ShardOutcome]:
    """Gives the outcome of a part that is to be landed; for the length of the block, its ``part`` is a local file.

    A part in an object store may have been overwritten by a run whose lease expired. Its outcome is therefore read from the
    local copy itself, so that rows, counts and digest belong to one file.

    Raises:
        PartDamaged: the file is no whole part.
    """
    if outcome.part is None or not is_remote(outcome.part):
        yield outcome
        return
    with part_at_hand(outcome.part) as copied:
        yield replace(copied, generation=outcome.generation)


def _recorded(file: IO[bytes], path: str, digest: str) -> ShardOutcome:
    record: dict[str, Any] = json.loads(pq.read_metadata(file).metadata[_METADATA])
    return ShardOutcome(**record, part=path, part_sha256=digest)


@contextmanager
def _damage(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise PartDamaged(f"part {path} is damaged ({error}); remove it and run again") from error


class PartWriter:
    """Takes rows batch by batch, and at the end the outcome that they add up to.

    Rows are gathered into row groups of thousands: in groups of a batch of 32 images a part of 10,000 is twice as long, and
    landing reads it ten times slower.

    Attributes:
        outcome: what ``finished_part`` reads from the part, once the block of ``part_writer`` has ended well.
    """

    outcome: ShardOutcome

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []
        self._text = 0  # characters in their long fields

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes further rows."""
        self._rows += rows
        self._text += sum(len(row.get(name) or "") for row in rows for name in ("caption", "sidecar", "detail"))
        if len(self._rows) >= _GROUP_ROWS or self._text >= _GROUP_TEXT:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that were gathered."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=part_schema()))
        self._rows, self._text = [], 0

    def close_with(self, outcome: ShardOutcome) -> None:
        """Records the outcome in the part."""
        self.outcome = outcome
        record = {name: value for name, value in asdict(outcome).items() if name not in _NOT_INSIDE}
        self._writer.add_key_value_metadata({_METADATA: json.dumps(record).encode()})


@contextmanager
def part_writer(path: str) -> Iterator[PartWriter]:
    """Opens a part that appears under ``path``, whole and synced, only if the block ends well; otherwise nothing stays."""
    with writing(path) as sink, pq.ParquetWriter(sink, part_schema(), compression="zstd") as writer:
        part = PartWriter(writer)
        yield part
        part.flush()
    part.outcome = replace(part.outcome, part=path, part_sha256=sink.sha256, generation=0, lost=0.0)
