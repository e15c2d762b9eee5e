"""The curate flow, banks, training and keep-lists through s3:// on a real S3 server that checks signatures."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import s3fs
from corpora import sample, scored_warehouse
from fabricate import CONTENT, build_settings, landed, write_labelled, write_shard, write_tar
from prefect.blocks.system import Secret
from s3_server import KEY, SECRET

from mdmf import to_pandas as query
from mdmf_core.errors import ArtifactError, MdmfError, SourceError
from tasks.banks.build import build
from tasks.collections.listing import list_shards
from tasks.keeplists.export import ExportSettings, export
from tasks.keeplists.reshard import reshard
from tasks.report.write import write_report
from tasks.scoring.loading import load_scorer, load_setup
from tasks.storage.filesystems import _block_options
from tasks.warehouse.warehouse import Warehouse


def test_s3_gives_the_same_rows_as_local_disk(curate, signed_in, tmp_path):
    for number in range(2):
        write_shard(signed_in / f"0000{number}.tar", range(number * 10, number * 10 + 5), {"z.html": b"<html>"})
    there = curate("s3://corpus/{00000..00001}.tar", warehouse=str(tmp_path / "s3.duckdb"))
    here = curate(f"{signed_in}/{{00000..00001}}.tar", warehouse=str(tmp_path / "local.duckdb"))
    assert (there.members, there.scored, there.excluded) == (here.members, here.scored, here.excluded) == (12, 10, 2)
    frames = [query(str(tmp_path / f"{name}.duckdb"), CONTENT) for name in ("s3", "local")]
    pd.testing.assert_frame_equal(*frames)
    digests = [query(str(tmp_path / f"{name}.duckdb"), "SELECT digest FROM shards ORDER BY url") for name in ("s3", "local")]
    pd.testing.assert_frame_equal(*digests)
    pictures = [sorted(path.name for path in (Path(run.report).parent / "pictures").iterdir()) for run in (there, here)]
    assert pictures[0] == pictures[1]  # read by range
    assert len(pictures[0]) == 3 * there.scored
    assert curate("s3://corpus/*.tar", warehouse=str(tmp_path / "s3.duckdb")).already_complete == 2


def test_the_report_is_written_to_s3_and_never_over_a_prefix_that_is_not_ours(signed_in, tiny_scorer, tiny_bank, tmp_path):
    setup = load_setup(tiny_scorer, tiny_bank, "cpu", 8, 1, None)
    warehouse = landed(tmp_path / "w.duckdb", write_shard(tmp_path / "00000.tar", range(3)), setup)
    for _ in range(2):  # new, and over our own
        assert (
            write_report(Warehouse.at(warehouse), "t", None, setup, "s3://corpus/reports/one")
            == "s3://corpus/reports/one/index.html"
        )
    here = Path(write_report(Warehouse.at(warehouse), "t", None, setup)).parent
    names = [sorted(path.name for path in (folder / "pictures").iterdir()) for folder in (signed_in / "reports" / "one", here)]
    assert names[0] == names[1]
    (signed_in / "mine").mkdir()
    (signed_in / "mine" / "index.html").write_text("mine")
    with pytest.raises(ArtifactError, match="is not a report of mdmf"):
        write_report(Warehouse.at(warehouse), "t", None, setup, "s3://corpus/mine")
    assert [path.name for path in (signed_in / "mine").iterdir()] == ["index.html"]


def test_credentials_from_a_prefect_block(curate, bucket, tmp_path, monkeypatch):
    folder, endpoint = bucket
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    write_shard(folder / "block.tar", range(3))
    options = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"}}
    Secret(value=options).save("corpus-bucket", overwrite=True)
    _block_options.cache_clear()
    warehouse = tmp_path / "w.duckdb"
    assert curate("s3://corpus/block.tar", warehouse=str(warehouse), storage_block="corpus-bucket").scored == 3
    everything = warehouse.read_bytes() + b"".join(path.read_bytes() for path in tmp_path.rglob("*.parquet"))
    assert SECRET.encode() not in everything


def test_banks_are_read_from_and_written_to_s3(curate, signed_in, tiny_scorer, real_folder, tmp_path):
    shutil.rmtree(signed_in / "banks", ignore_errors=True)
    built = build(build_settings(real_folder, "s3://corpus/banks", tiny_scorer, points=50), load_scorer(tiny_scorer, "cpu"))
    source = write_shard(tmp_path / "00000.tar", range(2))
    shutil.rmtree(signed_in / "banks")  # a killed build leaves some files and no card
    (signed_in / "banks" / Path(built.directory).name).mkdir(parents=True)
    (signed_in / "banks" / Path(built.directory).name / "calibration.json").write_bytes(b"{")
    again = build(build_settings(real_folder, "s3://corpus/banks", tiny_scorer, points=50), load_scorer(tiny_scorer, "cpu"))
    assert again == built
    assert curate(source, bank=built.directory).scored == 2
    found = query(str(tmp_path / "warehouse.duckdb"), "SELECT digest FROM banks")["digest"][0]
    assert found == built.bank_id


def test_wrong_bucket_and_wrong_secret_are_one_clear_sentence(signed_in, monkeypatch):
    with pytest.raises(SourceError, match=r"s3://nowhere: not found"):
        list_shards("s3://nowhere/*.tar", 1000)
    write_shard(signed_in / "00000.tar", range(1))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match=r"s3://corpus"):
        list_shards("s3://corpus/00000.tar", 1000)


def test_training_reads_from_s3_and_publishes_there(prefect_server, signed_in, tmp_path):
    from flows.train import train_pfs

    write_labelled(signed_in / "labelled", images=8)
    arguments = {
        "objectives": ("mmd-d",),
        "backbone": "forensic",
        "views": 1,
        "steps_per_arm": 5,
        "points": 50,
        "device": "cpu",
    }
    there = train_pfs("s3://corpus/labelled", "s3://corpus/scorers/mine", cache=str(tmp_path / "a"), **arguments)
    here = train_pfs(str(signed_in / "labelled"), str(tmp_path / "mine"), cache=str(tmp_path / "b"), **arguments)
    assert there.scorer_id == here.scorer_id
    setup = load_setup("s3://corpus/scorers/mine", "default", "cpu", 8, 1, None)
    assert setup.scorer.scorer_id == there.scorer_id
    with pytest.raises(MdmfError, match="exists"):
        train_pfs("s3://corpus/labelled", "s3://corpus/scorers/mine", cache=str(tmp_path / "a"), **arguments)


def test_keep_lists_and_new_shards_on_s3(signed_in, tmp_path):
    (signed_in / "raw").mkdir(exist_ok=True)
    for number in range(2):
        write_tar(
            signed_in / "raw" / f"{number}.tar", sample("a", number) | sample("b", number + 10) | sample("c", number + 20)
        )
    warehouse = scored_warehouse(tmp_path / "w.duckdb", ["s3://corpus/raw/*.tar"])
    settings = {"warehouse": warehouse, "selection": {"sql": "SELECT shard_url, key FROM scored WHERE key <> 'b'"}}
    export(ExportSettings(out="s3://corpus/lists/keep", formats=("csv",), **settings))
    with pytest.raises(ArtifactError, match="exists"):
        export(ExportSettings(out="s3://corpus/lists/keep", **settings))
    export(ExportSettings(out=str(tmp_path / "keep"), **settings))
    assert reshard("s3://corpus/lists/keep", "s3://corpus/new-shards").samples == 4
    assert reshard("s3://corpus/lists/keep", "s3://corpus/new-shards").already_there == 2
    reshard(str(tmp_path / "keep"), str(tmp_path / "kept"))
    for name in ("0.tar", "1.tar", "0.parquet"):
        assert (signed_in / "new-shards" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    with pytest.raises(ArtifactError, match="nothing is overwritten"):
        reshard(str(tmp_path / "keep"), "s3://corpus/raw")
    with pytest.raises(ArtifactError, match="another keep_list"):
        reshard(str(tmp_path / "keep"), "s3://corpus/new-shards")
    (signed_in / "raw" / "1.tar").unlink()
    (signed_in / "new-shards" / "1_stats.json").unlink()
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match=r"s3://corpus/raw/1\.tar: not found"):
        reshard("s3://corpus/lists/keep", "s3://corpus/new-shards")
