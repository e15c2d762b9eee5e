"""Which files of an archive belong together, which of them is the image, and that copies keep all of it."""

import io
import tarfile
from collections.abc import Sequence

import pytest
from fabricate import encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from tar_bytes import END, entry

from mdmf_core.collections.raw_tar import end_of_archive, raw_samples
from mdmf_core.collections.samples import MOST_IMAGES
from mdmf_core.collections.tar import TarReader
from mdmf_core.errors import ShardCorrupt
from mdmf_core.keeplists.checks import images_of
from mdmf_core.records import ExclusionReason, Member

JPEG, PNG = b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"


def archive(*files: tuple[str, bytes]) -> bytes:
    return b"".join(entry(name.encode(), data) for name, data in files) + END


def read(data: bytes) -> list[Member]:
    return list(TarReader(io.BytesIO(data), len(data), 1 << 20))


def told(data: bytes) -> list[tuple[str, bytes, str | None, str | None, ExclusionReason | None]]:
    return [(member.key, member.data, member.caption, member.url, member.excluded) for member in read(data)]


J = b'{"url": "u"}'
CASES: dict[str, tuple[Sequence[tuple[str, bytes]], list[tuple[object, ...]]]] = {
    "an annotation that sorts before the image": (
        [("1.boxes.json", b"{}"), ("1.jpg", JPEG), ("1.json", J), ("1.txt", b"c")], [("1", JPEG, "c", "u", None)]),
    "a sidecar of an unknown extension": ([("1.aa", b"?"), ("1.jpg", JPEG), ("1.pkl", b"?")], [("1", JPEG, None, None, None)]),
    "a depth map before the photograph": (
        [("1.depth.png", PNG), ("1.image.png", PNG + b"!"), ("1.txt", b"c")],
        [("1.depth", PNG, "c", None, None), ("1", PNG + b"!", "c", None, None)]),
    "the image bears the key, the mask a longer name": (
        [("1.jpg", JPEG), ("1.mask.png", PNG)], [("1", JPEG, None, None, None), ("1.mask", PNG, None, None, None)]),
    "several views, none of them the main one": (
        [("1.0.jpg", JPEG), ("1.1.jpg", JPEG + b"1"), ("1.txt", b"c")],
        [("1.0", JPEG, "c", None, None), ("1.1", JPEG + b"1", "c", None, None)]),
    "dates in base names": (
        [("IMG.2024.01.jpg", JPEG), ("IMG.2024.01.json", J), ("IMG.2024.01.txt", b"1"),
         ("IMG.2024.02.jpg", JPEG + b"2"), ("IMG.2024.02.txt", b"2")],
        [("IMG.2024.01", JPEG, "1", "u", None), ("IMG.2024.02", JPEG + b"2", "2", None, None)]),
    "one image with dots in its name": (
        [("v1.2.jpg", JPEG), ("v1.2.json", J), ("v1.2.txt", b"c")], [("v1", JPEG, "c", "u", None)]),
    "the caption of a whole file name": ([("1.jpg", JPEG), ("1.jpg.txt", b"c")], [("1", JPEG, "c", None, None)]),
    "the only caption": ([("1.blip.txt", b"c"), ("1.jpg", JPEG)], [("1", JPEG, "c", None, None)]),
    "a caption of its own before others": (
        [("1.alt.txt", b"other"), ("1.jpg", JPEG), ("1.txt", b"c")], [("1", JPEG, "c", None, None)]),
    "an image by its first bytes": ([("1.img", JPEG), ("1.txt", b"c"), ("2", PNG)],
        [("1", JPEG, "c", None, None), ("2", PNG, None, None, None)]),
    "a page in place of the image": ([("1.html", b"<html>"), ("1.txt", b"c")], [("1", b"<html>", "c", None, None)]),
    "what macOS leaves": (
        [("._1.jpg", b"?"), ("1.jpg", JPEG), ("._1.txt", b"?"), ("1.txt", b"c"), (".DS_Store", b"?")],
        [("1", JPEG, "c", None, None), ("._1.jpg", b"", None, None, ExclusionReason.NOT_AN_IMAGE),
         ("._1.txt", b"", None, None, ExclusionReason.NOT_AN_IMAGE),
         (".DS_Store", b"", None, None, ExclusionReason.NOT_AN_IMAGE)]),
    "a name that starts with a dot": ([(".1.jpg", JPEG), (".2.jpg", JPEG)], [
        (".1", JPEG, None, None, None), (".2", JPEG, None, None, None)]),
    "one image in two encodings": ([("1.png", PNG), ("1.webp", b"RIFF1234WEBP")],
        [("1", PNG, None, None, None), ("1", b"", None, None, ExclusionReason.DUPLICATE_KEY)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_image_of_a_sample_is_told_from_its_sidecars(case):
    files, rows = CASES[case]
    assert told(archive(*files)) == rows


def test_files_of_a_sample_that_lie_apart_are_rows_that_say_so_and_are_copied():
    data = archive(("1.jpg", JPEG), ("2.jpg", PNG), ("1.txt", b"one"), ("2.txt", b"two"), ("3.txt", b"three"), ("3.jpg", JPEG))
    details = [(member.key, member.detail) for member in read(data) if member.excluded is ExclusionReason.NO_IMAGE]
    assert [key for key, _ in details] == ["1", "2"]
    assert all("its image came earlier" in detail and "must follow one another" in detail for _, detail in details)
    copy = b"".join(part for sample in raw_samples(io.BytesIO(data), len(data), {"1"}) for part in sample.parts)
    assert copy == entry(b"1.jpg", JPEG) + entry(b"1.txt", b"one")


def test_a_whole_shard_of_names_that_share_their_start_is_read_in_little_memory():
    count = 5 * MOST_IMAGES
    files = [(f"cam.{number:03}.{extension}", data) for number in range(count)
             for extension, data in (("jpg", encoded(number)), ("txt", b"%d" % number))]  # fmt: skip
    members = read(archive(*files))
    assert [(member.key, member.caption, member.excluded) for member in members] == [
        (f"cam.{number:03}", str(number), None) for number in range(count)
    ]


NAMES = st.tuples(
    st.sampled_from(["1", "1.image", "1.depth", "1.a.b", "2", "2.x", "d.e/1"]),
    st.sampled_from(["jpg", "PNG", "txt", "json", "boxes.json", "npy", "odd", "jpg.txt"]),
).map(".".join)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(NAMES, st.integers(0, 255)), max_size=12), st.sets(st.integers(0, 12)))
def test_any_choice_of_members_is_copied_with_its_bytes_and_read_again_under_the_new_keys(files, chosen):
    contents = [(name, JPEG + bytes([byte, number])) for number, (name, byte) in enumerate(files)]
    data = archive(*contents)
    scored = [member for member in read(data) if member.excluded is None]
    kept = {member.key: member.data for number, member in enumerate(scored) if number in chosen}
    try:
        copied = list(raw_samples(io.BytesIO(data), len(data), kept))
    except ShardCorrupt:  # two images would share a key: only where a key came again
        assert len({member.key for member in read(data)}) < len(read(data))
        return
    images = [image for sample in copied for image in sample.images]
    assert {image.key: bytes(image.data) for image in images} == kept
    parts = [part for sample in copied for part in sample.parts]
    assert all(part in data for part in parts)
    content = b"".join(parts)
    again = {member.key: member.data for member in read(content + end_of_archive(len(content))) if member.excluded is None}
    assert {image.new_key: bytes(image.data) for image in images}.items() <= again.items()


@settings(max_examples=200, deadline=None)
@given(st.lists(NAMES, max_size=12))
def test_every_file_is_a_member_or_a_sidecar_of_one(names):
    members = read(archive(*((name, JPEG) for name in names)))
    images = [name for name in names if name.rpartition(".")[2] not in ("txt", "json", "npy")]
    assert len([member for member in members if member.excluded is not ExclusionReason.NO_IMAGE]) == len(images)


def test_a_webdataset_sample_has_its_images_under_the_keys_of_the_reader():
    for files, rows in CASES.values():
        fields = {name.partition(".")[2].lower(): data for name, data in files if name.startswith("1.")}
        keys = [key for key, *_, reason in rows if reason is None and str(key).startswith("1")]
        main = [key for key in keys if key == "1"] or keys
        assert list(images_of({"__key__": "1", **fields}, "1") if fields else []) == (main if fields else [])


def test_python_reads_the_copies(tmp_path):
    data = archive(("1.boxes.json", b"{}"), ("1.jpg", JPEG), ("2.jpg", PNG))
    content = b"".join(part for sample in raw_samples(io.BytesIO(data), len(data), {"1"}) for part in sample.parts)
    with tarfile.open(fileobj=io.BytesIO(content + end_of_archive(len(content)))) as copy:
        assert copy.getnames() == ["1.boxes.json", "1.jpg"]
