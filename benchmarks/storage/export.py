"""A keep-list of millions of images: time and memory to export it, to filter a stream by it, and to copy new shards.

Makes FOLDER/w.duckdb (IMAGES rows in shards of 10,000, with captions and sidecars of LAION's lengths) unless it is there. Every
step runs in a process of its own, so that the peak of memory is its own.

Run: python benchmarks/storage/export.py FOLDER [IMAGES]
"""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np

PER_SHARD = 10_000
COPIED = 1_000  # samples of 100 kB in each of ten tars


def fill(folder: Path, count: str) -> None:
    """The warehouse: scores and p-values from a hash, one image in twenty outside support."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
    from corpora import register

    from tasks.warehouse.migrations import migrate
    from tasks.warehouse.warehouse import Warehouse

    shards = int(count) // PER_SHARD
    image, shard = "md5(i::VARCHAR)::UUID", f"md5('s' || (i // {PER_SHARD}))::UUID"
    share = "hash(i) / 18446744073709551616.0"
    with Warehouse.at(str(folder / "w.duckdb")).connect() as connection:
        migrate(connection)
        ids = ", ".join(f"'{one}'" for one in register(connection))
        connection.execute(
            "INSERT INTO shards SELECT md5('s' || i)::UUID, printf('s3://bucket/laion/%05d.tar', i), 'tar', sha256('' || i), "
            f"1000000000, 'etag', 'complete', NULL, {PER_SHARD}, {PER_SHARD}, 0, false, {ids}, uuid(), 1, now(), 0, NULL "
            f"FROM range({shards}) t(i)"
        )
        connection.execute(
            f"INSERT INTO images SELECT {image}, {shard}, printf('%09d', i), sha256(i::VARCHAR), 'JPEG', 512, 384, 100000, i, "
            "90, 0, false, repeat('caption ', 8), 'https://example.org/' || md5(i::VARCHAR) || '.jpg', "
            f"json_object('uid', md5(i::VARCHAR), 'exif', repeat('x', 300)) FROM range({shards * PER_SHARD}) t(i)"
        )
        connection.execute(
            f"INSERT INTO scores SELECT {image}, {shard}, {ids}, uuid(), 1 - {share}, 0, 0, 0, 0, 0, 9, {share}, 'photo', "
            f"i % 20 <> 0, now(), 'example.org' FROM range({shards * PER_SHARD}) t(i)"
        )


def export_list(folder: Path, name: str) -> str:
    from tasks.keeplists.export import ExportSettings, export

    formats = ("parquet",) if name == "parquet" else ("parquet", "csv", "datacomp")
    out = folder / f"keep-{name}"
    shutil.rmtree(out, ignore_errors=True)
    found = export(ExportSettings(warehouse=str(folder / "w.duckdb"), out=str(out), selection={}, formats=formats))
    size = sum(path.stat().st_size for path in out.iterdir())
    return f"{found.rows} rows, {size / 1e9:.2f} GB"


def filter_stream(folder: Path, check: str) -> str:
    from mdmf_core.keeplists.keeplist import KeepList

    started = time.perf_counter()
    keep = KeepList(folder / "keep-parquet", verify="none", check=check == "checked")
    opened = time.perf_counter()
    numbers = np.random.default_rng(0).permutation(len(keep.shards))[:50]
    samples = (
        {"__url__": f"s3://bucket/laion/{shard:05d}.tar", "__key__": f"{shard * PER_SHARD + place:09d}", "jpg": b""}
        for shard in numbers
        for place in range(PER_SHARD)
    )
    kept = sum(1 for _ in keep.filter(samples))
    rate = 50 * PER_SHARD / (time.perf_counter() - opened)
    return f"opened in {opened - started:.2f} s; {rate:,.0f} samples a second of 50 shards in random order, {kept} kept"


def copy_shards(folder: Path, workers: str) -> str:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
    from corpora import scored_warehouse

    from tasks.keeplists.export import ExportSettings, export
    from tasks.keeplists.reshard import reshard

    corpus = folder / "tars"
    if not corpus.exists():
        corpus.mkdir()
        noise = np.random.default_rng(0)
        for number in range(10):
            with tarfile.open(corpus / f"{number:05d}.tar", "w") as tar:
                for place in range(COPIED):
                    for name, data in (
                        (f"{place:09d}.jpg", b"\xff\xd8\xff" + noise.bytes(100_000)),
                        (f"{place:09d}.txt", b"text"),
                    ):
                        entry = tarfile.TarInfo(name)
                        entry.size = len(data)
                        tar.addfile(entry, io.BytesIO(data))
        scored_warehouse(folder / "tars.duckdb", [corpus])
        export(ExportSettings(warehouse=str(folder / "tars.duckdb"), out=str(folder / "keep-tars"), selection={}))
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    found = reshard(str(folder / "keep-tars"), str(out), workers=int(workers))
    seconds = time.perf_counter() - started
    return f"{found.samples} samples of 1.0 GB in {seconds:.1f} s"


def main(folder: Path, images: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "w.duckdb").exists():
        subprocess.run([sys.executable, __file__, str(folder), "fill", str(images)], check=True)
    print(f"{images} images; warehouse of {(folder / 'w.duckdb').stat().st_size / 1e9:.1f} GB; {os.cpu_count()} cores")
    steps = (
        ("export_list", "parquet"), ("export_list", "all"), ("filter_stream", "checked"), ("filter_stream", "unchecked"),
        ("copy_shards", "1"), ("copy_shards", "1"), ("copy_shards", "4"),
    )  # fmt: skip
    for step, argument in steps:
        done = subprocess.run(
            [sys.executable, __file__, str(folder), step, argument], capture_output=True, text=True, check=True
        )
        print(f"{step} {argument}: {json.loads(done.stdout.splitlines()[-1])}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        started = time.perf_counter()
        said = globals()[sys.argv[2]](Path(sys.argv[1]), sys.argv[3])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(f"{said}; {time.perf_counter() - started:.1f} s in all, peak {peak:.1f} GB"))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 10_000_000)
