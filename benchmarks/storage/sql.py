"""Times every query of docs/sql.md on a made-up warehouse of ten million images, as a table for that page.

python benchmarks/storage/sql.py FOLDER [IMAGES]

makes FOLDER/warehouse.duckdb and FOLDER/metadata unless they are there, and asks.
"""

import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

import duckdb

from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"
_SHARE = "(hash('{salt}' || i) / 18446744073709551616.0)"  # an even number of 0..1 for each image, the same every time
_ID = "md5('{what}' || {of})::UUID"


def share(salt: str) -> str:
    """SQL of a pseudo-random number between 0 and 1 for image i."""
    return _SHARE.format(salt=salt)


def identity(what: str, of: str = "''") -> str:
    """SQL of the UUID of a thing."""
    return _ID.format(what=what, of=of)


def shard_of(images: int) -> str:
    """SQL of the number of image i's shard: ten thousand in each, and no fewer than ten shards."""
    return f"(i * {max(10, images // 10_000)} // {images})"


IMAGE = identity("image", "i")
HOST = f"('site' || (3000 * {share('host')} ** 4)::INT || '.example.org')"
GENERATED = f"({share('made')} < 0.05 + 0.3 * (hash({HOST}) % 5 = 0)::INT)"


def fill(folder: Path, images: int) -> None:
    """A warehouse of so many images of thousands of hosts, the first tenth scored by two scorers, and its metadata parquet."""
    (folder / "metadata").mkdir(parents=True)
    (folder / "warehouse.duckdb.parts" / "scores").mkdir(parents=True)
    with Warehouse.at(str(folder / "warehouse.duckdb")).connect() as connection:
        migrate(connection)
        shard = identity("shard", shard_of(images))
        _registry(connection)
        _images(connection, images, shard)
        for name, count in (("forensic", images), ("clip", images // 10)):
            _scores(connection, name, images, count, shard)
        licence = "['cc-by', 'cc-by-sa', 'public domain', '?'][1 + (hash(key) % 4)::INT]"
        for path, sql in (
            ("metadata/00000.parquet", f"SELECT url, caption, key, 'success' AS status, {licence} AS LICENSE FROM images"),
            (
                "warehouse.duckdb.parts/scores/00000.parquet",
                f"SELECT key, score, p_value, in_support, scored_at FROM scored LIMIT {images // 10}",
            ),
        ):
            quoted = str(folder / path).replace("'", "''")
            connection.execute(f"COPY ({sql}) TO '{quoted}' (FORMAT parquet)")


def _registry(connection: duckdb.DuckDBPyConnection) -> None:
    for name in ("clip", "forensic"):
        scorer, bank, calibration = (identity(kind, f"'{name}'") for kind in ("scorer", "bank", "calibration"))
        connection.execute(f"INSERT INTO scorers VALUES ({scorer}, '{name}', sha256('{name}'), '{{}}', now())")
        connection.execute(
            f"INSERT INTO banks VALUES ({bank}, {scorer}, 'photos-{name}', sha256('b{name}'), 1000, 9000, 400, 1.0, 0.002, "
            "now(), 1, NULL, NULL)"
        )
        connection.execute(
            f"INSERT INTO calibrations VALUES ({calibration}, {scorer}, {bank}, 'photo; art', sha256('c{name}'), 1999, 0.0005, "
            "now(), 1, NULL)"
        )
        connection.execute(
            f"INSERT INTO calibration_slices VALUES ({calibration}, 'photo', 1999, 0.0005), ({calibration}, 'art', 199, 0.005)"
        )
        connection.execute(
            f"INSERT INTO calibration_budgets SELECT {calibration}, d, b, b / 2, b * 2, b / 2 "
            "FROM (VALUES ('photo'), ('art')) domains(d), (VALUES (0.05), (0.1)) budgets(b)"
        )
        connection.execute(f"INSERT INTO bank_aliases VALUES ('production', {scorer}, {bank}, {calibration}, now())")
    metrics = {"read": [9, 900, 90_000_000], "decode": [60, 900, 0], "backbone": [95, 890, 0], "land": [1, 900, 0]}
    connection.execute(
        "INSERT INTO runs BY NAME SELECT uuid() AS run_id, 'curate' AS flow, 'completed' AS state, 's3://bucket/*.tar' AS "
        "source, '{}' AS parameters, '0' AS code_version, 'host' AS host, 'cpu' AS device, now() AS started_at, ? AS metrics",
        [json.dumps({"wall": 100, "stages": metrics})],
    )


def _images(connection: duckdb.DuckDBPyConnection, images: int, shard: str) -> None:
    exif = (
        f'CASE WHEN {share("exif")} < 0.3 THEN \'{{"EXIF DateTimeOriginal": "\' || '
        f"strftime(DATE '2012-01-01' + (3000 * {share('day')})::INT, '%Y:%m:%d') || ' 12:00:00\"}}' ELSE '{{}}' END"
    )
    connection.execute(
        f"INSERT INTO images SELECT {IMAGE}, {shard}, lpad(i::VARCHAR, 9, '0'), sha256(i::VARCHAR), 'JPEG', 512, 384, "
        f"(50000 * {share('bytes')})::BIGINT, i % 10000 * 60000, 90, 0, false, 'a picture of thing ' || i % 9973, "
        f"'https://' || {HOST} || '/media/pictures/' || i || '.jpg', "
        f"json_object('key', lpad(i::VARCHAR, 9, '0'), 'status', 'success', 'original_width', 512, 'exif', {exif}) "
        f"FROM range({images}) rows(i)"
    )


def _scores(connection: duckdb.DuckDBPyConnection, name: str, images: int, count: int, shard: str) -> None:
    ids = ", ".join(identity(kind, f"'{name}'") for kind in ("scorer", "bank", "calibration"))
    run = identity("run")
    p_value = f"ceil(2000 * CASE WHEN {GENERATED} THEN {share(name)} ** 6 ELSE {share(name)} END + 1e-9) / 2000"
    excluded = f"{share('excluded')} < 0.03"
    connection.execute(
        f"INSERT INTO scores SELECT {IMAGE}, {shard}, {ids}, {run}, -ln(p), 1 - p, 1, 1, 1, 0, 40, p, "
        f"CASE WHEN i % 10 = 0 THEN 'art' ELSE 'photo' END, {share('inside')} < 0.95, "
        f"TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_seconds(i * 20000000 // {images}), {HOST} "
        f"FROM (SELECT i, {p_value} AS p FROM range({count}) rows(i)) WHERE NOT {excluded}"
    )
    connection.execute(
        f"INSERT INTO exclusions SELECT {shard}, lpad(i::VARCHAR, 9, '0'), {IMAGE}, "
        f"['truncated', 'too_small', 'undecodable'][1 + i % 3], 'as the decoder says', {ids}, {run} "
        f"FROM range({count}) rows(i) WHERE {excluded}"
    )
    connection.execute(
        f"INSERT INTO shards SELECT {shard}, 's3://bucket/laion/' || lpad(any_value({shard_of(images)})::VARCHAR, 5, '0') "
        f"|| '.tar', 'tar', sha256(min(i)::VARCHAR), sum(60000), 'etag', 'complete', NULL, count(*), "
        f"count(*) FILTER (NOT {excluded}), count(*) FILTER ({excluded}), false, {ids}, {run}, 60, now(), 1, NULL "
        f"FROM range({count}) rows(i) GROUP BY 1"
    )


def review(warehouse: Path) -> None:
    """Somebody looked at the first of the review order, and at some images that are kept."""
    with Warehouse.at(str(warehouse)).connect() as connection:
        for who, where in (
            ("ana", "IN (SELECT image_id FROM review_order(0.05) WHERE place <= 200)"),
            ("ben", "IN (SELECT image_id FROM decided(0.05) WHERE by_score = 'kept' AND p_value < 0.06 LIMIT 50)"),
        ):
            connection.execute(
                "INSERT INTO reviews SELECT image_id, sha256, shard_id, key, "
                "CASE WHEN hash(key) % 4 = 0 THEN 'real' ELSE 'generated' END, ?, 'texture', now(), now(), '' "
                f"FROM images WHERE image_id {where}",
                [who],
            )


def queries(page: Path) -> list[tuple[str, str]]:
    """(heading, SQL) of every block `sql` of a page."""
    found, heading = [], ""
    for part in re.split(r"(?m)^(?=#|```)", page.read_text()):
        if part.startswith("#"):
            heading = part.partition("\n")[0].strip("# ")
        elif part.startswith("```sql\n"):
            found.append((heading, part.removeprefix("```sql\n")))
    return found


def seconds(connection: duckdb.DuckDBPyConnection, sql: str) -> float:
    """Median of three."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        connection.execute(sql).fetchall()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def main(folder: Path, images: int) -> None:
    if not folder.exists():
        fill(folder, images)
        review(folder / "warehouse.duckdb")
    os.chdir(folder)
    with Warehouse.at("warehouse.duckdb").connect(read_only=True) as connection:
        threads = connection.execute("SELECT current_setting('threads')").fetchall()[0][0]
        print(f"{images:,} images, {threads} threads, DuckDB {duckdb.__version__}\n\n| query | seconds |\n|---|---:|")
        for heading, sql in queries(PAGE):
            print(f"| {heading} | {seconds(connection, sql):.2f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000)
