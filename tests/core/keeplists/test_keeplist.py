"""The filter of streams: what is kept is read, what is not is not, and another corpus is noticed."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from corpora import jpeg, sample, scored_warehouse
from fabricate import write_tar
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mdmf_core.errors import KeepListError
from mdmf_core.keeplists.files import datacomp_uids
from mdmf_core.keeplists.keeplist import KeepList
from tasks.keeplists.export import ExportSettings, export

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its shards open
KEYS = [f"{key:09d}" for key in range(40)] + ["new\nline", "ümlaut/a b", "\udcff"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards that share their keys, of the last one nothing kept, and one parquet shard; with the keep-list in `keep`."""
    root = tmp_path_factory.mktemp("corpus")
    for shard in range(3):
        files = [file for place, key in enumerate(KEYS) for file in sample(key, 100 * shard + place).items()]
        write_tar(root / f"0000{shard}.tar", dict(files))
    rows = pa.table({"jpg": [jpeg(1000 + row) for row in range(100)], "row": range(100)})
    pq.write_table(rows, root / "a.parquet", row_group_size=30)
    warehouse = scored_warehouse(root / "w.duckdb", [root / "*.tar", root / "a.parquet"])
    selection = {"budget": 0.4, "unsure": "drop", "where": "shard_url NOT LIKE '%00002.tar'"}
    export(ExportSettings(warehouse=warehouse, out=str(root / "keep"), selection=selection))
    return root


def urls(corpus: Path) -> list[str]:
    return [str(path) for path in sorted(corpus.glob("*.tar"))]


def stream(urls: list[str]) -> wds.WebDataset:
    return wds.WebDataset(urls, shardshuffle=False, empty_check=False)


def kept(keep: KeepList, urls: list[str]) -> list[tuple[str, str]]:
    return [(url, key) for url in urls for key in sorted(keep.kept(url), key=list(map(_seen, KEYS)).index)]


def _seen(key: str) -> str:
    return key.replace("\udcff", "\\xff")


def test_webdataset_reads_the_kept_samples_and_no_other(corpus):
    keep = KeepList(corpus / "keep", verify="all")
    pairs = [(one["__url__"], _seen(one["__key__"])) for one in stream(urls(corpus)).compose(keep.filter)]
    assert pairs == kept(keep, urls(corpus))
    assert 0 < len(pairs) < 2 * len(KEYS)
    assert [(one["__url__"], _seen(one["__key__"])) for one in stream(urls(corpus)).select(keep.keeps)] == pairs
    assert len({key for _, key in pairs}) < len(pairs)  # keys of both shards: a list by key alone would not tell them apart


def test_workers_of_a_data_loader_read_the_same(corpus):
    keep = KeepList(corpus / "keep")
    data = stream(urls(corpus)).compose(keep.filter).to_tuple("__url__", "__key__", "jpg").batched(4)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    found = sorted((url, _seen(key)) for batch in loader for url, key in zip(batch[0], batch[1], strict=True))
    assert found == sorted(kept(keep, urls(corpus)))


def test_a_copy_elsewhere_is_recognised_by_the_end_of_its_path(corpus):
    keep = KeepList(corpus / "keep")
    first = keep.kept(urls(corpus)[0])
    for url in (
        "s3://bucket/laion/00000.tar",
        "https://host/00000.tar?sig=1",
        "pipe:aws s3 cp s3://b/00000.tar -",
        "00000.tar",
    ):
        assert keep.kept(url) == first
    assert keep.kept(urls(corpus)[2]) == {}


def test_of_shards_with_one_name_the_longer_path_decides(tmp_path):
    for folder in ("a/x", "b/x", "b/y"):
        (tmp_path / folder).mkdir(parents=True)
        write_tar(tmp_path / folder / "0.tar", sample("k", len(folder) + ord(folder[0]) + ord(folder[2])))
    warehouse = scored_warehouse(tmp_path / "w.duckdb", [tmp_path / "*" / "*" / "0.tar"])
    export(ExportSettings(warehouse=warehouse, out=str(tmp_path / "keep"), selection={"sql": "SELECT image_id FROM scored"}))
    keep = KeepList(tmp_path / "keep")
    assert keep.shard("s3://b/y/0.tar").shard_url == str(tmp_path / "b" / "y" / "0.tar")
    with pytest.raises(KeepListError, match=r"may be .* or "):
        keep.shard("s3://c/x/0.tar")


def test_a_shard_that_the_list_has_never_seen_is_an_error_unless_one_decides(corpus, tmp_path):
    write_tar(tmp_path / "other.tar", sample("000000001", 1))
    read = {}
    for missing in ("drop", "keep"):
        keep = KeepList(corpus / "keep", missing=missing)
        read[missing] = [one["__key__"] for one in stream([str(tmp_path / "other.tar")]).compose(keep.filter)]
    assert read == {"drop": [], "keep": ["000000001"]}
    with pytest.raises(KeepListError, match=r"other\.tar is not among the 4 shards of keep-list"):
        list(stream([str(tmp_path / "other.tar")]).compose(KeepList(corpus / "keep").filter))
    with pytest.raises(ValueError, match="missing is one of error, drop, keep; got 'maybe'"):
        KeepList(corpus / "keep", missing="maybe")


def test_another_corpus_with_the_same_names_is_noticed_at_its_first_image(corpus, tmp_path):
    files = [file for place, key in enumerate(KEYS) for file in sample(key, 9000 + place).items()]
    write_tar(tmp_path / "00000.tar", dict(files))
    here = [str(tmp_path / "00000.tar")]
    with pytest.raises(KeepListError, match=r"00000\.tar, .*: sha256 .* when it was scored"):
        list(stream(here).compose(KeepList(corpus / "keep").filter))
    blind = KeepList(corpus / "keep", verify="none")
    assert len(list(stream(here).compose(blind.filter))) == len(blind.kept(here[0]))


def test_one_changed_image_is_found_when_all_are_verified(corpus, tmp_path):
    keep = KeepList(corpus / "keep", verify="all")
    changed = sorted(keep.kept("00000.tar"))[3]
    files = [file for place, key in enumerate(KEYS) for file in sample(key, place + 7000 * (key == changed)).items()]
    write_tar(tmp_path / "00000.tar", dict(files))
    with pytest.raises(KeepListError, match=rf"00000\.tar, {changed}: sha256"):
        list(stream([str(tmp_path / "00000.tar")]).compose(keep.filter))
    first = KeepList(corpus / "keep")
    assert len(list(stream([str(tmp_path / "00000.tar")]).compose(first.filter))) == len(first.kept("00000.tar"))


def test_verifying_needs_bytes_and_says_so(corpus):
    decoded = ({"__url__": "00000.tar", "__key__": key, "jpg": object()} for key in KEYS)
    with pytest.raises(ValueError, match="filter before decoding"):
        list(KeepList(corpus / "keep").filter(decoded))
    with pytest.raises(ValueError, match="needs __url__ and __key__, got jpg"):
        list(KeepList(corpus / "keep").filter([{"jpg": b""}]))


def test_rows_of_a_parquet_shard_are_found_by_their_number(corpus):
    keep = KeepList(corpus / "keep", verify="all")
    path = str(corpus / "a.parquet")
    for size in (1, 7, 1000):
        batches = keep.filter_batches(pq.ParquetFile(path).iter_batches(size), path)
        found = pa.Table.from_batches(batches)
        assert [f"row-{row}" for row in found["row"].to_pylist()] == sorted(keep.kept(path), key=lambda key: int(key[4:]))
    with pytest.raises(KeepListError, match="has 60 rows, 100 when it was scored"):
        list(keep.filter_batches(pq.read_table(path).slice(0, 60).to_batches(), path))
    moved = pq.read_table(path).slice(1)
    with pytest.raises(KeepListError, match=r"a\.parquet, row-\d+: sha256"):
        list(keep.filter_batches(moved.to_batches(), path))
    with pytest.raises(KeepListError, match="not among"):
        list(keep.filter_batches([], "other.parquet"))


def test_a_pickled_list_is_the_same_list(corpus):
    keep = pickle.loads(pickle.dumps(KeepList(corpus / "keep", missing="drop", verify="all")))
    assert (keep.missing, keep.verify) == ("drop", "all")
    assert len(keep.to_pandas()) == len(keep) == len(keep.to_table(["key"]))
    assert json.loads((corpus / "keep" / "manifest.json").read_text()) == keep.manifest


@given(st.lists(st.text("0123456789abcdef", min_size=32, max_size=32)))
def test_sorted_hexadecimal_is_the_order_that_datacomp_sorts_by(uids):
    theirs = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))
    theirs.sort()
    ours = datacomp_uids(sorted(uids))
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()
    saved = io.BytesIO()
    np.save(saved, ours)
    assert np.load(io.BytesIO(saved.getvalue())).tolist() == theirs.tolist()
