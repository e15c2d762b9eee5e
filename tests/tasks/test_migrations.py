"""Warehouses of earlier versions: carried forward with what they hold."""

from importlib.resources import files

import pytest

from mdmf_core.errors import WarehouseError
from tasks.registry import find
from tasks.warehouse import connect, migrate

SCORER, SHARD, RUN = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 8, 9))
BANKS = {f"00000000-0000-0000-0000-0000000000{n}0": f"00000000-0000-0000-0000-0000000000{n}1" for n in (1, 2)}


@pytest.fixture
def before_banks(tmp_path):
    """A warehouse as it was before banks had versions, with two banks of one name and an image scored by each."""
    path = str(tmp_path / "w.duckdb")
    with connect(path) as connection:
        connection.execute("CREATE TABLE migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)")
        for name in ("001_tables.sql", "002_views.sql"):
            connection.execute((files("warehouse") / name).read_text())
            connection.execute("INSERT INTO migrations VALUES (?, now())", [name])
        for day, (bank, calibration) in enumerate(BANKS.items(), start=1):
            connection.execute(
                "INSERT INTO banks VALUES (?, ?, 'photos', repeat('b', 64), 9, 99, 5, 1.0, 0.01, ?::TIMESTAMPTZ)",
                [bank, SCORER, f"2026-01-0{day}"],
            )
            connection.execute(
                "INSERT INTO calibrations VALUES (?, ?, ?, 'photo', repeat('c', 64), 99, 0.01, now())",
                [calibration, SCORER, bank],
            )
            connection.execute("INSERT INTO bank_aliases VALUES ('production', ?, ?, ?, now())", [SCORER, bank, calibration])
            connection.execute(
                "INSERT INTO shards VALUES (?, 'u', 'tar', 'd', 1, 'f', 'complete', NULL, 1, 1, 0, false, ?, ?, ?, ?, 1, "
                "now())",
                [SHARD, SCORER, bank, calibration, RUN],
            )
            connection.execute(
                "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, 1, 0, 0, 0, 0, 0, 9, 0.02, 'photo', true, now())",
                [RUN, SHARD, SCORER, bank, calibration, RUN],
            )
        connection.execute(
            "INSERT INTO images VALUES (?, ?, 'k', 's', 'JPEG', 1, 1, 1, 1, 90, 0, NULL, NULL, NULL, NULL)", [RUN, SHARD]
        )
    return path


def test_banks_get_versions_by_age_and_their_rows_keep_their_decisions(before_banks):
    with connect(before_banks) as connection:
        migrate(connection)
        migrate(connection)  # again changes nothing
        versions = connection.execute("SELECT bank_id::VARCHAR, version FROM banks ORDER BY version").fetchall()
        assert versions == [(bank, number) for number, bank in enumerate(BANKS, start=1)]
        assert connection.execute("SELECT domain, images, smallest_budget FROM slices").fetchall() == [("photo", 99, 0.01)]
        assert [row[0] for row in connection.execute("SELECT key FROM flagged(0.05)").fetchall()] == ["k"]
        assert connection.execute("SELECT count(*) FROM kept(0.01)").fetchone() == (1,)
        entry = find(connection, "@production")
        assert (entry.title, entry.url) == ("photos@2", None)


def test_a_warehouse_of_a_newer_version_is_refused(before_banks):
    with connect(before_banks) as connection:
        connection.execute("INSERT INTO migrations VALUES ('999_future.sql', now())")
        with pytest.raises(WarehouseError, match=r"newer version .*999_future"):
            migrate(connection)


def test_scores_of_before_learn_the_host_of_their_image(tmp_path):
    with connect(str(tmp_path / "w.duckdb")) as connection:
        steps = sorted(
            entry.name for entry in files("warehouse").iterdir() if entry.name < "005" and entry.name.endswith(".sql")
        )
        connection.execute("CREATE TABLE migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)")
        for name in steps:
            connection.execute((files("warehouse") / name).read_text())
            connection.execute("INSERT INTO migrations VALUES (?, now())", [name])
        connection.execute(
            "INSERT INTO images SELECT md5(u)::UUID, md5(u)::UUID, 'k', 's', 'JPEG', 1, 1, 1, 1, 90, 0, NULL, NULL, "
            "nullif(u, ''), NULL "
            "FROM (VALUES ('https://a.example.org/x/1.jpg'), ('no url'), ('')) given(u)"
        )
        connection.execute(
            "INSERT INTO scores SELECT image_id, shard_id, image_id, image_id, image_id, image_id, 1, 0, 0, 0, 0, 0, 9, 0.02, "
            "'photo', true, now() FROM images"
        )
        migrate(connection)
        found = connection.execute("SELECT i.url, s.host FROM scores s JOIN images i USING (image_id)").fetchall()
    assert dict(found) == {"https://a.example.org/x/1.jpg": "a.example.org", "no url": None, None: None}
