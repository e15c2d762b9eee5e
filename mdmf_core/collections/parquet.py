"""Parquet shards with image bytes: img2dataset's columns, a plain ``bytes`` column, or the ``image`` struct of HF datasets."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.collections.text import readable
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member

IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp")
KEY_COLUMNS = ("key", "__key__", "id", "image_id", "uid")
_CAPTION_COLUMNS = ("caption", "text")
_ROWS = 32  # held at a time


class ParquetReader:
    """Iterates a parquet shard's rows once. After the last one, ``digest`` is final.

    The digest is over (key, image bytes) row by row, since a parquet file is not read in the order of its bytes. A file
    without a key column takes the image's own path, and failing that the row's position, which is all the file gives.
    """

    def __init__(self, source: IO[bytes], max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sha256 = hashlib.sha256()
        try:
            self._file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise ShardUnfinished(f"no readable parquet footer: still being written? ({error})") from error
        names = self._file.schema_arrow.names
        self._image = image_column(names)
        self._key = next((name for name in KEY_COLUMNS if name in names), None)
        self._caption = next((name for name in _CAPTION_COLUMNS if name in names), None)

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[Member]:
        seen: set[str] = set()
        row_number = 0
        try:
            for batch in self._file.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    yield self._member(row, row_number, seen)
                    row_number += 1
        except (pa.ArrowException, OSError) as error:
            raise ShardCorrupt(f"unreadable after row {row_number}: {error}") from error

    def _member(self, row: dict[str, Any], number: int, seen: set[str]) -> Member:
        data, path = image_bytes(row.pop(self._image))
        named = row.get(self._key) if self._key else None
        key = readable(str(named) if named is not None else path or f"row-{number}")
        self._sha256.update(f"{len(key)}:{key}:{-1 if data is None else len(data)}:".encode())
        self._sha256.update(data or b"")
        caption, url = row.get(self._caption) if self._caption else None, row.get("url")
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
            caption=None if caption is None else str(caption),
            url=url if isinstance(url, str) else None,
            sidecar=json.dumps(row, default=str, ensure_ascii=False) if row else None,
            excluded=excluded,
            detail=detail,
        )


def image_column(names: Sequence[str]) -> str:
    """Which of a file's columns holds the images.

    Raises:
        ShardCorrupt: none does.
    """
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    if image is None:
        raise ShardCorrupt(f"no image column; looked for {', '.join(IMAGE_COLUMNS)} among {', '.join(names)}")
    return image


def parquet_row(source: IO[bytes], row: int) -> bytes:
    """The image bytes of one row; reads one row group, and of it one column."""
    file = pq.ParquetFile(source)
    column = image_column(file.schema_arrow.names)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return image_bytes(file.read_row_group(group, columns=[column])[column][row].as_py())[0] or b""
        row -= rows
    raise ShardCorrupt(f"row {row} is beyond the end of the file")


def image_bytes(value: Any) -> tuple[bytes | None, str | None]:
    """(bytes, path) of a cell: plain bytes, or the struct of HF datasets."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        return (data if isinstance(data, bytes) else None), (path if isinstance(path, str) else None)
    return (value if isinstance(value, bytes) else None), None
