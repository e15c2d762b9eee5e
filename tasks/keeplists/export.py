"""Keep-lists out of the warehouse: one query, written as a folder that other tools read."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from mdmf_core.choices import FileFormat, Uid
from mdmf_core.errors import MdmfError
from mdmf_core.keeplists.files import FORMAT, datacomp_uids
from tasks.keeplists.selection import Selection, counts, keep_query, made_by, plain_sql, rows_query
from tasks.storage.local_files import file_sha256
from tasks.storage.publishing import new_directory
from tasks.warehouse.attach import quoted
from tasks.warehouse.warehouse import Warehouse

# A reader of one shard reads one or two of the groups.
_PARQUET = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 32768, KV_METADATA {{mdmf: {metadata}}}"
_MEMORY = "2GB"  # DuckDB sorts on disk beyond it
_BATCH = 1 << 16

# Sorted by shard, the rows of each lie together: first_row and kept find them again.
_SHARDS = """
SELECT sh.url AS shard_url, sh.kind, sh.size_bytes, sh.digest, sh.members, sh.scored, coalesce(k.kept, 0) AS kept,
       (sum(coalesce(k.kept, 0)) OVER (ORDER BY sh.url) - coalesce(k.kept, 0))::BIGINT AS first_row
FROM shards sh JOIN promoted USING (scorer_id, bank_id, calibration_id)
LEFT JOIN (SELECT shard_url, count(*) AS kept FROM read_parquet({keep}) GROUP BY shard_url) k ON k.shard_url = sh.url
WHERE sh.state = 'complete' AND NOT sh.superseded ORDER BY sh.url
"""


class ExportSettings(BaseModel):
    """Which images are kept, and how the list is written."""

    warehouse: str
    out: str  # {time} in it becomes the UTC time, for schedules
    selection: Selection
    formats: tuple[FileFormat, ...] = ("parquet",)
    uid: Uid = "sidecar"
    storage_block: str | None = None


class Exported(BaseModel):
    """What an export wrote."""

    directory: str
    rows: int
    shards: int
    decisions: dict[str, int]  # of the whole corpus
    decided_by_review: dict[str, int]  # of these, what a reviewer said
    excluded: dict[str, int]  # reason and members
    meaning: str
    seconds: float

    def line(self) -> str:
        """The figures in one line."""
        decisions = ", ".join(f"{count} {name}" for name, count in self.decisions.items()) or "none scored"
        reviewed = f" ({sum(self.decided_by_review.values())} by reviewers)" if self.decided_by_review else ""
        excluded = f", {sum(self.excluded.values())} excluded" if self.excluded else ""
        return f"{self.rows} images in {self.directory}; the corpus: {decisions}{reviewed}{excluded} in {self.shards} shards"

    def markdown(self) -> str:
        """The figures with the reasons of exclusions, as a Markdown page."""
        rows = [f"| {name} | {count} |" for name, count in (self.decisions | self.excluded).items()]
        return "\n".join(
            [self.line(), "", self.meaning, "", "| decision, or reason without one | members |", "|---|---:|", *rows]
        )


def export(settings: ExportSettings) -> Exported:
    """Writes ``keep.parquet``, ``shards.parquet``, ``manifest.json`` and what else is asked for into a new directory.

    Memory stays bounded; the warehouse is held for reading until ``keep.parquet`` is written.

    Raises:
        ArtifactError: the directory is there already.
        WarehouseError: no such warehouse, or it holds nothing.
        MdmfError: an unknown column, a budget that cannot be kept, or images without the uid that is asked for.
    """
    started = datetime.now(UTC)
    out = settings.out.replace("{time}", started.strftime("%Y%m%dT%H%M%SZ"))
    with new_directory(out, "manifest.json", settings.storage_block) as folder:
        keep = os.path.join(folder, "keep.parquet")
        with _connected(Warehouse.at(settings.warehouse), folder) as connection:
            manifest = _write_rows(connection, settings, folder, started)
        with _connected(None, folder) as connection:
            if "csv" in settings.formats:
                _copy(connection, f"FROM read_parquet({quoted(keep)})", os.path.join(folder, "keep.csv"), "FORMAT csv, HEADER")
            if "datacomp" in settings.formats:
                manifest["uids"] = _write_uids(connection, keep, os.path.join(folder, "keep.npy"))
        shutil.rmtree(os.path.join(folder, "spill"), ignore_errors=True)
        manifest["files"] = {name: _facts(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
        with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
    return Exported(
        directory=out, rows=manifest["rows"], shards=manifest["shards"]["complete"], decisions=manifest["decisions"],
        decided_by_review=manifest["decided_by_review"], excluded=manifest["excluded"],
        meaning=manifest["meaning"], seconds=(datetime.now(UTC) - started).total_seconds(),
    )  # fmt: skip


def _facts(path: str) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "bytes": os.path.getsize(path)}


@contextmanager
def _connected(warehouse: Warehouse | None, folder: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connects to the warehouse, read-only, or to DuckDB without one; what does not fit in memory goes to ``folder``."""
    with warehouse.connect(read_only=True) if warehouse else duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute(f"SET temp_directory = {quoted(os.path.join(folder, 'spill'))}")
        yield connection


def _write_rows(
    connection: duckdb.DuckDBPyConnection, settings: ExportSettings, folder: str, started: datetime
) -> dict[str, Any]:
    """Writes keep.parquet and shards.parquet; the manifest without its files."""
    selection = settings.selection
    producers = made_by(connection)
    chosen = keep_query(connection, selection)
    manifest = {
        "format": FORMAT,
        "created_at": started.isoformat(timespec="seconds"),
        "code_version": version("mdmf"),
        "warehouse": os.path.abspath(settings.warehouse),
        **producers,
        "selection": selection.model_dump(),
        "query": chosen,
        "meaning": _meaning(selection),
        **counts(connection, selection),
        "shards": _shard_counts(connection),
    }
    uid = settings.uid if "datacomp" in settings.formats else "none"
    keep = os.path.join(folder, "keep.parquet")
    with plain_sql("the export"):
        ((rows,),) = _copy(connection, rows_query(chosen, uid), keep, _PARQUET.format(metadata=quoted(json.dumps(manifest))))
        _copy(connection, _SHARDS.format(keep=quoted(keep)), os.path.join(folder, "shards.parquet"), "FORMAT parquet")
    return manifest | {"rows": rows}


def _copy(connection: duckdb.DuckDBPyConnection, query: str, path: str, options: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"COPY ({query}) TO {quoted(path)} ({options})").fetchall()


def _shard_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    states = connection.execute("SELECT state, count(*) FROM accounting GROUP BY state").fetchall()
    return {"complete": 0, "deferred": 0, "failed": 0} | dict(states)


def _meaning(selection: Selection) -> str:
    """What is in the list and what is not, in words."""
    names = {"surely": "flagged surely", "discoveries": "among the discoveries"}
    chosen = "chosen by a query" if selection.sql else f"{names.get(selection.which, selection.which)} at {selection.budget}"
    unsure = {
        "keep": "; unsure images are in, since nothing speaks for or against them",
        "drop": "; unsure images are out, though nothing speaks against them",
    }[selection.unsure]
    excluded = f" except {', '.join(selection.keep_excluded)}" if selection.keep_excluded else ""
    return (
        f"scored images {chosen}{unsure if selection.which == 'kept' and not selection.sql else ''}"
        f"{'; of these only where ' + selection.where if selection.where else ''}; members without a score are out{excluded}; "
        "shards that are not complete are not spoken for"
    )


def _write_uids(connection: duckdb.DuckDBPyConnection, keep: str, path: str) -> int:
    """DataComp's sorted list, each uid once: its resharder writes an image as often as its uid is listed.

    Raises:
        MdmfError: images without such a uid.
    """
    source = f"FROM read_parquet({quoted(keep)})"
    ((bare, distinct),) = connection.execute(f"SELECT count(*) FILTER (uid IS NULL), count(DISTINCT uid) {source}").fetchall()
    if bare:
        raise MdmfError(
            f"{bare} of the images have no uid of 32 hexadecimal digits, neither in their json nor as their key; "
            "--uid image_id takes the warehouse's own ids"
        )
    ordered: pa.RecordBatchReader = connection.sql(f"SELECT DISTINCT uid {source} ORDER BY uid").to_arrow_reader(_BATCH)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(np.dtype("u8,u8")), "fortran_order": False, "shape": (distinct,)}
        )
        for batch in ordered:
            file.write(datacomp_uids(batch["uid"].to_pylist()).tobytes())
    return int(distinct)
