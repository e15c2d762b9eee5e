"""The table of shard formats: every row keeps the promises that the rest of the project builds on."""

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import encoded, write_tar

from mdmf_core.collections.formats import FILE_FORMATS, FORMATS, SHARD_SUFFIXES, ShardFormat, shard_kind
from mdmf_core.collections.raw_tar import end_of_archive
from mdmf_core.collections.tar import TarReader
from mdmf_core.errors import ShardUnfinished

IMAGES = {f"{number:04}": encoded(number) for number in range(5)}


def shard(row: ShardFormat, folder: Path) -> bytes:
    """A shard of this format with the images above; a new format adds its own writer here."""
    if row.kind == "tar":
        return write_tar(folder / "a.tar", {f"{key}.jpg": data for key, data in IMAGES.items()}).read_bytes()
    buffer = io.BytesIO()
    pq.write_table(pa.table({"key": list(IMAGES), "image": pa.array(IMAGES.values(), pa.binary())}), buffer)
    return buffer.getvalue()


every_format = pytest.mark.parametrize("row", FILE_FORMATS, ids=[row.kind for row in FILE_FORMATS])


@every_format
def test_a_reader_gives_every_member_and_finds_each_again_by_its_locator(row, tmp_path):
    data = shard(row, tmp_path)
    reader = row.open(io.BytesIO(data), len(data), 1 << 20)
    members = list(reader)
    assert {member.key: member.data for member in members} == IMAGES
    assert len(reader.digest) == 64
    (tmp_path / "shard").write_bytes(data)
    for member in members:
        with open(tmp_path / "shard", "rb", buffering=0) as file:
            assert row.read_member(file, member.locator, member.size) == member.data


@every_format
def test_a_reader_defers_what_is_cut_off(row, tmp_path):
    data = shard(row, tmp_path)[:-100]
    cut = data[: len(data) - len(data) % 512 - 9 * 1024] if row.kind == "tar" else data
    with pytest.raises(ShardUnfinished):
        list(row.open(io.BytesIO(cut), len(cut), 1 << 20))


@every_format
def test_a_reader_that_says_so_reads_from_the_first_byte_to_the_last(row, tmp_path):
    data = shard(row, tmp_path)

    class Forward(io.BytesIO):
        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation("only forward")

    if row.read_in_order:
        reader = row.open(Forward(data), len(data), 1 << 20)
        assert len(list(reader)) == len(IMAGES)
        assert reader.digest == hashlib.sha256(data).hexdigest()
    else:
        with pytest.raises(io.UnsupportedOperation):
            list(row.open(Forward(data), len(data), 1 << 20))


@every_format
def test_samples_that_are_copied_to_tars_are_tar_entries(row, tmp_path):
    if row.samples is None:
        assert row.copied_to != "tar"
        return
    data = shard(row, tmp_path)
    parts = b"".join(part for sample in row.samples(io.BytesIO(data), len(data), {"0001", "0003"}) for part in sample.parts)
    copy = parts + end_of_archive(len(parts))
    assert {member.key: member.data for member in TarReader(io.BytesIO(copy), len(copy), 1 << 20)} == {
        key: IMAGES[key] for key in ("0001", "0003")
    }


def test_a_name_has_one_format_and_separate_files_have_none():
    assert [shard_kind(f"x/A{suffix.upper()}") for suffix in SHARD_SUFFIXES] == [row.kind for row in FILE_FORMATS]
    assert shard_kind("x/a.jpg") is None
    assert [row.kind for row in FORMATS.values() if row.separate_files] == ["folder"]
    assert not FORMATS["folder"].names("x/folder")


def test_no_other_module_tests_for_a_kind_of_shard():
    root = Path(__file__).parents[3]
    tests = [f'kind {operator} "{kind}"' for operator in ("==", "!=") for kind in FORMATS]
    found = {
        str(path.relative_to(root))
        for room in ("collections", "storage", "keeplists", "scoring", "report")
        for layer in ("tasks", "mdmf_core")
        for path in (root / layer / room).rglob("*.py")
        if any(test in path.read_text() for test in tests)
    }
    assert found == {"tasks/keeplists/reshard.py"}  # which of the two writers of new shards, not which format was read
