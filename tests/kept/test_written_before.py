"""Files that commit b586786 wrote are read by this version: warehouse, parts, signatures, banks, plans, keep-list and backup.

README.md says how they were made. The source and the banks lie in a bucket, so that no path in the files belongs to a machine.
"""

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from warehouses import digest

from mdmf_core.keeplists.keeplist import KeepList
from mdmf_core.records import Shard
from tasks.collections.listing import list_shards
from tasks.maintenance.backup import restore
from tasks.maintenance.verify import verify
from tasks.parts.outcome import Work
from tasks.parts.plans import read_plan
from tasks.runs.fan_out.portions import corpus_folder, plan_path, unfinished_plan, work_of
from tasks.scoring.loading import load_bank, load_setup
from tasks.warehouse.address import parts_folder
from tasks.warehouse.questions import query

ARCHIVE = Path(__file__).with_name("written_by_b586786.tar.xz")
ROWS = "SELECT shard_url, key, score, mmd2, p_value, domain, in_support FROM scored ORDER BY shard_url, key"
SOURCE = "s3://corpus/kept/{00000..00001}.tar"


@pytest.fixture
def kept(signed_in: Path, tmp_path: Path) -> Path:
    """The folder of what was written, with its source in the bucket; times are kept, as shards are known by them."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "b586786"
    shutil.rmtree(signed_in / "kept", ignore_errors=True)
    shutil.copytree(folder / "bucket", signed_in / "kept")
    load_bank.cache_clear()
    return folder


@pytest.fixture
def warehouse(kept: Path) -> str:
    return str(kept / "w.duckdb")


@pytest.fixture
def recorded(kept: Path) -> dict[str, Any]:
    """What that commit itself said of the files."""
    found: dict[str, Any] = json.loads((kept / "expected.json").read_text())
    return found


def wrong(warehouse: str) -> list[object]:
    return [finding for finding in verify(warehouse) if not finding.note]


def test_the_warehouse_holds_what_it_held_and_agrees_with_its_parts(warehouse, recorded):
    assert digest(warehouse) == recorded["content"]
    assert query(warehouse, ROWS).to_dict("records") == recorded["rows"]
    for macro in ("flagged", "kept"):
        assert query(warehouse, f"SELECT key FROM {macro}(0.3) ORDER BY key")["key"].tolist() == recorded[macro]
    accounting = query(warehouse, "SELECT url, state, members, scored, excluded FROM accounting ORDER BY url")
    assert accounting.to_dict("records") == recorded["accounting"]
    assert wrong(warehouse) == []
    assert digest(warehouse) == recorded["content"]


def test_curating_again_finds_nothing_to_do(prefect_server, warehouse, recorded):
    from flows.curate import curate

    again = curate(SOURCE, warehouse=warehouse, bank="@production", device="cpu", keep_signatures=1.0)
    assert (again.shards, again.already_complete, again.complete) == (2, 2, 0)
    assert digest(warehouse) == recorded["content"]


def test_kept_signatures_are_scored_again_with_the_scores_of_then(prefect_server, warehouse, recorded):
    from flows.rescore import rescore

    assert rescore(bank="photos@2", warehouse=warehouse, promote=True, device="cpu").shards == 2
    rows = query(warehouse, ROWS).to_dict("records")
    assert [row | {"score": 0, "mmd2": 0} for row in rows] == [row | {"score": 0, "mmd2": 0} for row in recorded["rescored"]]
    for name in ("score", "mmd2"):  # other processors round otherwise
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in recorded["rescored"]], rel=1e-5, abs=1e-7)


def test_the_plan_of_an_unfinished_corpus_is_found_by_the_same_work_and_read(warehouse, recorded):
    folder, bank = corpus_folder(parts_folder(warehouse)), bank_url(warehouse, 2)
    key = load_setup("default", bank, "cpu", 8, 1, None).key
    assert work_of("s3://corpus/kept/*.tar", key, 1000, None) == recorded["corpus_work"]
    plan = unfinished_plan(folder, recorded["corpus_work"])
    assert plan is not None
    assert plan.model_dump() == recorded["corpus_plan"]
    listed = [Shard(**shard | {"keys": tuple(shard["keys"])}) for shard in recorded["listed"]]
    assert list_shards(plan.source, 1000) == listed
    path = plan_path(folder, plan.plan_id)
    assert [read_plan(path, portion) for portion in range(plan.portions)] == [[Work(shard, 0)] for shard in listed]


def test_the_plan_of_an_unfinished_run_is_read(warehouse, recorded):
    first, second = read_plan(plan_path(f"{parts_folder(warehouse)}/plans", recorded["run_plan"]), 0)
    assert (first.shard.url, first.generation, first.retry) == ("s3://corpus/kept/00000.tar", 2, ("storage", "decoder_timeout"))
    assert (second.shard.kind, second.generation, second.shard.keys) == ("folder", 1, (os.fsdecode(b"caf\xe9.jpg"), "a.jpg"))


def bank_url(warehouse: str, version: int) -> str:
    url: str = query(warehouse, "SELECT url FROM banks WHERE name = 'photos' AND version = ?", [version])["url"][0]
    return url


@pytest.mark.parametrize("version", [1, 2])
def test_banks_load_under_the_digests_of_the_registry(warehouse, version):
    bank, calibration = load_bank(bank_url(warehouse, version))
    known = query(
        warehouse,
        "SELECT b.digest AS bank, c.digest AS calibration FROM banks b JOIN calibrations c USING (bank_id) "
        "WHERE b.name = 'photos' AND b.version = ?",
        [version],
    )
    assert known.to_dict("records") == [{"bank": bank.bank_id, "calibration": calibration.calibration_id}]


def samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The samples of a folder of tars as a training loop reads them."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for key, entries in groupby(tar, lambda entry: entry.name.partition(".")[0]):
                files = {entry.name.partition(".")[2]: tar.extractfile(entry).read() for entry in entries}
                yield files | {"__url__": str(path), "__key__": key}


def test_the_keep_list_filters_a_stream_and_knows_every_image(kept, recorded):
    keep_list = KeepList(kept / "bucket" / "keep", verify="all")
    assert sorted(sample["__key__"] for sample in keep_list.filter(samples(kept / "bucket"))) == recorded["kept"]
    assert len(recorded["kept"]) < len([*samples(kept / "bucket")])


def test_a_backup_is_restored_and_the_newer_part_lands(kept, warehouse, recorded):
    restored = restore(str(kept / "backup.duckdb"), warehouse, force=True)
    assert restored.copied.content_digest == recorded["backup_content"]
    assert len(restored.not_landed) == 1
    verify(warehouse, repair=True)
    assert wrong(warehouse) == []
    rows = query(warehouse, ROWS).to_dict("records")
    assert rows == recorded["rows"]
