"""Parquet files that lie, are damaged, or hold other things than images."""

import datetime
import decimal
import io
import json
import multiprocessing
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdmf_core.collections import parquet
from mdmf_core.collections.parquet import ParquetReader, parquet_row
from mdmf_core.collections.parquet_columns import image_column
from mdmf_core.errors import ShardCorrupt, ShardUnfinished
from mdmf_core.records import ExclusionReason, Member

MUTATIONS = 400


def written(columns: dict[str, Any], **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def read(data: bytes) -> list[Member]:
    return list(ParquetReader(io.BytesIO(data), 1 << 20))


@pytest.mark.parametrize(
    "column",
    [[1], ["text"], [[b"x"]], [{"path": "a"}], [{"bytes": "text"}], [1.5], [datetime.date(2020, 1, 1)]],
    ids=["int", "string", "list", "struct without bytes", "struct of text", "float", "date"],
)
def test_an_image_column_without_bytes_is_refused_by_name_and_type(column):
    with pytest.raises(ShardCorrupt, match=r"image is .*; binary is needed"):
        read(written({"image": column}))
    assert read(written({"image": column, "jpg": [b"x"]}))[0].data == b"x"


@pytest.mark.parametrize(
    ("array", "data"),
    [
        (pa.array([b"x"], pa.large_binary()), b"x"),
        (pa.array([b"xy"], pa.binary(2)), b"xy"),
        (pa.array([b"x"]).dictionary_encode(), b"x"),
        (pa.array([None]), None),
        (pa.array([{"bytes": None, "path": "a.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})), None),
        (pa.array([{"bytes": b"x", "path": None}], pa.struct({"bytes": pa.binary(), "path": pa.string()})), b"x"),
    ],
)
def test_bytes_of_any_layout_are_read_and_nulls_are_rows(array, data):
    file = written({"image": array})
    (member,) = read(file)
    assert (member.data, member.excluded) == ((data, None) if data else (b"", ExclusionReason.EMPTY))
    assert parquet_row(io.BytesIO(file), 0) == (data or b"")


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (7, "7"),
        (b"k\xff", "k\\xff"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (None, "row-0"),
        ("", ""),
        ("a\0\n'\"", "a\0\n'\""),
        ([1, 2], "[1, 2]"),
        ({"a": b"x"}, "{'a': b'x'}"),
        (datetime.datetime(2020, 1, 1), "2020-01-01 00:00:00"),
        (decimal.Decimal("1.50"), "1.50"),
        (True, "True"),
    ],
)
def test_keys_and_captions_of_any_type_become_text(value, key):
    (member,) = read(written({"jpg": [b"x"], "key": [value], "caption": [value]}))
    assert member.key == key
    assert member.caption == (None if value is None else key)
    json.loads(member.sidecar)


def test_text_that_is_not_unicode_costs_neither_the_row_nor_the_shard():
    bad = pa.StringArray.from_buffers(
        1, pa.array([b"a\xed\xa0\x80\xff"]).buffers()[1], pa.array([b"a\xed\xa0\x80\xff"]).buffers()[2]
    )
    (member,) = read(written({"jpg": [b"x"], "key": bad, "text": bad, "note": bad}, store_schema=False))
    assert member.key == member.caption == "a\\xed\\xa0\\x80\\xff"
    member.sidecar.encode()


def test_no_rows_many_columns_and_long_texts():
    assert read(written({"jpg": pa.array([], pa.binary())})) == []
    wide = {f"c{number}": [number] for number in range(10_000)}
    assert len(json.loads(read(written({"jpg": [b"x"]} | wide))[0].sidecar)) == 10_000
    (member,) = read(written({"jpg": [b"x"], "caption": ["y" * (2 << 20)]}))
    assert (member.caption, member.sidecar, member.excluded) == (None, None, None)
    with pytest.raises(ShardCorrupt, match="and 9980 more"):
        read(written(wide))


@pytest.mark.parametrize("name", ["when", "caption", "key"])
def test_values_that_python_cannot_hold_become_text_and_cost_no_image(name):
    never = pa.array([253402300800000000], pa.timestamp("us"))  # year 10000
    (member,) = read(written({"jpg": [b"x"], name: never}))
    assert (member.data, member.excluded) == (b"x", None)
    assert json.loads(member.sidecar) == {name: "10000-01-01 00:00:00.000000"}
    beyond = pa.array([[2**62]], pa.list_(pa.timestamp("us")))
    assert json.loads(read(written({"jpg": [b"x"], name: beyond}))[0].sidecar) == {name: None}


def test_a_column_above_the_limit_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(parquet, "MAX_COLUMN_BYTES", 1 << 20)
    bomb = written({"jpg": [bytes(8 << 20)]}, compression="zstd")
    assert len(bomb) < 1 << 16
    with pytest.raises(ShardCorrupt, match=r"column jpg of row group 0 claims .* limit 1048576"):
        ParquetReader(io.BytesIO(bomb), 1 << 30)
    with pytest.raises(ShardCorrupt):
        parquet_row(io.BytesIO(bomb), 0)


def test_cut_and_encrypted_files_and_errors_of_the_store():
    whole = written({"jpg": [b"x" * 100] * 3})
    for cut in range(len(whole)):
        with pytest.raises(ShardUnfinished):
            read(whole[:cut])
    with pytest.raises(ShardCorrupt, match="encrypted"):
        read(whole[:-4] + b"PARE")

    class Broken(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            raise TimeoutError("the store does not answer")

    with pytest.raises(TimeoutError):
        ParquetReader(Broken(whole), 1000)


def mutated(number: int) -> bytes:
    """A whole file with some bits changed: in the footer, in the pages, or in the length of the footer."""
    chance = random.Random(number)
    rows = 50
    columns = {
        "key": [f"{row}" for row in range(rows)],
        "image": [{"bytes": bytes([row]) * 300, "path": f"{row}.jpg"} for row in range(rows)],
        "caption": [f"caption {row}" for row in range(rows)],
    }
    codec = chance.choice(["none", "snappy", "zstd", "gzip"])
    data = bytearray(written(columns, row_group_size=20, compression=codec, data_page_version=chance.choice(["1.0", "2.0"])))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    low, high = ((footer, len(data) - 8), (4, footer), (len(data) - 8, len(data) - 4))[chance.choices((0, 1, 2), (6, 6, 1))[0]]
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(low, high)] ^= 1 << chance.randrange(8)
    return bytes(data)


def _read_mutations(first: int, report: Any) -> None:
    for number in range(first, MUTATIONS):
        report.send((number, "started"))
        try:
            ended = f"{len(read(mutated(number)))} rows"
        except (ShardCorrupt, ShardUnfinished) as error:
            ended = type(error).__name__
        except BaseException as error:
            ended = f"raised {type(error).__module__}.{type(error).__name__}: {error}"
        report.send((number, ended))
    report.close()


def test_damaged_files_end_in_rows_or_in_one_of_two_errors():
    """In a process of its own, so that a crash of the parquet library is counted and does not end the tests."""
    ends: dict[int, str] = {}
    context = multiprocessing.get_context("spawn")
    while len(ends) < MUTATIONS:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_read_mutations, args=(len(ends), sender))
        process.start()
        sender.close()
        try:
            while True:
                number, ended = receiver.recv()
                ends[number] = ended
        except EOFError:
            pass
        process.join()
        receiver.close()
        if process.exitcode:
            ends[len(ends) - 1] = f"crashed: {process.exitcode}"
    unexpected = {number: ended for number, ended in ends.items() if ended.startswith(("raised", "started", "crashed"))}
    assert unexpected == {}
    assert {"ShardCorrupt", "50 rows"} <= set(ends.values())


STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"img": pa.array([{"bytes": b"x", "path": None}], STRUCT), "label": [1]}, "img"),
        ({"IMAGE": [b"x"], "mask": [b"m"]}, "IMAGE"),
        ({"Image": [b"X"], "image": [b"x"]}, "image"),
        ({"front_view": pa.array([{"bytes": b"x", "path": "a"}], STRUCT), "embedding": [b"e"]}, "front_view"),
        ({"blob": [b"x"], "label": ["cat"]}, "blob"),
        ({"image": [7], "content": [b"x"]}, "content"),
    ],
)
def test_the_image_column_is_found_by_usual_names_in_any_case_or_as_the_only_one_with_bytes(columns, name):
    (member,) = read(written(columns))
    assert member.data == b"x"
    assert image_column(pa.table(columns).schema) == name


def test_several_columns_of_bytes_without_a_usual_name_are_refused_by_name():
    with pytest.raises(ShardCorrupt, match=r"several columns hold bytes \(left, right\) .* rename that of the images"):
        read(written({"left": [b"x"], "right": [b"y"]}))


def test_keys_captions_and_urls_are_found_in_any_case():
    (member,) = read(written({"SAMPLE_ID": [7], "URL": ["u"], "TEXT": ["words"], "jpg": [b"x"]}))
    assert (member.key, member.url, member.caption) == ("7", "u", "words")


@pytest.mark.parametrize("text", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
@pytest.mark.parametrize("data", [pa.binary_view(), pa.large_binary()])
def test_views_and_large_and_dictionary_types_are_read(data, text):
    columns = {"key": pa.array(["k"]).cast(text), "jpg": pa.array([b"x"], data), "caption": pa.array(["c"]).cast(text)}
    file = written(columns)
    (member,) = read(file)
    assert (member.key, member.data, member.caption) == ("k", b"x", "c")
    assert parquet_row(io.BytesIO(file), 0) == b"x"


def test_bytes_of_other_columns_are_neither_decoded_nor_in_the_sidecar(monkeypatch):
    columns = {
        "jpg": [b"x"],
        "mask": [b"m" * 5000],
        "parts": pa.array([[b"p" * 5000]]),
        "deep": pa.array([{"a": [{"raw": b"q" * 5000}], "n": 1}]),
        "label": [3],
    }
    (member,) = read(written(columns))
    assert json.loads(member.sidecar) == {"label": 3}
    monkeypatch.setattr(parquet, "MAX_COLUMN_BYTES", 1000)
    assert read(written(columns))[0].data == b"x"  # what nobody reads may be of any size
    damaged = bytearray(written(columns, compression="none", use_dictionary=False))
    place = damaged.index(b"m" * 5000)
    damaged[place - 20 : place + 5000] = bytes(5020)
    assert read(bytes(damaged))[0].data == b"x"


def test_one_name_for_different_images_drops_none_and_counts_none_twice():
    rows = [{"bytes": data, "path": "image.jpg"} for data in (b"a", b"b", b"a", b"b", b"c")]
    members = read(written({"image": pa.array(rows, STRUCT)}))
    kept = {member.key: member.data for member in members if member.excluded is None}
    assert list(kept.values()) == [b"a", b"b", b"c"]
    assert len({member.key for member in members}) == 3
    assert next(iter(kept)) == "image.jpg"
    assert all(key.startswith("image.jpg#") for key in list(kept)[1:])
    assert [member.excluded for member in members[2:4]] == [ExclusionReason.DUPLICATE_KEY] * 2


def test_a_path_without_bytes_is_told_from_a_null():
    members = read(written({"image": pa.array([{"bytes": None, "path": "/data/1.jpg"}, None], STRUCT)}))
    assert [member.excluded for member in members] == [ExclusionReason.EMPTY] * 2
    assert "only a path, /data/1.jpg" in members[0].detail
    assert members[1].detail == "null in column image"
