"""One shard under two keys, of which one could not decode all that the other could: both keep their rows."""

import pytest
from fabricate import open_warehouse, outcome_of, with_an_exclusion, write_shard

from mdmf import to_pandas as query
from tasks.maintenance.content_digest import content_digest
from tasks.maintenance.verify import verify
from tasks.warehouse.landing import land
from tasks.warehouse.part_rows import shard_id
from tasks.warehouse.warehouse import Warehouse


@pytest.fixture
def warehouse(setup, tmp_path) -> str:
    return open_warehouse(tmp_path / "w.duckdb", setup)


def digest(warehouse: str) -> str:
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        return content_digest(connection)


def repaired(warehouse: str) -> list[tuple[str, bool]]:
    return [(f.check, f.repaired) for f in verify(Warehouse.at(warehouse), repair=True) if not f.note]


def test_what_one_key_could_not_decode_stays_for_the_others(warehouse, setup, tmp_path):
    source = write_shard(tmp_path / "00000.tar", range(3))
    whole = outcome_of(source, warehouse, setup)
    other, poorer = with_an_exclusion(whole, source, warehouse, setup)
    land(Warehouse.at(warehouse), [whole], setup.key)
    land(Warehouse.at(warehouse), [poorer], other)
    assert query(warehouse, "SELECT count(*) AS n FROM scored")["n"][0] == 3
    land(Warehouse.at(warehouse), [whole], setup.key)
    assert query(warehouse, "SELECT count(*) AS n FROM images")["n"][0] == 3


@pytest.mark.parametrize("poorer_first", [False, True])
def test_keys_that_could_decode_more_or_less_of_a_shard_are_both_right(warehouse, setup, tmp_path, poorer_first):
    source = write_shard(tmp_path / "00009.tar", range(90, 93))
    whole = outcome_of(source, warehouse, setup)
    other, poorer = with_an_exclusion(whole, source, warehouse, setup)
    for outcome, key in sorted([(whole, setup.key), (poorer, other)], key=lambda pair: (pair[0] is whole) == poorer_first):
        land(Warehouse.at(warehouse), [outcome], key)
    before = digest(warehouse)
    assert repaired(warehouse) == []
    assert digest(warehouse) == before
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute(f"UPDATE images SET width = 1 WHERE shard_id = '{shard_id(whole)}'")
    assert repaired(warehouse) == [("content", True)]
    assert digest(warehouse) == before
