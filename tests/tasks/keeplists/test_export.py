"""Keep-lists: what is in them, what they say of themselves, and what is refused."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from corpora import IDS, jpeg, sample, scored_warehouse
from fabricate import write_tar

from mdmf import to_pandas as query
from mdmf_core.errors import ArtifactError, KeepListError, MdmfError
from mdmf_core.keeplists.keeplist import KeepList
from tasks.keeplists.export import ExportSettings, export
from tasks.warehouse.warehouse import Warehouse

HOSTILE = ['quo"te', "new\nline", "com,ma", "a/b", "=1+1", "ümlaut", "\udcff", "NA"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards that share their keys, one with hostile keys, and members without a score."""
    root = tmp_path_factory.mktemp("corpus")
    for shard in range(2):
        files: dict[str, bytes] = {}
        for number in range(40):
            uid = f"{number if number == 7 else 1000 * shard + number:032X}"  # image 7 has one uid in both
            files |= sample(f"{number:09d}", 1000 * shard + number, uid=uid)
        write_tar(root / f"0000{shard}.tar", files | {"x.html": b"<html>"})
    hostile = {f"{key}.jpg": jpeg(5000 + number) for number, key in enumerate(HOSTILE)}
    write_tar(root / "hostile.tar", hostile | {"small.jpg": b"\xff\xd8\xffsmall"})
    return root


@pytest.fixture(scope="module")
def warehouse(corpus: Path) -> str:
    return scored_warehouse(corpus / "w.duckdb", [corpus / "*.tar"])


def run(warehouse: str, out: Path, **changes: object) -> Path:
    selection = {name: changes.pop(name) for name in tuple(changes) if name not in ("formats", "uid")}
    export(ExportSettings(warehouse=warehouse, out=str(out), selection=selection, **changes))
    return out


def expected(warehouse: str, condition: str) -> list[tuple[str, str]]:
    frame = query(warehouse, f"SELECT shard_url, key FROM decisions(0.05) WHERE {condition}")
    return sorted(frame.itertuples(index=False, name=None))


def pairs(keep: KeepList) -> list[tuple[str, str]]:
    table = keep.to_table(["shard_url", "key"])
    return list(zip(table["shard_url"].to_pylist(), table["key"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("selection", "condition"),
    [
        ({}, "decision IN ('kept', 'unsure')"),
        ({"unsure": "drop"}, "decision = 'kept'"),
        ({"which": "flagged"}, "decision = 'flagged'"),
        ({"which": "unsure"}, "decision = 'unsure'"),
        ({"which": "surely"}, "in_support AND p_value <= 0.03"),
        ({"where": "bytes > 0 AND key < '000000010' -- a comment"}, "decision <> 'flagged' AND key < '000000010'"),
        ({"sql": "SELECT shard_url, key FROM scored WHERE score > 0.5"}, "score > 0.5"),
        ({"sql": "SELECT image_id FROM flagged(0.05)"}, "decision = 'flagged'"),
    ],
)
def test_the_list_holds_what_the_macros_say_in_order(warehouse, tmp_path, selection, condition):
    keep = KeepList(run(warehouse, tmp_path / "keep", **selection))
    assert pairs(keep) == expected(warehouse, condition)
    assert len(keep) > 0


def test_every_member_is_accounted_for_and_the_manifest_says_by_what(warehouse, tmp_path):
    manifest = json.loads((run(warehouse, tmp_path / "keep") / "manifest.json").read_text())
    members = query(warehouse, "SELECT sum(members)::BIGINT AS n FROM accounting")["n"][0]
    assert sum(manifest["decisions"].values()) + sum(manifest["excluded"].values()) == members
    assert manifest["rows"] == manifest["decisions"]["kept"] + manifest["decisions"]["unsure"]
    assert manifest["excluded"] == {"not_an_image": 2, "too_small": 1}
    assert {kind: manifest[kind]["digest"] for kind in IDS} == IDS
    assert "unsure images are in" in manifest["meaning"]
    assert len(query(warehouse, manifest["query"])) == manifest["rows"]
    inside = json.loads(pq.read_metadata(tmp_path / "keep" / "keep.parquet").metadata[b"mdmf"])
    assert inside == {name: value for name, value in manifest.items() if name not in ("rows", "files")}


def test_members_without_a_score_are_kept_on_request_if_their_bytes_can_be_checked(warehouse, tmp_path):
    kept = KeepList(run(warehouse, tmp_path / "keep", keep_excluded=("too_small",))).to_pandas()
    assert kept[kept.decision == "excluded"].key.tolist() == ["small"]
    for reason, said in (("not_an_image", "not decoded"), ("truncated", "reasons there: not_an_image, too_small")):
        with pytest.raises(MdmfError, match=said):
            run(warehouse, tmp_path / "other", keep_excluded=(reason,))


def test_csv_survives_hostile_keys(warehouse, tmp_path):
    out = run(warehouse, tmp_path / "keep", formats=("csv",))
    with open(out / "keep.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    frame = KeepList(out).to_pandas()
    assert [(row["shard_url"], row["key"], row["sha256"]) for row in rows] == [
        tuple(row) for row in frame[["shard_url", "key", "sha256"]].itertuples(index=False)
    ]
    assert [float(row["score"]) for row in rows] == frame["score"].tolist()
    assert {'quo"te', "new\nline", "\\xff"} & set(frame.key) == {'quo"te', "new\nline", "\\xff"} & {row["key"] for row in rows}
    assert pd.read_csv(out / "keep.csv", keep_default_na=False, dtype={"key": str}).key.tolist() == frame.key.tolist()


def test_datacomp_gets_its_sorted_pairs(warehouse, tmp_path):
    out = run(
        warehouse, tmp_path / "keep", formats=("datacomp",), sql="SELECT * FROM scored WHERE shard_url NOT LIKE '%hostile%'"
    )
    uids = KeepList(out).to_table(["uid"])["uid"].to_pylist()
    assert len(uids) == len(set(uids)) + 1
    pair = np.dtype("u8,u8")
    wanted = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in set(uids)], pair)
    wanted.sort()
    found = np.load(out / "keep.npy")
    assert found.dtype == pair
    assert found.tolist() == wanted.tolist()
    with pytest.raises(MdmfError, match="images have no uid of 32 hexadecimal digits"):
        run(warehouse, tmp_path / "other", formats=("datacomp",))
    assert not (tmp_path / "other").exists()
    own = run(warehouse, tmp_path / "own", formats=("datacomp",), uid="image_id")
    assert len(np.load(own / "keep.npy")) == len(KeepList(own))
    none = run(warehouse, tmp_path / "none", formats=("datacomp",), where="false")
    assert np.load(none / "keep.npy").shape == (0,)


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"budget": 0.0001}, "it would take 9999"),
        ({"which": "surely", "budget": 0.07}, "not one of those in `budgets`"),
        ({"where": "beauty > 3"}, r'"beauty" not found.*the columns are shard_id, key, .*caption'),
        ({"where": "1 = 1); DELETE FROM scores; SELECT (1"}, "one SELECT is allowed"),
        ({"where": "score >"}, "syntax error"),
        ({"sql": "DELETE FROM scores"}, "one SELECT is allowed"),
        ({"sql": "SELECT key FROM scored"}, "must give shard_url and key, or image_id"),
        ({"sql": "SELECT shard_url, key FROM excluded"}, "gives 3 rows that are no scored images"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_nothing_is_written(warehouse, tmp_path, selection, said):
    with pytest.raises(MdmfError, match=said):
        run(warehouse, tmp_path / "keep", **selection)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(warehouse, tmp_path):
    (tmp_path / "keep").mkdir()
    with pytest.raises(ArtifactError, match="exists"):
        run(warehouse, tmp_path / "keep")
    assert list((tmp_path / "keep").iterdir()) == []
    stamped = export(ExportSettings(warehouse=warehouse, out=str(tmp_path / "at-{time}"), selection={}))
    assert Path(stamped.directory).exists()


def test_a_warehouse_without_a_promoted_bank_has_no_list(tmp_path):
    with pytest.raises(MdmfError, match="no warehouse"):
        run(str(tmp_path / "none.duckdb"), tmp_path / "keep")
    from tasks.warehouse.migrations import migrate

    with Warehouse.at(str(tmp_path / "w.duckdb")).connect() as connection:
        migrate(connection)
    with pytest.raises(MdmfError, match="run `mdmf curate SOURCE` first"):
        run(str(tmp_path / "w.duckdb"), tmp_path / "keep")


def test_a_list_that_is_not_the_one_of_its_manifest_is_refused(warehouse, tmp_path):
    out = run(warehouse, tmp_path / "keep")
    other = run(warehouse, tmp_path / "other", which="flagged")
    (out / "keep.parquet").write_bytes((other / "keep.parquet").read_bytes())
    with pytest.raises(KeepListError, match=r"keep\.parquet is not the file of this manifest"):
        KeepList(out)
    said = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(said.replace('"budget": 0.05', '"budget": 0.01'))
    with pytest.raises(KeepListError, match=r"manifest\.json is not that of keep\.parquet: selection differs"):
        KeepList(other)
    (out / "keep.parquet").unlink()
    with pytest.raises(KeepListError, match="missing"):
        KeepList(out)
    with pytest.raises(KeepListError, match="not a keep-list"):
        KeepList(tmp_path)
    (other / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(KeepListError, match="mdmf-keep-list/1"):
        KeepList(other)


def test_a_list_by_another_scorer_is_refused(warehouse, tmp_path):
    out = run(warehouse, tmp_path / "keep")
    KeepList(out, scorer="made", bank=IDS["bank"][:12], calibration=IDS["calibration"])
    for kind in ("scorer", "bank", "calibration"):
        with pytest.raises(KeepListError, match=f"was made by {kind} "):
            KeepList(out, **{kind: "0123456789ab"})


def test_the_reader_needs_neither_torch_nor_a_database():
    code = (
        "import sys, mdmf_core.keeplists.keeplist; print(sorted({'torch', 'prefect', 'duckdb', 'fsspec'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
