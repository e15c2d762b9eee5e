"""New shards from a keep-list: kept samples copied byte for byte with all their files, never encoded again."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.errors import ArtifactError, SourceError
from mdmf_core.keeplists.files import require_made_by
from mdmf_core.keeplists.keeplist import KeepList
from mdmf_core.keeplists.reshard import NewShard, renumbered, under_same_names
from tasks.keeplists.new_shards import write_parquet, write_tar
from tasks.keeplists.selection import made_by
from tasks.storage.checked_reads import open_file, read_bytes
from tasks.storage.filesystems import entry_of, full_url, is_remote, listing, open_storage
from tasks.storage.local_files import file_sha256
from tasks.storage.publishing import whole_file
from tasks.warehouse.warehouse import Warehouse

_CHUNK = 1 << 20
_JOB = "reshard.json"  # what a folder of new shards is made from; written first


@dataclass(frozen=True)
class Resharded:
    """What a run did."""

    shards: int
    samples: int
    already_there: int  # shards that an earlier run had finished


def reshard(
    keep_list: str,
    out: str,
    samples_per_shard: int | None = None,
    warehouse: Warehouse | None = None,
    workers: int = 4,
    storage_block: str | None = None,
) -> Resharded:
    """Copies what a keep-list keeps into new shards below ``out``; run it again to go on where it stopped.

    A new shard is there whole or not at all, and its ``_stats.json`` comes last, so that a shard without one is made again.

    Args:
        samples_per_shard: number the new shards and put about so many samples in each; None = one for each old shard.
        warehouse: refuse the keep-list unless it was made by the scorer, bank and calibration that this one shows.

    Raises:
        KeepListError: damaged, made by another scorer, or the corpus is not the one that was scored (shard and key are named).
        ArtifactError: ``out`` holds something else; nothing is overwritten.
        SourceError: a store does not answer.
    """
    out = out.rstrip("/")
    with local_keep_list(keep_list, storage_block) as directory:
        keep = KeepList(directory, verify="all")
        if warehouse:
            with warehouse.connect(read_only=True) as connection:
                require_made_by(keep.manifest, **{kind: facts["digest"] for kind, facts in made_by(connection).items()})
        shards = list(keep.shards.values())
        if samples_per_shard:
            planned = renumbered(shards, samples_per_shard, lambda shard: keep.kept(shard.shard_url))
        else:
            planned = under_same_names(shards)
        made_from = file_sha256(os.path.join(directory, "manifest.json"))
        job = {
            "keep_list": made_from,
            "samples_per_shard": samples_per_shard,
            "shards": len(planned),
            "manifest": keep.manifest,
        }
        with _claimed(out, job, storage_block), ThreadPoolExecutor(workers, thread_name_prefix="reshard") as pool:
            futures = [pool.submit(_make, keep, shard, out, made_from, storage_block) for shard in planned]
            try:
                made = sum(future.result() for future in futures)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return Resharded(len(planned), sum(shard.samples for shard in planned), len(planned) - made)


@contextmanager
def local_keep_list(url: str, storage_block: str | None = None) -> Iterator[str]:
    """The keep-list's folder on local disk for the length of the block; one on an object store is downloaded."""
    if not is_remote(url):
        yield url
        return
    filesystem, path = open_storage(url, storage_block)
    with tempfile.TemporaryDirectory(prefix="mdmf-") as folder:
        for entry in listing(filesystem, path.rstrip("/")):
            copy = os.path.join(folder, os.path.basename(entry["name"]))
            with open_file(full_url(filesystem, entry["name"]), storage_block) as source, open(copy, "wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
        yield folder


@contextmanager
def _claimed(out: str, job: dict[str, Any], storage_block: str | None) -> Iterator[None]:
    """Writes down what ``out`` is made from, or finds the same there; on local disk one process at a time has it.

    Raises:
        ArtifactError: it holds something else, or another process is writing it.
    """
    filesystem, path = open_storage(out, storage_block)
    filesystem.invalidate_cache()  # what others wrote since
    if listing(filesystem, path):
        _require_same_job(out, job, storage_block)
    else:
        with whole_file(f"{out}/{_JOB}", storage_block) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(job, file, indent=2)
    if is_remote(out):
        yield
        return
    with open(os.path.join(path, _JOB), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        except OSError as error:
            raise ArtifactError(f"another process is writing {out}; wait for it") from error
        for folder, _, names in os.walk(path):
            for name in names:
                if name.endswith(".tmp"):
                    os.remove(os.path.join(folder, name))  # of a run that was killed
        yield


def _require_same_job(out: str, job: dict[str, Any], storage_block: str | None) -> None:
    try:
        earlier = json.loads(read_bytes(f"{out}/{_JOB}", storage_block))
    except (SourceError, ValueError) as error:
        raise ArtifactError(
            f"{out} holds files that reshard did not write; nothing is overwritten: choose another name"
        ) from error
    for name in ("keep_list", "samples_per_shard"):
        if earlier.get(name) != job[name]:
            there, now = (str(value)[:12] for value in (earlier.get(name), job[name]))
            raise ArtifactError(f"{out} is made from another {name} ({there}, now {now}): choose another name")


def _finished(out: str, shard: NewShard, made_from: str, storage_block: str | None) -> bool:
    try:
        stats = json.loads(read_bytes(f"{out}/{shard.name.rpartition('.')[0]}_stats.json", storage_block))
        entry = entry_of(f"{out}/{shard.name}", *open_storage(f"{out}/{shard.name}", storage_block))
        return entry is not None and stats["keep_list"] == made_from and entry["size"] == stats["bytes"]
    except (SourceError, ValueError, KeyError):
        return False


def _make(keep: KeepList, shard: NewShard, out: str, made_from: str, storage_block: str | None) -> bool:
    """Writes a new shard: its data, for tars the rows of the keep-list beside it, and last its stats; False if it is there."""
    if _finished(out, shard, made_from, storage_block):
        return False
    rows: pa.Table | None = None
    with whole_file(f"{out}/{shard.name}", storage_block) as temporary:
        if shard.kind == "parquet":
            write_parquet(keep, shard, temporary, storage_block)
        else:
            rows = write_tar(keep, shard, temporary, storage_block)
        stats = {"count": shard.samples, "successes": shard.samples, "keep_list": made_from}
        stats |= {"bytes": os.path.getsize(temporary), "sha256": file_sha256(temporary)}
    stem = f"{out}/{shard.name.rpartition('.')[0]}"
    if rows is not None:
        with whole_file(f"{stem}.parquet", storage_block) as temporary:
            pq.write_table(rows, temporary, compression="zstd")
    with whole_file(f"{stem}_stats.json", storage_block) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(stats | {"sources": [source.shard_url for source in shard.sources]}, file, indent=2)
    return True
