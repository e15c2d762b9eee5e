"""Waiting for a warehouse that others hold."""

import logging
import os
import threading

import duckdb
import pytest
from fabricate import open_warehouse, outcome_of, write_shard
from warehouses import held

from mdmf import to_pandas as query
from mdmf_core.errors import WarehouseHeld
from tasks.warehouse import attach as opening
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse


@pytest.fixture
def notices(monkeypatch) -> tuple[list[str], threading.Event]:
    """What is said while waiting, and the second time that something is said."""
    said, twice = [], threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            if len(said) == 2:
                twice.set()

    listener = Listener()
    monkeypatch.setattr(opening, "_NOTICE", 0.2)
    logging.getLogger("mdmf").addHandler(listener)
    yield said, twice
    logging.getLogger("mdmf").removeHandler(listener)


def test_landing_waits_for_a_reader_says_so_and_then_lands(setup, tmp_path, notices):
    said, twice = notices
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(2)), warehouse, setup)
    with held(warehouse, "reading") as process:
        landing = threading.Thread(target=land, args=(Warehouse.at(warehouse), [outcome], setup.key))
        landing.start()
        assert twice.wait(60)
        assert landing.is_alive()
        process.stdin.close()
        landing.join(60)
    assert f"process {process.pid} (python" in said[0]
    assert "0 s so far, 3600 s at most" in said[0]
    assert query(warehouse, "SELECT count(*) AS n FROM images")["n"][0] == 2


def test_patience_ends_with_who_holds_it_and_what_to_do(setup, tmp_path):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(2)), warehouse, setup)
    with held(warehouse, "reading") as process:
        with pytest.raises(WarehouseHeld, match=rf"process {process.pid} .*close it and run again. Nothing is lost"):
            land(Warehouse.at(warehouse), [outcome], setup.key, patience=0.3)
        assert query(warehouse, "SELECT count(*) AS n FROM images")["n"][0] == 0  # readers do not wait for readers
        process.stdin.close()
    land(Warehouse.at(warehouse), [outcome], setup.key)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_second_connection_of_the_same_process_is_waited_for_too(setup, tmp_path, read_only):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    held = duckdb.connect(warehouse, read_only=read_only)
    with (
        pytest.raises(WarehouseHeld, match=rf"this process itself \(PID {os.getpid()}\)"),
        Warehouse.at(warehouse).connect(patience=0.2),
    ):
        pass
    threading.Timer(0.5, held.close).start()
    with Warehouse.at(warehouse).connect() as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
