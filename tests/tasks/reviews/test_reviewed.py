"""A verdict reaches everything that decisions reach: keep-lists, the report, backups; the digest of the content stays."""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from fabricate import encoded, landed, write_shard, write_tar

from mdmf import to_pandas as query
from mdmf_core.keeplists.keeplist import KeepList
from tasks.keeplists.export import ExportSettings, export
from tasks.keeplists.selection import Selection
from tasks.maintenance.backup import backup, restore
from tasks.maintenance.content_digest import content_digest
from tasks.report.write import NoEvidence, write_report
from tasks.reviews.csv_files import write_sample
from tasks.reviews.verdicts import import_reviews
from tasks.warehouse.warehouse import Warehouse

BUDGET = 0.2
ODD = ("=1+1", "new\nline", "k" * 600)


@pytest.fixture
def warehouse(setup, tmp_path) -> str:
    for name in ("even", "odd"):  # apart, since beside a shard with a stats file every shard needs one
        (tmp_path / name).mkdir()
    write_tar(tmp_path / "odd" / "x.tar", {f"{key}.jpg": encoded(900 + n) for n, key in enumerate(ODD)})
    write_shard(tmp_path / "even" / "x.tar", range(20))
    return landed(tmp_path / "w.duckdb", f"{tmp_path}/{{even,odd}}/x.tar", setup)


def review(warehouse: str, **verdicts: str) -> dict[str, str]:
    """Reviews one image for every decision of the score that is named; image ids by decision."""
    found = {}
    path = Path(warehouse).with_name("v.csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "verdict", "reason"])
        for decision, verdict in verdicts.items():
            sql = "SELECT image_id::VARCHAR FROM decisions(?) WHERE by_score = ? ORDER BY key LIMIT 1"
            found[decision] = query(warehouse, sql, [BUDGET, decision]).iloc[0, 0]
            writer.writerow([found[decision], verdict, "<b>hands</b>"])
    import_reviews(Warehouse.at(warehouse), str(path), "ana")
    return found


def exported(warehouse: str, out: Path, **selection: object) -> KeepList:
    export(ExportSettings(warehouse=warehouse, out=str(out), selection=Selection(budget=BUDGET, **selection)))
    return KeepList(out)


def test_keep_lists_follow_reviews_and_say_so(warehouse, tmp_path):
    found = review(warehouse, kept="generated", flagged="real")
    for which, image in (("kept", found["flagged"]), ("flagged", found["kept"])):
        keep = exported(warehouse, tmp_path / which, which=which)
        rows = keep.to_pandas().set_index("image_id")
        assert rows.loc[image, "decision"] == which
        assert rows[rows["decided_by"] == "review"].index.tolist() == [image]
        assert keep.manifest["decided_by_review"] == {"flagged": 1, "kept": 1}
    by_score = exported(warehouse, tmp_path / "discoveries", which="discoveries")
    assert by_score.manifest["decided_by_review"] == {}
    assert set(by_score.to_pandas()["decided_by"]) <= {"score"}


def test_the_report_says_what_reviewers_said(warehouse, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.report.facts._PREFERRED", BUDGET)

    def page(name: str) -> str:
        return Path(write_report(Warehouse.at(warehouse), "t", None, NoEvidence("no"), str(tmp_path / name))).read_text()

    assert 'id="reviewed"' not in page("before")
    found = review(warehouse, kept="generated", flagged="real")
    text = page("after")
    assert "Reviewers decided 1 flagged, 1 kept" in text
    assert text.count("reviewed: generated") >= 1
    assert "<b>hands</b>" not in text.replace("\\u003c", "<").split('id="data"')[0]
    records = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])["images"]
    record = records[found["kept"]]
    assert (record["decision"], record["by_score"], record["reviewed"]) == ("flagged", "kept", "generated")
    assert (record["reviewer"], record["reviewer_said"]) == ("ana", "<b>hands</b>")
    assert sum(record["reviewed"] is not None for record in records.values()) == 2


def test_backups_hold_reviews_and_the_content_digest_is_that_of_the_images_alone(warehouse, tmp_path):
    def digest(path: str) -> str:
        with Warehouse.at(path).connect(read_only=True) as connection:
            return content_digest(connection)

    before = digest(warehouse)
    review(warehouse, kept="generated", flagged="real")
    assert digest(warehouse) == before
    backup(Warehouse.at(warehouse), str(tmp_path / "b.duckdb"))
    restore(str(tmp_path / "b.duckdb"), Warehouse.at(str(tmp_path / "again.duckdb")))
    sql = "SELECT * FROM reviews ORDER BY image_id"
    assert len(query(warehouse, sql)) == 2
    pd.testing.assert_frame_equal(query(str(tmp_path / "again.duckdb"), sql), query(warehouse, sql))


def test_a_sample_opens_in_a_spreadsheet_without_formulas_and_comes_back(warehouse, tmp_path):
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        rows = connection.execute("SELECT 1, image_id, shard_url, key, score, p_value, caption, url FROM scored").fetchall()
    names = ("place", "image_id", "shard_url", "key", "score", "p_value", "caption", "url")
    write_sample(str(tmp_path / "look.csv"), [dict(zip(names, row, strict=True)) for row in rows])
    with (tmp_path / "look.csv").open(newline="") as file:
        given = list(csv.DictReader(file))
    assert not [row for row in given if row["key"][0] in "=+-@"]
    with (tmp_path / "done.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, given[0])
        writer.writeheader()
        writer.writerows(row | {"verdict": "real"} for row in given)
    assert import_reviews(Warehouse.at(warehouse), str(tmp_path / "done.csv"), "ana").new == 23
