"""The data of one new shard: copied, compared with the keep-list, never encoded."""

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.collections.folder import slice_of
from mdmf_core.collections.formats import FORMATS, SampleCopier
from mdmf_core.collections.raw_tar import end_of_archive
from mdmf_core.collections.samples import SIDECARS
from mdmf_core.collections.text import readable
from mdmf_core.errors import KeepListError, ShardCorrupt, ShardUnfinished
from mdmf_core.keeplists.keeplist import KeepList, ListedShard
from mdmf_core.keeplists.reshard import NewShard, tar_name
from tasks.storage.checked_reads import open_file, read_bytes
from tasks.storage.filesystems import full_url, listing, open_storage
from tasks.storage.retries import storage_errors

_ROWS = 32  # of a parquet shard, held at a time
_GROUP = 64 << 20  # bytes of a row group that is written
# (key in the new tar by the key that was scored, headers and data of all files of a sample)
_Samples = Iterator[tuple[dict[str, str], list[bytes]]]


def write_tar(keep: KeepList, shard: NewShard, path: str, storage_block: str | None) -> pa.Table:
    """Writes the kept samples of tars or folders to ``path``; their rows of the keep-list, in the order of the archive.

    Column ``key`` is the key in the new tar, ``source_key`` the one that it was scored under.

    Raises:
        KeepListError: an image is gone, or is not the one that was scored; names shard and key.
    """
    tables: list[pa.Table] = []
    taken: set[str] = set()
    with open(path, "wb") as file:
        for source in shard.sources:
            rows = keep.rows(source)
            digests = dict(zip(rows["key"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
            new_keys: dict[str, str] = {}
            with _reading(source):
                copied = FORMATS[source.kind].samples
                if copied is None:
                    samples = _from_folder(source, digests, taken, storage_block)
                else:
                    samples = _from_file(copied, source, digests, storage_block)
                for keys, parts in samples:
                    file.writelines(parts)
                    taken.update(keys.values())
                    new_keys |= keys
            gone = sorted(digests.keys() - new_keys.keys())
            if gone:
                raise KeepListError(f"{source.shard_url}, {gone[0]}: not there any more; {len(gone)} kept members are missing")
            places = {key: place for place, key in enumerate(digests)}
            moved = rows.take(pa.array([places[key] for key in new_keys])).rename_columns({"key": "source_key"})
            tables.append(moved.add_column(0, "key", pa.array(new_keys.values(), pa.string())))
        file.write(end_of_archive(file.tell()))
    return pa.concat_tables(tables)


def write_parquet(keep: KeepList, shard: NewShard, path: str, storage_block: str | None) -> None:
    """Writes the kept rows of parquet shards to ``path``, all columns as they are.

    Raises:
        KeepListError: an image is gone or is not the one that was scored, or the sources have not the same columns.
    """
    writer: pq.ParquetWriter | None = None
    try:
        for source in shard.sources:
            with _reading(source), open_file(source.shard_url, storage_block) as opened:
                file = pq.ParquetFile(opened, buffer_size=1 << 20, pre_buffer=False)
                if writer is None:
                    writer = pq.ParquetWriter(path, file.schema_arrow, compression=_compression(file))
                if not writer.schema.equals(file.schema_arrow):
                    raise KeepListError(f"{source.shard_url} has other columns than the shards before it: keep the old names")
                for group in _groups(keep.filter_batches(file.iter_batches(_ROWS), source.shard_url)):
                    writer.write_table(pa.Table.from_batches(group))
    finally:
        if writer is not None:
            writer.close()


def _from_file(copied: SampleCopier, source: ListedShard, digests: dict[str, str], storage_block: str | None) -> _Samples:
    with open_file(source.shard_url, storage_block) as file:
        for sample in copied(file, source.size_bytes, digests):
            for image in sample.images:
                _require_scored(image.data, digests, source, image.key)
            yield {image.key: image.new_key for image in sample.images}, sample.parts


def _from_folder(source: ListedShard, digests: dict[str, str], taken: set[str], storage_block: str | None) -> _Samples:
    filesystem, root = open_storage(slice_of(source.shard_url)[0], storage_block)
    listed: tuple[str, dict[str, str]] = "", {}  # paths by the spelling of keys, in which every name is valid Unicode
    for key, sha256 in digests.items():
        path = f"{root.rstrip('/')}/{key}"
        folder, stem = posixpath.dirname(path), posixpath.splitext(path)[0]
        if listed[0] != folder:
            listed = folder, {readable(entry["name"]): entry["name"] for entry in listing(filesystem, folder)}
        if path not in listed[1]:
            continue
        data = read_bytes(full_url(filesystem, listed[1][path]), storage_block)
        _require_scored(data, digests, source, key)
        name = tar_name(key, taken, sha256)
        new = posixpath.splitext(name)[0]
        parts = [_entry(name, data)]
        for extension in SIDECARS:
            beside = listed[1].get(f"{stem}.{extension}")
            if beside is not None:
                parts.append(_entry(f"{new}.{extension}", read_bytes(full_url(filesystem, beside), storage_block)))
        yield {key: new}, parts


def _entry(name: str, data: bytes) -> bytes:
    """Header and data of a new file in a tar; without a time, so that the same files give the same bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf() + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _require_scored(data: bytes | memoryview, digests: dict[str, str], source: ListedShard, key: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != digests[key]:
        raise KeepListError(
            f"{source.shard_url}, {key}: sha256 {found[:12]} now, {digests[key][:12]} when it was scored; curate it again and "
            "export another keep-list"
        )


@contextmanager
def _reading(source: ListedShard) -> Iterator[None]:
    """Turns what is wrong with a source shard into a KeepListError that names it."""
    try:
        with storage_errors(source.shard_url):
            yield
    except (ShardCorrupt, ShardUnfinished, pa.ArrowException) as error:
        raise KeepListError(f"{source.shard_url}: {error}; it was whole when it was scored") from error


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches of about one row group's bytes."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(held.nbytes for held in group) >= _GROUP:
            yield group
            group = []
    if group:
        yield group


def _compression(file: pq.ParquetFile) -> Any:
    """The compression of the file's first column, which the new file takes over."""
    if not file.metadata.num_row_groups:
        return "none"
    name = file.metadata.row_group(0).column(0).compression.lower()
    return "none" if name == "uncompressed" else name
