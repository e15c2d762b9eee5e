"""Verdicts of people on images in the warehouse: kept with who, when and why, and never changed."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa

from mdmf_core.digests import sha256_hex
from mdmf_core.errors import MdmfError
from tasks.reviews.csv_files import Review, cell, parse, refuse
from tasks.storage.checked_reads import read_bytes
from tasks.warehouse.commits import commit
from tasks.warehouse.migrations import migrate
from tasks.warehouse.query_rows import Records, records
from tasks.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class Imported:
    """Says what an import of verdicts did."""

    new: int
    known: int  # the reviewer had given this verdict before
    blank: int  # lines without a verdict


@dataclass(frozen=True)
class _Image:
    """What the warehouse knows of the image of one line."""

    sha256: str
    shard_id: str
    key: str
    shard_url: str


def import_reviews(warehouse: Warehouse, path: str, reviewer: str | None = None) -> Imported:
    """Enters the verdicts of a CSV file, all or none. Importing a file twice changes nothing.

    Args:
        reviewer: who it was where the file does not say.

    Raises:
        MdmfError: a file that cannot be read or used, an image that the warehouse lacks, two verdicts on one image.
    """
    if not warehouse.exists():
        raise MdmfError(f"no warehouse at {warehouse}; name the one whose images were reviewed with --warehouse")
    data, now = read_bytes(path), datetime.now(UTC)
    try:
        found, blank = parse(data.decode(), reviewer, now)
        with warehouse.connect() as connection:
            migrate(connection)
            new = commit(connection, partial(_enter, connection, found, sha256_hex(data), now))
    except ValueError as error:  # UnicodeDecodeError is one
        raise MdmfError(f"{path}: {error}; nothing was imported") from error
    return Imported(new, len(found) - new, blank)


def _enter(connection: duckdb.DuckDBPyConnection, found: Sequence[Review], file_sha256: str, now: datetime) -> int:
    images = _images(connection, found)
    _require_one_verdict(found, images)
    said = _said(connection, {image.sha256 for image in images})
    rows = [
        {"image_id": review.image_id, "sha256": image.sha256, "shard_id": image.shard_id, "key": image.key,
         "verdict": review.verdict, "reviewer": review.reviewer, "reason": review.reason,
         "reviewed_at": review.reviewed_at or now, "imported_at": now, "file_sha256": file_sha256}
        for review, image in zip(found, images, strict=True)
        if not _is_known(review, said[image.sha256, review.reviewer], file_sha256)
    ]  # fmt: skip
    if rows:
        schema = pa.schema([(name, pa.timestamp("us", "UTC") if name.endswith("_at") else pa.string()) for name in rows[0]])
        connection.register("given", pa.Table.from_pylist(rows, schema=schema))
        connection.execute("INSERT INTO reviews BY NAME SELECT * FROM given")
        connection.unregister("given")
    return len(rows)


def _images(connection: duckdb.DuckDBPyConnection, found: Sequence[Review]) -> list[_Image]:
    """Returns the image of every line; refuses a line whose image the warehouse lacks or knows under another key or URL."""
    connection.register("given", pa.table({"image_id": pa.array([review.image_id for review in found], pa.string())}))
    known = {
        image_id: _Image(*facts)
        for image_id, *facts in connection.execute(
            "SELECT i.image_id::VARCHAR, i.sha256, i.shard_id::VARCHAR, i.key, any_value(sh.url) FROM images i "
            "JOIN shards sh USING (shard_id) WHERE i.image_id IN (SELECT TRY_CAST(image_id AS UUID) FROM given) GROUP BY ALL"
        ).fetchall()
    }
    connection.unregister("given")
    problems = []
    for review in found:
        image = known.get(review.image_id)
        if image is None:
            problems.append(f"line {review.line}: the warehouse has no image {review.image_id!r}")
        elif not _names(review.key, image.key) or not _names(review.shard_url, image.shard_url):
            problems.append(
                f"line {review.line}: image {review.image_id} is {image.key!r} of {image.shard_url}, "
                f"not {review.key or image.key!r} of {review.shard_url or image.shard_url}"
            )
    refuse(problems)
    return [known[review.image_id] for review in found]


def _names(given: str, text: str) -> bool:
    """Tells whether a file means this key or URL: as it stands, as `mdmf review sample` writes it, or not given."""
    return given in ("", text, cell(text))


def _require_one_verdict(found: Sequence[Review], images: Sequence[_Image]) -> None:
    """Refuses lines that say the same twice, and lines of one moment of which none would be the newest."""
    lines: dict[tuple[Any, ...], Review] = {}
    problems = []
    for review, image in zip(found, images, strict=True):
        same = lines.setdefault((image.sha256, review.reviewed_at), review)
        if same.verdict != review.verdict:
            problems.append(
                f"lines {same.line} and {review.line}: {same.verdict} and {review.verdict} for the same image, and no "
                "reviewed_at that says which is newer"
            )
        same = lines.setdefault((review.image_id, review.reviewer, review.reviewed_at), review)
        if same is not review and same.verdict == review.verdict:
            problems.append(f"lines {same.line} and {review.line}: the same image twice")
    refuse(problems)


_Said = list[tuple[str, str | None, datetime, str]]  # verdict, reason, reviewed_at, file; oldest first


def _said(connection: duckdb.DuckDBPyConnection, sha256s: Collection[str]) -> defaultdict[tuple[str, str], _Said]:
    said: defaultdict[tuple[str, str], _Said] = defaultdict(list)
    for sha256, reviewer, *rest in connection.execute(
        "SELECT sha256, reviewer, verdict, reason, reviewed_at, file_sha256 FROM reviews WHERE list_contains(?, sha256) "
        "ORDER BY reviewed_at, imported_at",
        [list(sha256s)],
    ).fetchall():
        said[sha256, reviewer].append(tuple(rest))
    return said


def _is_known(review: Review, said: _Said, file_sha256: str) -> bool:
    if review.reviewed_at is not None:
        return any((verdict, when) == (review.verdict, review.reviewed_at) for verdict, _, when, _ in said)
    return any(file == file_sha256 for *_, file in said) or bool(said and said[-1][:2] == (review.verdict, review.reason))


def next_to_review(warehouse: Warehouse, budget: float, n: int) -> Records:
    """Returns the next ``n`` flagged images of the review order that nobody has looked at."""
    with warehouse.connect(read_only=True) as connection:
        return records(connection, "SELECT * FROM review_sample(?, ?)", [budget, n])
