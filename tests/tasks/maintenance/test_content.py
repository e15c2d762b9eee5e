"""The digest of what a warehouse holds: blind to when and where rows were made, and to nothing else."""

import pytest
from warehouses import change, copied, digest


@pytest.fixture
def warehouse(three_shards, tmp_path) -> str:
    return copied(three_shards, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(three_shards) -> str:
    return digest(str(three_shards / "w.duckdb"))


def test_the_content_digest_sees_what_is_there_and_nothing_else(warehouse, undisturbed):
    change(
        warehouse,
        "CREATE TABLE turned AS SELECT * FROM scores ORDER BY image_id DESC",
        "DELETE FROM scores",
        "INSERT INTO scores SELECT * REPLACE (uuid() AS run_id, now() AS scored_at) FROM turned",
        "DROP TABLE turned",
        "UPDATE exclusions SET run_id = uuid()",
        "UPDATE shards SET run_id = uuid(), seconds = 7, committed_at = now(), generation = 5",
    )
    assert digest(warehouse) == undisturbed
    seen = {undisturbed}
    for statement in (
        "UPDATE scores SET p_value = p_value + 1e-15 WHERE image_id = (SELECT min(image_id) FROM scores)",
        "INSERT INTO scores SELECT * FROM scores ORDER BY image_id LIMIT 1",
        "INSERT INTO scores SELECT * FROM scores ORDER BY image_id LIMIT 1",
        "DELETE FROM scores WHERE image_id = (SELECT max(image_id) FROM scores)",
        "UPDATE shards SET superseded = true",
    ):
        change(warehouse, statement)
        assert digest(warehouse) not in seen
        seen.add(digest(warehouse))


@pytest.mark.parametrize("table", ["scores", "exclusions", "images"])
def test_the_content_digest_tells_which_row_is_there_three_times(warehouse, table):
    seen = set()
    for extreme in ("min", "max"):  # as many rows both times, and the same ones under an exclusive or
        change(
            warehouse,
            f"CREATE TABLE kept AS SELECT * FROM {table}",
            f"INSERT INTO {table} SELECT k.* FROM kept k, range(2) WHERE image_id = (SELECT {extreme}(image_id) FROM kept)",
        )
        seen.add(digest(warehouse))
        change(warehouse, f"DELETE FROM {table}", f"INSERT INTO {table} FROM kept", "DROP TABLE kept")
    assert len(seen) == 2
