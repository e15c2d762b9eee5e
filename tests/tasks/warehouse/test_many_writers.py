"""Many processes write one lake: nothing is lost, nothing is there twice, whoever dies or comes late."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from lakes import KEY, land_again_and_again, land_side_by_side, made_outcome, needs_lakes, opened_registry, place, postgres_lake
from postgres_server import postgres_server, why_not
from warehouses import digest

from mdmf import to_pandas as query
from mdmf_core.errors import WarehouseHeld
from tasks.warehouse.commits import commit
from tasks.warehouse.landing import _land_all, land
from tasks.warehouse.warehouse import Warehouse

needs_postgres = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
pytestmark = needs_lakes


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def lake(request, tmp_path, monkeypatch) -> Iterator[str]:
    """The address of a lake with a registry, on each kind of catalog."""
    if request.param == "sqlite":
        yield opened_registry(place(tmp_path, "sqlite"))
        return
    with postgres_server(tmp_path / "pg") as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        yield opened_registry(postgres_lake(server, "lake", tmp_path / "data"))


def alone(lake: str, shards: int, tmp_path: Path) -> str:
    """The content digest of what one writer of an embedded warehouse makes of the same shards."""
    warehouse = opened_registry(str(tmp_path / "alone.duckdb"))
    land(Warehouse.at(warehouse), [made_outcome(lake, number) for number in range(shards)], KEY)
    return digest(warehouse)


def test_processes_land_side_by_side_and_no_row_is_lost_or_doubled(lake, tmp_path):
    assert land_side_by_side(lake, writers=3, shards=4) > 0  # conflicts, all of them retried
    assert digest(lake) == alone(lake, 12, tmp_path)


def test_a_writer_that_slept_through_its_lease_does_not_land_beside_the_one_that_took_over(lake):
    stale = replace(made_outcome(lake, 0), generation=1)
    tries = []

    def sleepy() -> list[str]:
        overtaken = _land_all(connection, [stale], KEY.ids)
        if not tries:
            land(
                Warehouse.at(lake), [replace(stale, generation=2)], KEY
            )  # the other, between the sleeper's look and its commit
        tries.append(overtaken)
        return overtaken

    with Warehouse.at(lake).connect() as connection:
        assert commit(connection, sleepy) == ["/made/00000.tar"]
    assert tries == [[], ["/made/00000.tar"]]
    found = query(lake, "SELECT generation, (SELECT count(*) FROM scores) AS scores FROM shards")
    assert found.values.tolist() == [[2, 19]]


def test_patience_ends(lake):
    def never_first() -> None:
        connection.execute("SELECT count(*) FROM runs").fetchall()
        connection.execute("DELETE FROM bank_aliases WHERE alias = 'none'")
        connection.execute("INSERT INTO bank_members VALUES (uuid(), 's', 'k', 'x', 'photo', NULL)")
        with Warehouse.at(lake).connect() as other:
            other.execute("INSERT INTO bank_members VALUES (uuid(), 's', 'k', 'x', 'photo', NULL)")

    with Warehouse.at(lake).connect() as connection, pytest.raises(WarehouseHeld, match="others were first to commit"):
        commit(connection, never_first, patience=0.5)
    with Warehouse.at(lake).connect() as connection, pytest.raises(duckdb.CatalogException):
        commit(connection, lambda: connection.execute("SELECT * FROM nothing"))


@pytest.mark.long
def test_killed_at_any_moment_the_next_landing_ends_with_the_same_rows(lake, tmp_path):
    context = multiprocessing.get_context("spawn")
    for moment in range(3):
        started = tmp_path / f"started{moment}"
        process = context.Process(target=land_again_and_again, args=(lake, range(3), started))
        process.start()
        while not started.exists():
            time.sleep(0.01)
        time.sleep(0.1 + 0.3 * moment)
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    land(Warehouse.at(lake), [made_outcome(lake, number) for number in range(3)], KEY)
    assert digest(lake) == alone(lake, 3, tmp_path)
