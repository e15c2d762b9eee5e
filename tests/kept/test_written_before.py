"""Files that commit b586786 wrote are read by this version: warehouse, parts, signatures, banks, plans, keep-list and backup.

README.md says how they were made. The source and the banks lie in a bucket, so that no path in the files belongs to a machine.
"""

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mdmf_cli.main import app
from mdmf_core.keeplists.keeplist import KeepList
from mdmf_core.records import Shard
from tasks.collections.listing import list_shards
from tasks.parts.outcome import Work
from tasks.parts.plans import read_plan
from tasks.runs.fan_out.portions import plan_path, unfinished_plan, work_of
from tasks.scoring.loading import load_bank, load_setup

ARCHIVE = Path(__file__).with_name("written_by_b586786.tar.xz")
ROWS = "SELECT shard_url, key, score, mmd2, p_value, domain, in_support FROM scored ORDER BY shard_url, key"
SOURCE = "s3://corpus/kept/{00000..00001}.tar"


@pytest.fixture
def kept(signed_in: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of what was written, with its source in the bucket; times are kept, as shards are known by them."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "b586786"
    shutil.rmtree(signed_in / "kept", ignore_errors=True)
    shutil.copytree(folder / "bucket", signed_in / "kept")
    load_bank.cache_clear()
    yield folder
    shutil.rmtree(signed_in / "kept")


@pytest.fixture
def warehouse(kept: Path) -> str:
    return str(kept / "w.duckdb")


@pytest.fixture
def recorded(kept: Path) -> dict[str, Any]:
    """What that commit itself said of the files."""
    found: dict[str, Any] = json.loads((kept / "expected.json").read_text())
    return found


def mdmf(*command: object) -> str:
    done = CliRunner().invoke(app, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    return done.output


def asked(warehouse: str, sql: str) -> list[dict[str, Any]]:
    """The rows of `mdmf sql`."""
    return [json.loads(line) for line in mdmf("sql", sql, "--format", "json", "--warehouse", warehouse).splitlines()]


def verified(warehouse: str, *options: str) -> str:
    """The content digest that `mdmf verify` prints, once everything adds up."""
    text = mdmf("verify", "--warehouse", warehouse, *options)
    assert "everything adds up" in text
    return re.search(r"^content ([0-9a-f]{64})$", text, re.MULTILINE)[1]


def approximately(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores as JSON prints them, and as processors may round them."""
    return [row | {name: pytest.approx(row[name], rel=1e-5, abs=1e-7) for name in ("score", "mmd2", "p_value")} for row in rows]


def test_the_warehouse_holds_what_it_held_and_agrees_with_its_parts(warehouse, recorded):
    assert verified(warehouse) == recorded["content"]
    assert asked(warehouse, ROWS) == approximately(recorded["rows"])
    for macro in ("flagged", "kept"):
        assert [row["key"] for row in asked(warehouse, f"SELECT key FROM {macro}(0.3) ORDER BY key")] == recorded[macro]
    accounting = asked(warehouse, "SELECT url, state, members, scored, excluded FROM accounting ORDER BY url")
    assert accounting == recorded["accounting"]


def test_curating_again_finds_nothing_to_do(prefect_server, warehouse, recorded):
    text = mdmf("curate", SOURCE, "--bank", "@production", "--keep-signatures", 1, "--device", "cpu", "--warehouse", warehouse)
    assert "0 shards complete, 2 complete before, 0 deferred, 0 failed" in text
    assert verified(warehouse) == recorded["content"]


def test_kept_signatures_are_scored_again_with_the_scores_of_then(prefect_server, warehouse, recorded):
    text = mdmf("rescore", "--bank", "photos@2", "--promote", "--device", "cpu", "--warehouse", warehouse)
    assert "9 images of 2 shards" in text
    assert asked(warehouse, ROWS) == approximately(recorded["rescored"])


def test_the_plan_of_an_unfinished_corpus_is_found_by_the_same_work_and_read(warehouse, recorded):
    folder, (bank,) = f"{warehouse}.parts/plans/corpus", asked(warehouse, "SELECT url FROM banks WHERE version = 2")
    key = load_setup("default", bank["url"], "cpu", 8, 1, None).key
    assert work_of("s3://corpus/kept/*.tar", key, 1000, None) == recorded["corpus_work"]
    plan = unfinished_plan(folder, recorded["corpus_work"])
    assert plan is not None
    assert plan.model_dump() == recorded["corpus_plan"]
    listed = [Shard(**shard | {"keys": tuple(shard["keys"])}) for shard in recorded["listed"]]
    assert list_shards(plan.source, 1000) == listed
    path = plan_path(folder, plan.plan_id)
    assert [read_plan(path, portion) for portion in range(plan.portions)] == [[Work(shard, 0)] for shard in listed]


def test_the_plan_of_an_unfinished_run_is_read(warehouse, recorded):
    first, second = read_plan(plan_path(f"{warehouse}.parts/plans", recorded["run_plan"]), 0)
    assert (first.shard.url, first.generation, first.retry) == ("s3://corpus/kept/00000.tar", 2, ("storage", "decoder_timeout"))
    assert (second.shard.kind, second.generation, second.shard.keys) == ("folder", 1, (os.fsdecode(b"caf\xe9.jpg"), "a.jpg"))


def test_banks_load_under_the_digests_of_the_registry(warehouse):
    registry = "SELECT b.url, b.digest AS bank, c.digest AS calibration FROM banks b JOIN calibrations c USING (bank_id)"
    known = asked(warehouse, registry)
    assert len(known) == 2
    for row in known:
        bank, calibration = load_bank(row["url"])
        assert (bank.bank_id, calibration.calibration_id) == (row["bank"], row["calibration"])


def samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The samples of a folder of tars as a training loop reads them."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for key, entries in groupby(tar, lambda entry: entry.name.partition(".")[0]):
                files = {entry.name.partition(".")[2]: tar.extractfile(entry).read() for entry in entries}
                yield files | {"__url__": str(path), "__key__": key}


def test_the_keep_list_filters_a_stream_and_knows_every_image(kept, recorded):
    keep_list = KeepList(kept / "bucket" / "keep", verify="all")
    scored = {row["key"] for row in recorded["rows"]}
    assert {*recorded["flagged"]} < scored < {sample["__key__"] for sample in samples(kept / "bucket")}
    # The images that nothing speaks for or against are in it, and so are those that are kept.
    assert {sample["__key__"] for sample in keep_list.filter(samples(kept / "bucket"))} == scored - {*recorded["flagged"]}


def test_a_backup_is_restored_and_the_newer_part_lands(kept, warehouse, recorded):
    text = mdmf("restore", kept / "backup.duckdb", "--force", "--warehouse", warehouse)
    assert f"content {recorded['backup_content']}" in text
    assert "1 parts are newer than the backup" in text
    verified(warehouse, "--repair")
    assert asked(warehouse, ROWS) == approximately(recorded["rows"])
