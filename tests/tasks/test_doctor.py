"""`mdmf doctor --warehouse` says what waits in a warehouse, and what to do."""

from fabricate import open_warehouse, outcome_of, write_shard
from rich.console import Console

from mdmf_cli.doctor import examine
from tasks.landing import land
from tasks.warehouse import connect


def test_what_is_not_landed_and_runs_without_an_end_are_named(kit, tiny_scorer, tiny_bank, tmp_path, capsys):
    warehouse = open_warehouse(tmp_path / "w.duckdb", kit)
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(3)), warehouse, kit)

    def said() -> tuple[bool, str]:
        healthy = examine(Console(width=500), None, tiny_scorer, tiny_bank, warehouse, "cpu", None)
        return healthy, capsys.readouterr().out

    healthy, text = said()
    assert healthy
    assert "0 shards, 0 images scored" in text
    assert "1 parts that are not landed" in text
    assert "1 runs without an end" in text
    land(warehouse, [outcome], kit.key)
    with connect(warehouse) as connection:
        connection.execute("UPDATE runs SET state = 'completed'")
    _, text = said()
    assert "1 shards, 3 images scored" in text
    assert "not landed" not in text
    assert "without an end" not in text
    with connect(warehouse) as connection:
        connection.execute("DELETE FROM migrations WHERE name = '005_words.sql'")
    healthy, text = said()
    assert not healthy
    assert "run `mdmf migrate --warehouse" in text
