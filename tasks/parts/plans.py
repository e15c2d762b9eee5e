"""Writes and reads plans: the work of a run in one Parquet file, written while the source is listed, read group by group."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdmf_core.records import Shard
from tasks.parts.outcome import Work
from tasks.parts.store import opened, writing

_ROWS = 2000  # shards in one row group of the file, about; one row group is all that is ever held in memory
_METADATA = b"mdmf"
_SCHEMA = pa.schema(
    [("url", pa.string()), ("kind", pa.string()), ("size_bytes", pa.int64()), ("fingerprint", pa.string()),
     ("unfinished", pa.string()), ("keys", pa.list_(pa.binary())), ("generation", pa.int64()),
     ("retry", pa.list_(pa.string())), ("group", pa.int64())]
)  # fmt: skip
_Item = TypeVar("_Item")


def batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Cuts the items into lists of ``size``; the last may be shorter.

    >>> list(batched("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def write_plan(path: str, work: Iterable[Work], size: int) -> int:
    """Writes a plan while its work is listed, one row per shard. A task is then passed the plan's path and a group's number.

    Args:
        size: shards in a group.

    Returns:
        The number of groups.
    """
    together, written = max(1, _ROWS // size), 0
    with (
        writing(path) as sink,
        # Groups are found by their number: without statistics the footer of a million shards stays small.
        pq.ParquetWriter(sink, _SCHEMA, compression="zstd", write_statistics=False) as writer,
    ):
        for batch in batched(work, size * together):
            rows = [_row(one, written + number // size) for number, one in enumerate(batch)]
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), row_group_size=len(rows))
            written += -(-len(batch) // size)
        writer.add_key_value_metadata({_METADATA: json.dumps({"together": together}).encode()})
    return written


def read_plan(path: str, group: int) -> list[Work]:
    """Reads one group of a plan; no other row group is read."""
    with opened(path) as source, pq.ParquetFile(source) as file:
        together = json.loads(file.metadata.metadata[_METADATA])["together"]
        rows = file.read_row_group(group // together)
    return [_work(row) for row in rows.filter(pc.equal(rows["group"], group)).drop_columns(["group"]).to_pylist()]


def _row(work: Work, group: int) -> dict[str, Any]:
    keys = [os.fsencode(key) for key in work.shard.keys]  # names need not be valid UTF-8
    return work.shard.record() | {"keys": keys, "generation": work.generation, "retry": list(work.retry), "group": group}


def _work(row: dict[str, Any]) -> Work:
    generation, retry = row.pop("generation"), tuple(row.pop("retry"))
    return Work(Shard(**row | {"keys": tuple(map(os.fsdecode, row["keys"]))}), generation, retry)
