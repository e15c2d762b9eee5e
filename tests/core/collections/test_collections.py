"""Readers of tar, parquet and folder shards, and source URLs."""

import hashlib
import io
import subprocess
import tarfile

import pandas as pd
import pytest
from fabricate import encoded, write_shard, write_tar
from hypothesis import given
from hypothesis import strategies as st

from mdmf_core.collections.brace_patterns import expand_braces
from mdmf_core.collections.folder import slices
from mdmf_core.collections.formats import shard_kind
from mdmf_core.collections.parquet import ParquetReader, parquet_row
from mdmf_core.collections.tar import TarReader
from mdmf_core.collections.text import original_url, readable, was_resized
from mdmf_core.errors import ShardCorrupt, ShardUnfinished, SourceError
from mdmf_core.records import ExclusionReason, Member


def read(data: bytes, max_bytes: int = 1 << 20, size: int | None = None) -> tuple[list[Member], str]:
    reader = TarReader(io.BytesIO(data), len(data) if size is None else size, max_bytes)
    return list(reader), reader.digest


def test_img2dataset_layout_with_captions_urls_and_locators(tmp_path):
    data = write_shard(tmp_path / "00000.tar", range(3)).read_bytes()
    members, digest = read(data)
    assert [member.key for member in members] == ["000000000", "000000001", "000000002"]
    assert members[1].caption == "caption 1"
    assert members[1].url == "https://example.org/1.jpg"
    assert digest == hashlib.sha256(data).hexdigest()
    for seed, member in enumerate(members):
        assert data[member.locator : member.locator + member.size] == member.data == encoded(seed)


def test_key_ends_at_the_first_dot_of_the_name(tmp_path):
    members, _ = read(write_tar(tmp_path / "a.tar", {"a.b/000012.seg.png": b"x", "../../etc/passwd.jpg": b"y"}).read_bytes())
    assert [member.key for member in members] == ["a.b/000012", "../../etc/passwd"]


def test_duplicates_orphans_and_large_members_are_rows_not_losses(tmp_path):
    files = {"1.jpg": b"a", "2.txt": b"alone", "3.png": b"c", "3.webp": b"d", "4.jpg": b"e" * 2000}
    data = write_tar(tmp_path / "a.tar", files).read_bytes()
    members, _ = read(data, max_bytes=1000)
    assert [(member.key, member.excluded) for member in members] == [
        ("1", None),
        ("2", ExclusionReason.NO_IMAGE),
        ("3", None),
        ("3", ExclusionReason.DUPLICATE_KEY),
        ("4", ExclusionReason.TOO_LARGE),
    ]
    assert members[4].data == b""


def test_links_and_devices_are_excluded(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dev.jpg", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    members, _ = read(path.read_bytes())
    assert [member.excluded for member in members] == [ExclusionReason.NOT_A_FILE] * 3


def test_undecodable_names_become_readable(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo("caf\udce9.jpg")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    assert read(path.read_bytes())[0][0].key == "caf\\xe9"


def test_every_unfinished_archive_is_told_from_a_whole_one(tmp_path):
    data = write_tar(tmp_path / "a.tar", {f"{n}.jpg": b"x" * 700 for n in range(3)}).read_bytes()
    entries = 3 * (512 + 1024)
    assert len(read(data)[0]) == 3
    for cut in (entries, entries - 100, 512 + 1024 + 600):
        with pytest.raises(ShardUnfinished):
            read(data[:cut])
    with pytest.raises(ShardUnfinished, match="listed"):
        read(data, size=len(data) + 512)
    with pytest.raises(ShardUnfinished):
        read(b"")


def test_damaged_header_in_the_middle_is_not_a_silent_end(tmp_path):
    data = bytearray(write_tar(tmp_path / "a.tar", {f"{n}.jpg": b"x" * 700 for n in range(3)}).read_bytes())
    data[512 + 1024 + 150] ^= 0xFF
    with pytest.raises(ShardCorrupt):
        read(bytes(data))


@given(st.lists(st.tuples(st.integers(0, 50), st.binary(max_size=1500)), max_size=12))
def test_every_file_of_any_tar_is_accounted_for(tmp_path_factory, files):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number, data in files:
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    members, digest = read(path.read_bytes())
    assert [(int(m.key), m.size) for m in members] == [(number, len(data)) for number, data in files]
    first = dict(reversed(files))
    assert {int(m.key): m.data for m in members if m.excluded is None} == first
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, row_group_size=2)
    return buffer.getvalue()


def test_parquet_of_hub_and_img2dataset_and_its_keys():
    hub = pd.DataFrame(
        {"image": [{"bytes": b"a", "path": "a.png"}, {"bytes": b"b", "path": None}, None], "text": ["x", "y", "z"]}
    )
    members = list(ParquetReader(io.BytesIO(parquet(hub)), 1000))
    assert [(m.key, m.data, m.caption, m.excluded) for m in members] == [
        ("a.png", b"a", "x", None),
        ("row-1", b"b", "y", None),
        ("row-2", b"", "z", ExclusionReason.EMPTY),
    ]
    plain = pd.DataFrame({"key": ["1", "1", "2"], "jpg": [b"a", b"b", b"c" * 2000], "url": ["u"] * 3})
    members = list(ParquetReader(io.BytesIO(parquet(plain)), 1000))
    assert [(m.key[:2], m.excluded) for m in members] == [("1", None), ("1#", None), ("2", ExclusionReason.TOO_LARGE)]
    assert members[0].url == "u"
    assert [parquet_row(io.BytesIO(parquet(plain)), row)[:1] for row in range(3)] == [b"a", b"b", b"c"]


def test_parquet_without_images_and_cut_off():
    with pytest.raises(ShardCorrupt, match="looked for image, bytes"):
        ParquetReader(io.BytesIO(parquet(pd.DataFrame({"x": [1]}))), 1000)
    with pytest.raises(ShardUnfinished):
        ParquetReader(io.BytesIO(parquet(pd.DataFrame({"jpg": [b"x"]}))[:-20]), 1000)


@given(st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=200), st.integers(1, 40))
def test_slices_hold_every_key_once(keys, per_slice):
    dealt = slices(keys, per_slice)
    assert sorted(key for part in dealt for key in part) == sorted(keys)
    more = slices(keys | {"a key that is new"}, per_slice)
    if len(keys) + 1 <= per_slice:
        assert len(more) == len(dealt) == 1


def test_a_new_key_touches_one_slice_only():
    keys = {f"{number}.jpg" for number in range(100)}
    before, after = slices(keys, 30), slices(keys | {"new.jpg"}, 30)
    assert len(before) == len(after) == 4
    assert sum(part not in before for part in after) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "{a,{b,c}}",
        "a{x,y{1..2}}b",
        "a{1..2}{x,y}.tar",
        "s3://b/{train,val-{0,1}}/{098..101}.tar",
        "{{a,b},{c,d{08..10}}}",
        "a{{1..2},c}",
        "{8..010}",
        "{001..3}",
        "{000..6..3}",
        "{a..c}",
        "{,x}y",
        "a{b",
        "a}b{1,2}",
        "{a,b}}",
        "plain.tar",
    ],
)
def test_braces_expand_as_in_bash(pattern):
    printed = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == printed.stdout.splitlines()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{5..1}.tar", r"range \{5\.\.1\} in '.*' must rise"),
        ("{a,{5..1}}.tar", r"range \{5\.\.1\} in '.*' must rise"),
        ("{0..9999999}.tar", "hold at most 1000000 names"),
        ("{0..999}/{0..999}{a,b}.tar", "names more than 1000000 shards"),
        ("{abc}.tar", r"\{abc\} in '.*' is neither a range"),
        ("{a,{b}}.tar", r"\{b\} in '.*' is neither a range"),
        ("{1..x}.tar", "is neither a range"),
        ("{}.tar", r"\{\} in '.*' is neither a range"),
    ],
)
def test_braces_that_name_no_shards_or_too_many_are_refused(pattern, message):
    with pytest.raises(SourceError, match=message):
        expand_braces(pattern)


def test_the_kind_of_a_shard_is_in_its_name():
    assert (shard_kind("A.TAR"), shard_kind("a.parquet"), shard_kind("a")) == ("tar", "parquet", None)
    with pytest.raises(SourceError, match="compressed tars"):
        shard_kind("a.tar.gz")


def test_hostile_text_is_made_storable():
    for text in ("\ud800", "a\udcff", "\udfff\udcff", "plain"):
        readable(text).encode()
    assert original_url('{"url": "\\ud800x"}').encode()
    assert original_url("[" * 100_000) is None
    assert original_url('["a"]') is None
    assert was_resized("nonsense") is None
    assert was_resized('{"width": 1, "height": 1, "original_width": 1, "original_height": 1}') is False
