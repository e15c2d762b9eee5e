"""Disks that are full or read-only: real small filesystems."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fabricate import CONTENT, encoded, write_tar

from mdmf import to_pandas as query
from mdmf_core.errors import WarehouseError
from tasks.collections.listing import list_shards
from tasks.parts.kept_signatures import is_kept
from tasks.parts.outcome import ShardOutcome
from tasks.scoring.loading import load_setup
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.storage.publishing import write_bytes
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse


class Disk:
    """A filesystem in memory whose size and mode can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def shrink_to_what_is_used(self) -> None:
        state = os.statvfs(self.path)
        self.remount(f"size={(state.f_blocks - state.f_bfree) * state.f_frsize}")

    def files(self) -> list[Path]:
        return [path for path in self.path.rglob("*") if path.is_file()]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"small filesystems cannot be mounted here, as they can by root: {made.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def setup(tiny_scorer: str, tiny_bank: str) -> ScoringSetup:
    return load_setup(tiny_scorer, tiny_bank, "cpu", 2, 1, None, None, 1.0)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A shard whose captions make a part of over a megabyte."""
    noise, files = random.Random(3), {}
    for seed in range(5):
        files |= {f"{seed}.jpg": encoded(seed), f"{seed}.txt": noise.randbytes(300_000).hex().encode()}
    return str(write_tar(tmp_path / "00000.tar", files))


def score(source: str, setup: ScoringSetup, folder: Path) -> ShardOutcome:
    (shard,) = list_shards(source, 1000)
    assert is_kept(shard, setup.keep_signatures)
    return score_shard(shard, setup, str(folder), "00000000-0000-0000-0000-000000000000", None, lambda done: None)


def test_a_full_disk_is_no_fault_of_the_source_and_costs_nothing(disk: Disk, setup: ScoringSetup, source: str, tmp_path: Path):
    for size in ("64k", "1m"):  # too small at once, and in the middle
        disk.remount(f"size={size}")
        with pytest.raises(
            WarehouseError, match=r"no space for .*/disk/parts/.*: \d\.\d MiB are left.*Free some and run again"
        ):
            score(source, setup, disk.path / "parts")
        assert disk.files() == []
        assert shutil.disk_usage(disk.path).used < 16384  # no open file holds what it had written
    disk.remount("size=16m")
    outcome = score(source, setup, disk.path / "parts")
    assert outcome.state == "complete"
    parts = (outcome.part, score(source, setup, tmp_path / "parts").part)
    tables = [pq.read_table(str(part)).drop_columns(["scored_at"]) for part in parts]
    assert tables[0].equals(tables[1])


def test_landing_on_a_full_disk_lands_nothing_and_the_next_one_everything(
    disk: Disk, setup: ScoringSetup, source: str, tmp_path: Path
):
    warehouse = str(disk.path / "warehouse.duckdb")
    disk.remount("size=64m")
    with Warehouse.at(warehouse).connect() as connection:
        migrate(connection)
    outcome = score(source, setup, tmp_path / "parts")
    disk.shrink_to_what_is_used()
    with pytest.raises(WarehouseError, match=r"no space for .*/disk/warehouse\.duckdb: 0\.0 MiB are left"):
        land(Warehouse.at(warehouse), [outcome], setup.key)
    for table in ("shards", "images", "scores", "exclusions"):
        assert query(warehouse, f"SELECT count(*) AS n FROM {table}")["n"][0] == 0
    disk.remount("size=64m")
    land(Warehouse.at(warehouse), [outcome], setup.key)
    assert query(warehouse, "SELECT count(*) AS n FROM scores")["n"][0] == outcome.scored == 5


def test_a_read_only_warehouse_is_one_error_before_anything_is_scored(curate, disk: Disk, source: str):
    warehouse = str(disk.path / "warehouse.duckdb")
    disk.remount("ro")
    with pytest.raises(WarehouseError, match=r"warehouse\.duckdb.*its disk is read-only"):
        curate(source, warehouse=warehouse)
    disk.remount("rw,size=64m")
    assert curate(source, warehouse=warehouse).scored == 5
    before = query(warehouse, CONTENT)
    files = set(disk.files())
    disk.remount("ro")
    with pytest.raises(WarehouseError, match=r"warehouse\.duckdb.*its disk is read-only"):
        curate(source, warehouse=warehouse)
    assert query(warehouse, CONTENT).equals(before)
    assert set(disk.files()) == files
    with pytest.raises(WarehouseError, match="its disk is read-only"):
        write_bytes(f"{Warehouse.at(warehouse).parts}/plans/x", b"")
