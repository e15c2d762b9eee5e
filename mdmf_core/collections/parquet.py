"""Parquet shards with image bytes: img2dataset's columns, a plain ``bytes`` column, or the ``image`` struct of HF datasets."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.collections.text import readable
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member

IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp")
KEY_COLUMNS = ("key", "__key__", "id", "image_id", "uid")
MAX_COLUMN_BYTES = 2 << 30  # of one column in one row group, uncompressed, as the footer states it
_CAPTION_COLUMNS = ("caption", "text")
_ROWS = 32  # held at a time
_MAX_TEXT = 1 << 20  # longer captions and json are left out, as in tars
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_SMALLEST = 12  # bytes: the mark, the length of the footer, the mark
# What pyarrow raises for bytes that it cannot make sense of, and for values that Python cannot hold.
_UNREADABLE = (pa.ArrowException, ValueError, TypeError, LookupError, OverflowError, RecursionError)


class ParquetReader:
    """Iterates a parquet shard's rows once. After the last one, ``digest`` is final.

    The digest is over (key, image bytes) row by row, since a parquet file is not read in the order of its bytes. A file
    without a key column takes the image's own path, and failing that the row's position, which is all the file gives.
    """

    def __init__(self, source: IO[bytes], max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sha256 = hashlib.sha256()
        self._file = _opened(source)
        schema = self._file.schema_arrow
        self._image = image_column(schema)
        self._key = next((name for name in KEY_COLUMNS if name in schema.names), None)
        self._caption = next((name for name in _CAPTION_COLUMNS if name in schema.names), None)

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[Member]:
        """Raises ShardCorrupt: damaged pages, values that cannot be read, or not the rows that the footer states."""
        seen: set[str] = set()
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
            for batch in self._file.iter_batches(batch_size=_ROWS):
                rows = _rows(batch)
                number += len(rows)
                yield rows

    def _member(self, row: dict[str, Any], number: int, seen: set[str]) -> Member:
        data, path = image_bytes(row.pop(self._image))
        named = _text(row.get(self._key)) if self._key else None
        key = readable(named if named is not None else path or f"row-{number}")
        self._sha256.update(f"{len(key)}:{key}:{-1 if data is None else len(data)}:".encode())
        self._sha256.update(data or b"")
        caption, url = _text(row.get(self._caption)) if self._caption else None, row.get("url")
        excluded, detail = None, ""
        if key in seen:
            excluded, detail = ExclusionReason.DUPLICATE_KEY, "key seen before in this shard"
        elif data is None:
            excluded, detail = ExclusionReason.EMPTY, f"null in column {self._image}"
        elif len(data) > self._max_bytes:
            excluded, detail = ExclusionReason.TOO_LARGE, f"{len(data)} bytes, limit {self._max_bytes}"
        seen.add(key)
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


def parquet_row(source: IO[bytes], row: int) -> bytes:
    """The image bytes of one row; reads one row group, and of it one column."""
    file = _opened(source)
    column = image_column(file.schema_arrow)
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
    """The file with its footer read and its claims checked, before any of its data is."""
    size = source.seek(0, 2)
    source.seek(max(0, size - 4))
    ending = source.read(4)
    source.seek(0)
    if ending == _ENCRYPTED:
        raise ShardCorrupt("encrypted parquet: this pipeline takes no keys")
    if size < _SMALLEST or ending != _MAGIC:
        raise ShardUnfinished("no parquet footer at its end: still being written?")
    with _damage(lambda: "damaged parquet footer"):
        file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        for group in range(file.num_row_groups):
            _require_fits(file.metadata.row_group(group), group)
        return file


def _require_fits(row_group: Any, number: int) -> None:
    for index in range(row_group.num_columns):
        column = row_group.column(index)
        if not 0 <= column.total_uncompressed_size <= MAX_COLUMN_BYTES:
            raise ShardCorrupt(
                f"column {column.path_in_schema} of row group {number} claims {column.total_uncompressed_size} bytes "
                f"uncompressed, limit {MAX_COLUMN_BYTES}: write smaller row groups"
            )


def image_column(schema: pa.Schema) -> str:
    """Which of a file's columns holds the images.

    Raises:
        ShardCorrupt: none does.
    """
    found = [name for name in IMAGE_COLUMNS if schema.names.count(name) == 1]
    for name in found:
        if _holds_bytes(schema.field(name).type):
            return name
    if found:
        kinds = ", ".join(f"{name} is {str(schema.field(name).type)[:60]}" for name in found)
        raise ShardCorrupt(f"no image column of bytes: {kinds}; binary is needed, or a struct with binary `bytes`")
    names = ", ".join(schema.names[:20]) + (f" and {len(schema.names) - 20} more" if len(schema.names) > 20 else "")
    raise ShardCorrupt(f"no image column; looked for {', '.join(IMAGE_COLUMNS)} among {names}")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    plain = (pa.types.is_null, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in plain)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows as Python values; text that is not valid UTF-8, which pyarrow itself refuses, with visible escapes."""
    columns = []
    for column in batch.columns:
        if pa.types.is_string(column.type):
            columns.append([_text(value) for value in column.cast(pa.binary()).to_pylist()])
        else:
            columns.append(column.to_pylist())
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


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
