"""Parquet shards with image bytes, plain or in the struct of hub data sets. Which column is which: ``parquet_columns``."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.collections.parquet_columns import columns_of, image_column
from mdmf_core.collections.text import readable
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member

MAX_COLUMN_BYTES = 2 << 30  # of one column in one row group, uncompressed, as the footer states it
_ROWS = 32  # held at a time
_MAX_TEXT = 1 << 20  # longer captions and json are left out, as in tars
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_SMALLEST = 12  # bytes: the mark, the length of the footer, the mark
# What pyarrow raises for bytes that it cannot make sense of, and for values that Python cannot hold.
_UNREADABLE = (pa.ArrowException, ValueError, TypeError, LookupError, OverflowError, RecursionError)


class ParquetReader:
    """Iterates a parquet shard's rows once. After the last one, ``digest`` is final.

    The digest is over (name, image bytes) row by row, since a parquet file is not read in the order of its bytes. A row's name
    is in the key column, or else the image's own path, and failing that the row's position, which is all the file gives.
    An image whose name came before with other bytes is another image: its key has the start of its sha256 behind the name.
    """

    def __init__(self, source: IO[bytes], max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sha256 = hashlib.sha256()
        self._file = _opened(source)
        self._columns = columns_of(self._file.schema_arrow)
        _require_fit(self._file, self._columns.needed)

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[Member]:
        """Raises ShardCorrupt: damaged pages, images that cannot be read, or not the rows that the footer states."""
        seen: dict[str, str] = {}  # sha256 by key
        row_number = 0
        for rows in self._batches():
            for row in rows:
                yield self._member(row, row_number, seen)
                row_number += 1
        if row_number != self._file.metadata.num_rows:
            raise ShardCorrupt(f"the footer states {self._file.metadata.num_rows} rows, the file holds {row_number}")

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        number = 0
        with _damage(lambda: f"unreadable after row {number}"):
            for batch in self._file.iter_batches(batch_size=_ROWS, columns=self._columns.needed):
                rows = _rows(batch)
                number += len(rows)
                yield rows

    def _member(self, row: dict[str, Any], number: int, seen: dict[str, str]) -> Member:
        columns = self._columns
        data, path = image_bytes(row.pop(columns.image))
        named = _text(row.get(columns.key)) if columns.key else None
        name = readable(named if named is not None else path or f"row-{number}")
        self._sha256.update(f"{len(name)}:{name}:{-1 if data is None else len(data)}:".encode())
        self._sha256.update(data or b"")
        sha256 = sha256_hex(data or b"")
        key = name if seen.get(name, sha256) == sha256 else f"{name}#{sha256[:12]}"
        excluded, detail = self._exclusion(data, path)
        if key in seen:
            excluded, detail = ExclusionReason.DUPLICATE_KEY, "key seen before in this shard, with the same bytes"
        seen[key] = sha256
        caption = _text(row.get(columns.caption)) if columns.caption else None
        url = row.get(columns.url) if columns.url else None
        return Member(
            key,
            b"" if excluded or data is None else data,
            len(data or b""),
            locator=number,
            caption=caption if caption is None or len(caption) <= _MAX_TEXT else None,
            url=url if isinstance(url, str) else None,
            sidecar=_sidecar(row),
            excluded=excluded,
            detail=detail,
        )

    def _exclusion(self, data: bytes | None, path: str | None) -> tuple[ExclusionReason | None, str]:
        if data is None and path:
            return (
                ExclusionReason.EMPTY,
                f"only a path, {path[:200]}, no bytes: write those of the files into the parquet file",
            )
        if data is None:
            return ExclusionReason.EMPTY, f"null in column {self._columns.image}"
        if len(data) > self._max_bytes:
            return ExclusionReason.TOO_LARGE, f"{len(data)} bytes, limit {self._max_bytes}"
        return None, ""


def parquet_row(source: IO[bytes], row: int) -> bytes:
    """The image bytes of one row; reads one row group, and of it one column."""
    file = _opened(source)
    column = image_column(file.schema_arrow)
    _require_fit(file, [column])
    with _damage(lambda: f"row {row} is unreadable"):
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                return image_bytes(file.read_row_group(group, columns=[column])[column][row].as_py())[0] or b""
            row -= rows
    raise ShardCorrupt(f"row {row} is beyond the end of the file")


@contextmanager
def _damage(where: Callable[[], str]) -> Iterator[None]:
    """Turns what pyarrow raises on damaged data into ShardCorrupt; what the store raises passes as it is."""
    try:
        yield
    except _UNREADABLE as error:
        raise ShardCorrupt(f"{where()}: {error}") from error
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
            raise
        raise ShardCorrupt(f"{where()}: {error}") from error


def _opened(source: IO[bytes]) -> pq.ParquetFile:
    """The file with its footer read, and none of its data."""
    size = source.seek(0, 2)
    source.seek(max(0, size - 4))
    ending = source.read(4)
    source.seek(0)
    if ending == _ENCRYPTED:
        raise ShardCorrupt("encrypted parquet: this pipeline takes no keys")
    if size < _SMALLEST or ending != _MAGIC:
        raise ShardUnfinished("no parquet footer at its end: still being written?")
    with _damage(lambda: "damaged parquet footer"):
        return pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)


def _require_fit(file: pq.ParquetFile, columns: Collection[str]) -> None:
    """Raises ShardCorrupt when a column that is read claims more bytes than memory may take."""
    needed = set(columns)
    with _damage(lambda: "damaged parquet footer"):
        for number in range(file.num_row_groups):
            row_group = file.metadata.row_group(number)
            for index in range(row_group.num_columns):
                column = row_group.column(index)
                read = column.path_in_schema in needed or column.path_in_schema.partition(".")[0] in needed
                if read and not 0 <= column.total_uncompressed_size <= MAX_COLUMN_BYTES:
                    raise ShardCorrupt(
                        f"column {column.path_in_schema} of row group {number} claims {column.total_uncompressed_size} bytes "
                        f"uncompressed, limit {MAX_COLUMN_BYTES}: write smaller row groups"
                    )


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = [_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """The cells as Python values; text that is not valid UTF-8, which pyarrow itself refuses, with visible escapes.

    Values that Python cannot hold, such as the year 10000, become text.
    """
    if any(test(column.type) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        return [_text(value) for value in column.cast(pa.large_binary()).to_pylist()]
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        pass
    try:
        return list(column.cast(pa.string()).to_pylist())
    except pa.ArrowException:  # nested ones have no text either
        return [None] * len(column)


def _text(value: Any) -> str | None:
    """Any value as text; None stays None."""
    if value is None:
        return None
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _sidecar(row: dict[str, Any]) -> str | None:
    """The other columns as JSON."""
    text = json.dumps(row, default=_text, ensure_ascii=False) if row else None
    return text if text is None or len(text) <= _MAX_TEXT else None


def image_bytes(value: Any) -> tuple[bytes | None, str | None]:
    """(bytes, path) of a cell: plain bytes, or the struct of HF datasets."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        return (data if isinstance(data, bytes) else None), (path if isinstance(path, str) else None)
    return (value if isinstance(value, bytes) else None), None
