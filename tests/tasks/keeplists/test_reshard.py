"""New shards: what is kept and nothing else, the same bytes, whole or not there."""

import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import jpeg, sample, scored_warehouse
from fabricate import ROOT, write_tar

from mdmf_core.errors import ArtifactError, KeepListError
from mdmf_core.keeplists.keeplist import KeepList
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard
from tasks.keeplists.export import ExportSettings, export
from tasks.keeplists.reshard import reshard
from tasks.warehouse.warehouse import Warehouse


def keep_list(root: Path, sources: Iterable[object], name: str = "keep", **selection: object) -> Path:
    warehouse = root / "w.duckdb"
    if not warehouse.exists():
        scored_warehouse(warehouse, sources)
    chosen = {"budget": 0.4, "unsure": "drop"} | selection
    export(ExportSettings(warehouse=str(warehouse), out=str(root / name), selection=chosen))
    return root / name


def files(path: Path) -> list[tuple[str, bytes, bytes]]:
    """Name, headers and data of an archive's files, as they stand there."""
    content, found = path.read_bytes(), []
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isfile():
                end = entry.offset_data + -(-entry.size // 512) * 512
                found.append((entry.name, content[entry.offset : entry.offset_data], content[entry.offset_data : end]))
    return found


def members(source: object) -> list[tuple[str, str]]:
    """Key and sha256 of what the readers of this project see."""
    found = []
    for shard in list_shards(str(source), 1000):
        assert shard.unfinished is None
        with open_shard(shard, 1 << 24) as reader:
            found += [(member.key, hashlib.sha256(member.data).hexdigest()) for member in reader]
    return sorted(found)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two shards that share their keys: odd modes, times and names, folder entries, a key that comes again."""
    (tmp_path / "in").mkdir()
    keys = [f"{key:09d}" for key in range(30)] + ["deep/" + "x" * 150, "deep/\u00fc\n'\"", "a b", "000000003"]
    for number, format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / "in" / f"0000{number}.tar", "w", format=format) as tar:
            folder = tarfile.TarInfo("deep")
            folder.type = tarfile.DIRTYPE
            for place, key in enumerate(keys):
                for name, data in sample(key, 100 * number + place).items():
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mtime, entry.mode, entry.uname = len(data), 1_600_000_000 + place, 0o640, "curator"
                    tar.addfile(entry, io.BytesIO(data))
                    tar.addfile(folder)
    return tmp_path


def kept_members(keep: KeepList) -> list[tuple[str, str]]:
    return sorted(pair for url in keep.shards for pair in keep.kept(url).items())


def test_kept_samples_come_with_all_their_files_and_the_same_bytes(tars):
    keep = KeepList(keep_list(tars, [tars / "in"]))
    done = reshard(keep.directory, str(tars / "out"))
    assert (done.shards, done.samples, done.already_there) == (2, len(keep), 0)
    assert members(tars / "out") == kept_members(keep)
    for shard in ("00000.tar", "00001.tar"):
        kept = set(keep.kept(f"/somewhere/{shard}"))
        before, after = files(tars / "in" / shard), files(tars / "out" / shard)
        wanted = [file for file in before[: 3 * 33] if file[0].rpartition(".")[0] in kept]  # not the key that comes again
        assert after == wanted
        assert 0 < len(wanted) < 3 * 33
        rows = pq.read_table(tars / "out" / shard.replace("tar", "parquet"))
        assert rows["key"].to_pylist() == [name.rpartition(".")[0] for name, *_ in after[::3]]
        assert rows["key"] == rows["source_key"]


def test_numbered_shards_hold_whole_old_ones_and_never_one_key_twice(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        first = 0 if number == 3 else 100 * number  # shard 3 has the keys of shard 0
        keys = {f"{first + key:09d}": 1000 * number + key for key in range(10)}
        write_tar(tmp_path / "in" / f"{number}.tar", dict(file for key in keys for file in sample(key, keys[key]).items()))
    keep = KeepList(keep_list(tmp_path, [tmp_path / "in"]))
    reshard(keep.directory, str(tmp_path / "out"), samples_per_shard=1000)
    stats = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*_stats.json"))]
    assert [[Path(source).name for source in one["sources"]] for one in stats] == [
        ["0.tar", "1.tar", "2.tar"],
        ["3.tar", "4.tar", "5.tar"],
    ]
    assert members(tmp_path / "out") == kept_members(keep)
    reshard(keep.directory, str(tmp_path / "small"), samples_per_shard=1)
    assert len(list((tmp_path / "small").glob("*.tar"))) == 6


def test_parquet_rows_stay_as_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        rows = range(100 * number, 100 * number + 80)
        images = pa.array([{"bytes": jpeg(row), "path": f"{row}.jpg"} for row in rows])
        table = pa.table({"image": images, "label": pa.array(rows, pa.int16()), "tags": [[str(row)] for row in rows]})
        table = table.replace_schema_metadata({"huggingface": '{"info": 1}'})
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet", row_group_size=17, compression="gzip")
    keep = KeepList(keep_list(tmp_path, [tmp_path / "in"]))
    for name, size in (("same", None), ("numbered", 1000)):
        reshard(keep.directory, str(tmp_path / name), samples_per_shard=size)
        assert members(f"{tmp_path / name}/*.parquet") == kept_members(keep)
        before = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "in").iterdir()))
        after = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / name).glob("*.parquet")))
        wanted = [f"{row}.jpg" in {key for key, _ in kept_members(keep)} for row in before["label"].to_pylist()]
        assert after.equals(before.filter(pa.array(wanted)), check_metadata=True)


def test_folders_become_tars_in_which_no_two_images_share_a_key(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub.dir").mkdir(parents=True)
    names = [f"sub.dir/{number}.jpg" for number in range(40)] + [
        "v1.0_a.jpg",
        "v1.0_b.jpg",
        "same.jpg",
        "same.png",
        "same.jpeg",
    ]
    for number, name in enumerate(names):
        (folder / name).write_bytes(jpeg(number))
    (folder / "same.txt").write_text("a caption")
    keep = KeepList(keep_list(tmp_path, [folder], sql="SELECT shard_url, key FROM scored"))
    assert len(keep) == len(names)
    reshard(keep.directory, str(tmp_path / "out"))
    found = members(tmp_path / "out")
    assert sorted(sha for _, sha in found) == sorted(sha for _, sha in kept_members(keep))
    assert len({key for key, _ in found}) == len(names)
    rows = pa.concat_tables(pq.read_table(path) for path in (tmp_path / "out").glob("*.parquet")).to_pandas()
    assert sorted(zip(rows["key"], rows["sha256"], strict=True)) == found
    assert sorted(rows["source_key"]) == sorted(names)
    captions = [name for path in (tmp_path / "out").glob("*.tar") for name, *_ in files(path) if name.endswith(".txt")]
    assert len(captions) == 3


KILLED = """
import os, signal, sys
from tasks.keeplists import reshard
write, calls = reshard.write_tar, []

def dying(keep, shard, path, block):
    calls.append(shard)
    if len(calls) == 3:
        open(path, "wb").write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(keep, shard, path, block)

reshard.write_tar = dying
reshard.reshard(sys.argv[1], sys.argv[2], workers=1)
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(5):
        write_tar(tmp_path / "in" / f"{number}.tar", sample("a", number) | sample("b", number + 10) | sample("c", number + 20))
    keep = keep_list(tmp_path, [tmp_path / "in"], sql="SELECT shard_url, key FROM scored WHERE key <> 'b'")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(keep), str(tmp_path / "out")], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    assert len(list((tmp_path / "out").glob("*.tmp"))) == 1
    (tmp_path / "out" / "1_stats.json").unlink()  # killed between data and stats
    assert reshard(str(keep), str(tmp_path / "out")).already_there == 1
    reshard(str(keep), str(tmp_path / "whole"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }
    assert reshard(str(keep), str(tmp_path / "out")).already_there == 5


def test_only_its_own_folder_is_written_to(tars):
    keep = keep_list(tars, [tars / "in"])
    with pytest.raises(ArtifactError, match="nothing is overwritten"):
        reshard(str(keep), str(tars / "in"))
    reshard(str(keep), str(tars / "out"))
    other = keep_list(tars, [], "other", which="flagged")
    with pytest.raises(ArtifactError, match="another keep_list"):
        reshard(str(other), str(tars / "out"))
    with pytest.raises(ArtifactError, match="another samples_per_shard"):
        reshard(str(keep), str(tars / "out"), samples_per_shard=10)
    with open(tars / "out" / "reshard.json", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ArtifactError, match="another process"):
            reshard(str(keep), str(tars / "out"))


def test_a_corpus_that_changed_is_refused_with_shard_and_key(tars):
    keep = KeepList(keep_list(tars, [tars / "in"]))
    key = sorted(keep.kept("00001.tar"))[0]
    content = (tars / "in" / "00001.tar").read_bytes()
    place = content.index(f"{key}.jpg".encode()) + 512 + 100
    (tars / "in" / "00001.tar").write_bytes(content[:place] + b"!" + content[place + 1 :])
    with pytest.raises(KeepListError, match=rf"00001\.tar, {key}: sha256"):
        reshard(keep.directory, str(tars / "out"))
    assert not (tars / "out" / "00001.tar").exists()
    (tars / "in" / "00001.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(KeepListError, match=r"00001\.tar"):
        reshard(keep.directory, str(tars / "out"))
    write_tar(tars / "in" / "00001.tar", sample("other", 1))
    with pytest.raises(KeepListError, match=r"00001\.tar, .* not there any more; \d+ kept members are missing"):
        reshard(keep.directory, str(tars / "out"))


def test_a_keep_list_that_the_warehouse_no_longer_shows_is_refused(tars):
    keep = keep_list(tars, [tars / "in"])
    reshard(str(keep), str(tars / "out"), warehouse=Warehouse.at(str(tars / "w.duckdb")))
    with Warehouse.at(str(tars / "w.duckdb")).connect() as connection:
        connection.execute("UPDATE banks SET digest = repeat('0', 64), name = 'other'")
    with pytest.raises(KeepListError, match="was made by bank photos"):
        reshard(str(keep), str(tars / "more"), warehouse=Warehouse.at(str(tars / "w.duckdb")))
    assert not (tars / "more").exists()


def test_shards_in_upper_case_and_of_view_types_are_copied_as_what_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    images = pa.array([jpeg(row) for row in range(3)], pa.binary_view())
    pq.write_table(pa.table({"key": ["a", "b", "c"], "image": images}), tmp_path / "in" / "A.PARQUET")
    write_tar(tmp_path / "B.TAR", sample("t", 1))
    keep = KeepList(keep_list(tmp_path, [tmp_path / "in", tmp_path / "B.TAR"], sql="SELECT shard_url, key FROM scored"))
    reshard(keep.directory, str(tmp_path / "out"))
    assert members(f"{tmp_path}/out/in/A.PARQUET") + members(f"{tmp_path}/out/B.TAR") == kept_members(keep)


def test_samples_of_several_images_and_files_that_lie_apart_go_along_and_can_be_copied_again(tmp_path):
    (tmp_path / "in").mkdir()
    contents = {
        "1.boxes.json": b"{}",
        "1.jpg": jpeg(1),
        "2.a.jpg": jpeg(2),
        "2.b.jpg": jpeg(3),
        "caf\udce9.jpg": jpeg(4),
        "1.txt": b"c",
    }
    write_tar(tmp_path / "in" / "a.tar", contents)
    keep = KeepList(keep_list(tmp_path, [tmp_path / "in"], sql="SELECT shard_url, key FROM scored"))
    assert {key for key, _ in kept_members(keep)} == {"1", "2.a", "2.b", "caf\\xe9"}
    reshard(keep.directory, str(tmp_path / "out"))
    assert files_of(tmp_path / "out" / "a.tar") == list(contents)
    assert members(tmp_path / "out" / "a.tar") == members(tmp_path / "in")


def test_a_file_whose_name_is_not_utf8_is_copied_with_its_caption(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("caf\udce9.jpg", "ok.jpg")):
        (tmp_path / "in" / name).write_bytes(jpeg(number))
    (tmp_path / "in" / "caf\udce9.txt").write_text("coffee")
    keep = keep_list(tmp_path, [tmp_path / "in"], sql="SELECT shard_url, key FROM scored")
    assert reshard(str(keep), str(tmp_path / "out")).samples == 2
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert files_of(shard) == ["caf\\xe9.jpg", "caf\\xe9.txt", "ok.jpg"]


def files_of(path: Path) -> list[str]:
    return [name for name, *_ in files(path)]
