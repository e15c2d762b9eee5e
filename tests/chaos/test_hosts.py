"""Two hosts on one object store: each shard lands once, also when one of them is killed in the middle of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabricate import landed, write_shard
from hosts import on_host
from warehouses import digest

from mdmf import to_pandas as query
from tasks.maintenance.verify import verify
from tasks.parts.leases import acquire, dead_owners, forget, owner
from tasks.parts.store import store_of
from tasks.scoring.loading import load_setup
from tasks.warehouse.warehouse import Warehouse

pytestmark = pytest.mark.long
RUNS = tuple(f"00000000-0000-0000-0000-0000000000a{number}" for number in range(3))
SHARDS = 4


@pytest.fixture
def source(tmp_path: Path) -> str:
    for number in range(SHARDS):
        write_shard(tmp_path / f"0000{number}.tar", range(10 * number, 10 * number + 12), {"x.html": b"<html>"})
    return str(tmp_path / "*.tar")


@pytest.mark.parametrize("killed_when", ["at", "scored", "landed"])
def test_two_hosts_and_the_death_of_one(parts_in_lake, source, tiny_scorer, tiny_bank, tmp_path, killed_when):
    setup = load_setup(tiny_scorer, tiny_bank, "cpu", 8, 1, None)
    warehouse = landed(tmp_path / "shared.duckdb", tmp_path / "00000.tar", setup)  # with its registry, and one shard complete
    hosts = []
    try:
        hosts.append(host(RUNS[0], warehouse, parts_in_lake, source, tiny_scorer, tiny_bank))
        said = list(_until(hosts[0], "at"))  # it holds a lease before the other one begins
        hosts.append(host(RUNS[1], warehouse, parts_in_lake, source, tiny_scorer, tiny_bank))
        said += _until(hosts[0], killed_when) if killed_when != "at" else []
        hosts[0].kill()
        rest = hosts[1].communicate(timeout=200)[0].split("\n")
    finally:
        for started in hosts:
            started.kill()
            started.communicate()
    assert said[-1].startswith(killed_when)
    assert hosts[1].returncode == 0
    assert [line for line in rest if line.startswith("landed")], rest
    undisturbed = landed(tmp_path / "alone.duckdb", source, setup)
    assert digest(warehouse) == digest(undisturbed)
    assert query(warehouse, "SELECT count(*) AS n, count(DISTINCT url) AS urls FROM shards").values.tolist() == [[SHARDS] * 2]
    assert [found for found in verify(Warehouse.at(warehouse)) if not found.note] == []
    _leases_are_free(f"{parts_in_lake}/leases")


def host(run: str, *arguments: object) -> "subprocess.Popen[str]":
    return on_host(f"host-{run[-1]}", "chaos/shard_host.py", *arguments, run)


def _until(host: "subprocess.Popen[str]", word: str) -> Iterator[str]:
    for line in host.stdout:
        yield line.strip()
        if line.startswith(word):
            return


def _leases_are_free(folder: str) -> None:
    """Checks that no lease is held but the dead host's, and that the next comer takes those."""
    (dead,) = dead_owners(folder, expiry=2)
    forget(folder, dead)
    held = [entry.path.rpartition("/")[2].split(".")[0] for entry in store_of(folder).entries(f"{folder}/held")]
    with owner(folder, RUNS[2]) as name:
        assert all(acquire(folder, shard, name, 0).generation > 0 for shard in held)
    assert list(store_of(folder).entries(f"{folder}/held")) == []
