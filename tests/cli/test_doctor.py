"""`mdmf doctor --warehouse` says what waits in a warehouse, and what to do."""

import re

import pytest
from fabricate import open_warehouse, outcome_of, write_shard, write_tar
from rich.console import Console

from mdmf_cli.doctor import examine, print_speed
from mdmf_core.errors import SourceError
from tasks.warehouse.landing import land
from tasks.warehouse.warehouse import Warehouse


def test_what_is_not_landed_and_runs_without_an_end_are_named(setup, tiny_scorer, tiny_bank, tmp_path, capsys):
    warehouse = open_warehouse(tmp_path / "w.duckdb", setup)
    outcome = outcome_of(write_shard(tmp_path / "00000.tar", range(3)), warehouse, setup)

    def said() -> tuple[bool, str]:
        healthy = examine(Console(width=500), None, tiny_scorer, tiny_bank, warehouse, "cpu", None)
        return healthy, capsys.readouterr().out

    healthy, text = said()
    assert healthy
    assert "0 shards, 0 images scored" in text
    assert "1 parts that are not landed" in text
    assert "1 runs without an end" in text
    land(Warehouse.at(warehouse), [outcome], setup.key)
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute("UPDATE runs SET state = 'completed'")
    _, text = said()
    assert "1 shards, 3 images scored" in text
    assert "not landed" not in text
    assert "without an end" not in text
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute("DELETE FROM migrations WHERE name = '005_words.sql'")
    healthy, text = said()
    assert not healthy
    assert "run `mdmf migrate --warehouse" in text


def test_speed_measures_every_stage_and_names_the_limit(tiny_scorer, tiny_bank, tmp_path, capsys):
    source = str(write_shard(tmp_path / "00000.tar", range(6)))
    print_speed(Console(width=200), source, tiny_scorer, tiny_bank, "cpu", None, seconds=0.05)
    text = capsys.readouterr().out
    for stage in ("read", "decode", "backbone", "score", "land"):
        assert re.search(rf"│ {stage} +│ +[\d,]+ +│", text), stage
    assert re.search(r"limit: (decode|backbone|score)", text)
    assert "* " in text


def test_speed_of_a_source_without_an_image_is_an_error_in_one_sentence(tiny_scorer, tiny_bank, tmp_path):
    empty = write_tar(tmp_path / "00000.tar", {"a.jpg": b"<html>"})
    with pytest.raises(SourceError, match="none of its first 1 images can be scored"):
        print_speed(Console(), str(empty), tiny_scorer, tiny_bank, "cpu", None, seconds=0.05)
    with pytest.raises(SourceError, match="no image there"):
        print_speed(Console(), str(write_tar(tmp_path / "1.tar", {})), tiny_scorer, tiny_bank, "cpu", None, seconds=0.05)
