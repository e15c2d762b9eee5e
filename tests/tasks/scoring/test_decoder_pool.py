"""Decoders that crash, hang, lie or are killed cost their image and nothing else."""

import io
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus import PLAN, decoders
from corpus_damage import segments
from fabricate import ROOT, encoded, photo, write_tar
from hostile_decoders import ARGV, HOSTILE
from PIL import Image

from mdmf_core.errors import MdmfError
from mdmf_core.images.crops import CropPlan
from mdmf_core.images.decode import ImageLimits, decode
from mdmf_core.records import ExclusionReason, ImageExcluded
from tasks.collections.listing import list_shards
from tasks.scoring import score_shard as extract
from tasks.scoring.decoder_pool import DecodePool
from tasks.scoring.loading import load_setup

LIMITS = ImageLimits(max_seconds=1.5)
WAIT = 60.0  # seconds for something that must happen; how soon does not matter


def until(condition) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(scope="module")
def hostile():
    with DecodePool(1, LIMITS, ARGV) as pool:
        yield pool


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("plan", [PLAN, CropPlan(64, 20, 90)])
def test_a_child_gives_the_crops_and_facts_of_decoding_here(format, plan, hostile):
    data = encoded(1, format)
    here, found = decode(data, LIMITS), hostile.decode(data, plan)
    assert np.array_equal(found.crops, plan.cut(here.pixels))
    assert (found.facts, found.reason, found.detail) == (here.facts, None, "")


@pytest.mark.parametrize("data", [encoded(1), encoded(2, "PNG", 300, 31), encoded(3, "WEBP")])
def test_a_child_gives_the_whole_image_as_decoding_here_does(data, hostile):
    here, there = decode(data, LIMITS), hostile.upright(data)
    assert np.array_equal(there.pixels, here.pixels)
    assert there.facts == here.facts


def test_an_image_of_nothing_but_border_has_no_pixels(hostile):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(buffer, "PNG")
    there = hostile.upright(buffer.getvalue())
    assert (there.pixels.size, there.width, there.height) == (0, 40, 30)
    assert np.array_equal(hostile.upright(encoded(1)).pixels, decode(encoded(1), LIMITS).pixels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty: 0 bytes"),
        (b"<html>", "not_an_image: starts with"),
        (b"CRASH", "decoder_crashed: signal SIGSEGV; again: signal SIGSEGV"),
        (b"HANG", "decoder_timeout: longer than 1.5 s"),
        (b"ENORMOUS", "decoder_crashed: its answer makes no sense: lengths 2 and 1099511627776"),
        (b"LIE", "decoder_crashed: its answer makes no sense: TypeError"),
        (b"SHAPE", "decoder_crashed: its answer makes no sense: ValueError: cannot reshape"),
        (b"NAKED", "decoder_crashed: its answer makes no sense: ValueError: pixels of shape"),
    ],
)
def test_a_whole_image_that_cannot_be_had_is_excluded_with_its_reason(data, message, hostile):
    with pytest.raises(ImageExcluded, match=message):
        hostile.upright(data)
    assert hostile.upright(encoded(1)).width == 256


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"CRASH", "signal SIGSEGV"),
        (b"EXIT", "exit status 3"),
        (b"RAISE", "exit status 1 (LookupError: a slip in the code)"),
        (b"GARBAGE", "makes no sense: lengths"),
        (b"ENORMOUS", "makes no sense: lengths 2 and 1099511627776"),
        (b"LIE", "makes no sense"),
        (b"REASON", "makes no sense: ValueError: 'no such reason'"),
    ],
)
def test_a_crash_or_a_lie_is_tried_once_more_and_then_excluded(data, detail, hostile):
    found = hostile.decode(data, PLAN)
    assert (found.reason, found.facts, found.crops) == (ExclusionReason.DECODER_CRASHED, None, None)
    assert found.detail.count(detail) == 2, found.detail
    assert hostile.decode(encoded(1), PLAN).reason is None


def test_an_overrun_is_killed_and_its_image_excluded_at_once(hostile):
    found = hostile.decode(b"HANG" + bytes(10_000_000), PLAN)  # more than a pipe holds
    assert (found.reason, found.detail) == (ExclusionReason.DECODER_TIMEOUT, "longer than 1.5 s")
    assert hostile.decode(encoded(1), PLAN).reason is None


def test_a_real_jpeg_that_takes_minutes_is_an_overrun():
    buffer = io.BytesIO()
    Image.new("L", (5000, 5000), 77).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    *_, scan, end = segments(data)
    bomb = data[:end] + data[scan - 22 : end] * 20_000 + data[end:]
    with DecodePool(1, LIMITS) as pool:
        assert pool.decode(bomb, PLAN).reason is ExclusionReason.DECODER_TIMEOUT
        assert pool.decode(encoded(1), PLAN).reason is None


def test_a_child_killed_from_outside_costs_no_image(hostile, tmp_path):
    marker = tmp_path / "begun"
    marker.with_name("begun.jpg").write_bytes(encoded(1))
    slow = ImageLimits(max_seconds=WAIT)
    with DecodePool(1, slow, ARGV) as pool:
        waiting = pool.threads.submit(pool.decode, b"ONCE" + str(marker).encode(), PLAN)
        until(marker.exists)
        for pid in decoders():
            os.kill(pid, signal.SIGKILL)
        found = waiting.result()
    assert np.array_equal(found.crops, hostile.decode(encoded(1), PLAN).crops)


def test_an_idle_child_that_was_killed_is_replaced():
    with DecodePool(1) as pool:
        first = pool.decode(encoded(1), PLAN)
        (pid,) = set(decoders()) & _children_of(pool)
        os.kill(pid, signal.SIGKILL)
        assert np.array_equal(pool.decode(encoded(1), PLAN).crops, first.crops)


def _children_of(pool: DecodePool) -> set[int]:
    """Its idle child's id."""
    child = pool._seats.get()
    pool._seats.put(child)
    return {child._process.pid}


def test_too_little_memory_is_a_reason_of_its_own():
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 5000)).save(buffer, "PNG")
    with DecodePool(1, ImageLimits(max_memory=250 * 2**20)) as pool:
        found = pool.decode(buffer.getvalue(), PLAN)
        assert (found.reason, "memory" in found.detail) == (ExclusionReason.TOO_LARGE, True), found.detail
        (pid,) = _children_of(pool)
        assert pool.decode(encoded(1), PLAN).reason is None
        assert _children_of(pool) == {pid}


def test_the_pixel_limit_fits_into_the_memory_limit():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGBA", (12000, 10000), (9, 9, 9, 9))
    picture.save(buffer, "WEBP", lossless=True, method=0, exif=exif)  # of all kinds the one that takes most
    with DecodePool(1) as pool:
        found = pool.decode(buffer.getvalue(), PLAN)
    assert (found.reason, found.facts.width) == (ExclusionReason.TOO_SMALL, 10000)  # uniform, so all of it is border


def test_nothing_but_the_root_of_the_project_is_on_a_decoders_path(monkeypatch):
    """A folder of the project on it, such as ``tasks``, would hide the standard ``collections`` from every import."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tasks'}{os.pathsep}/somewhere/else")
    with DecodePool(1) as pool:
        assert pool.decode(encoded(1), PLAN).reason is None
        (pid,) = _children_of(pool)
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    assert [line for line in variables if line.startswith("PYTHONPATH=")] == [f"PYTHONPATH={ROOT}"]
    assert not set(sys.stdlib_module_names) & {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}


def test_children_have_no_secrets_and_do_not_print(monkeypatch, capfd, caplog):
    for name in ("AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setattr(logging.root, "handlers", [caplog.handler])  # without the console of an earlier test's server
    caplog.set_level(logging.DEBUG, "tasks.scoring.decoder_pipe")
    with DecodePool(1, LIMITS, ARGV) as pool:
        pool.decode(encoded(1), PLAN)
        (pid,) = _children_of(pool)
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        pool.decode(b"CRASH", PLAN)
    assert capfd.readouterr() == ("", "")
    assert "Segmentation fault" in caplog.text


@pytest.mark.parametrize("argv", [(sys.executable, "-c", "raise ImportError('No Pillow')"), ("/No such program",)])
def test_a_decoder_that_cannot_start_stops_the_run_and_says_why(argv):
    with DecodePool(1, LIMITS, argv) as pool:
        for _ in range(2):
            with pytest.raises(MdmfError, match=r"cannot be started: (.|\n)*No (Pillow|such file)"):
                pool.decode(encoded(1), PLAN)


def test_the_child_imports_only_what_decoding_needs():
    code = "import sys, tasks.scoring.decoder_process; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "prefect", "duckdb", "pyarrow", "fsspec", "scipy", "timm"} & set(loaded) == set()


PARENT = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parents[2] / "helpers"), str(Path(__file__).parents[3])]!r}
from corpus import PLAN, decoders
from tasks.scoring.decoder_pool import DecodePool, ImageLimits
import threading
pool = DecodePool(1, ImageLimits(max_seconds=3), ARGV)
threading.Thread(target=pool.decode, args=(DATA, PLAN)).start()
while not decoders() or not READY(): time.sleep(0.02)
print(*decoders(), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("hung", [False, True])
def test_no_child_outlives_a_killed_parent(hung, tmp_path):
    marker, argv = tmp_path / "begun", ARGV
    ready, data = "lambda: pool._seats.qsize()", encoded(1)
    if hung:  # a child deep in its decoder sees no end of stdin; its alarm ends it
        argv = (
            *ARGV[:3],
            "import tasks.scoring.decoder_process; tasks.scoring.decoder_process._GRACE_SECONDS = 0.1\n" + HOSTILE,
        )
        ready, data = f"lambda: __import__('os').path.exists({str(marker)!r})", b"ONCE" + str(marker).encode()
    code = PARENT.replace("ARGV", repr(argv)).replace("READY", f"({ready})").replace("DATA", repr(data))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid))


def test_ctrl_c_is_left_to_the_parent():
    with DecodePool(1) as pool:
        pool.decode(encoded(1), PLAN)
        (pid,) = _children_of(pool)
        os.kill(pid, signal.SIGINT)
        assert pool.decode(encoded(1), PLAN).reason is None
        assert _children_of(pool) == {pid}


def test_after_a_slip_halfway_no_answer_goes_to_another_image():
    first, second = encoded(1), encoded(2, width=300)
    with DecodePool(1) as pool:
        with pytest.raises(TypeError):
            pool.decode("not bytes" * 10_000, PLAN)  # its length went out already
        assert [pool.decode(data, PLAN).facts.width for data in (first, second)] == [256, 300]


def test_many_threads_share_a_pool():
    with DecodePool(2) as pool, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda seed: pool.decode(encoded(seed), PLAN), range(24)))
        assert pool._seats.qsize() == 2
    for seed, image in enumerate(found):
        assert np.array_equal(image.crops, PLAN.cut(decode(encoded(seed), LIMITS).pixels))


def test_a_shard_goes_on_over_crashes_and_hangs_in_order(tiny_scorer, tiny_bank, tmp_path, monkeypatch):
    files = {f"{number}.jpg": encoded(number) for number in range(6)}
    files |= {"6-crash.jpg": b"CRASH", "7-hang.jpg": b"HANG", "8-lie.jpg": b"LIE"}
    files |= {f"9{number}.jpg": encoded(number, width=256 + number) for number in range(3)}
    (shard,) = list_shards(str(write_tar(tmp_path / "00000.tar", files)), 1000)
    setup = load_setup(tiny_scorer, tiny_bank, "cpu", 2, 2, None)
    with DecodePool(2, LIMITS, ARGV) as pool:
        monkeypatch.setattr(extract, "decode_pool", lambda workers: pool)
        outcome = extract.score_shard(shard, setup, str(tmp_path / "parts"), "run", None, lambda members: None)
    assert (outcome.state, outcome.members, outcome.scored, outcome.excluded) == ("complete", 12, 9, 3)
    rows = pq.read_table(outcome.part).to_pylist()
    assert [f"{row['key']}.jpg" for row in rows] == list(files)
    assert [row["reason"] for row in rows if row["reason"]] == ["decoder_crashed", "decoder_timeout", "decoder_crashed"]


def test_a_photo_is_what_the_pool_was_given(hostile):
    found = hostile.decode(encoded(3, "PNG"), CropPlan(224, 1))
    pixels = np.asarray(photo(3))[8:232, 16:240].transpose(2, 0, 1)
    assert np.array_equal(found.crops[0], pixels)
