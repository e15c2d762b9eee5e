"""One peer, or `mdmf curate`, over the same shards: images per second once it runs, and the memory of all its processes."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness.corpora import as_laion, photographs, write_shards
from benchmarks.harness.frame import Setting

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("programs")
ENVIRONMENTS = Path(os.environ.get("PEERS", ROOT / ".mdmf" / "peers"))
_MARK = "MDMF_BENCHMARK_RUN"  # by which the processes of a run are known, whoever started them
_LOOK_SECONDS, _LONGEST = 0.25, 400.0
# Script, environment, and whether it reads tars.
PEERS = {
    "webdataset + DataLoader": ("webdataset_loop.py", "main", True),
    "clip-retrieval": ("clip_retrieval_inference.py", "clip-retrieval", True),
    "Ray Data": ("ray_data.py", "main", True),
    "Daft": ("daft_udf.py", "main", False),
}


@dataclass(frozen=True)
class Run:
    """What one run gave. ``images_per_second`` from the end of its first batches until its output was on disk.

    As many of them are first as are in the model side by side; else the rate would count the work of all but one of them.
    """

    images: int
    images_per_second: float
    seconds: float  # from its first process to its last
    peak_pss: float  # MB of all its processes together, shared pages once
    peak_rss: float  # MB, shared pages in every process that has them


@dataclass(frozen=True)
class Images:
    """The same images as tars and, for who cannot read those, as parquet."""

    tars: Path
    parquet: Path
    did: str


def images(setting: Setting, count: int, shards: int) -> Images:
    """``count`` images of 256 px in shards."""
    held = list(as_laion(photographs(setting.data, count)))
    tars, parquet = setting.work / "tars", setting.work / "parquet"
    write_shards(tars, held, shards)
    parquet.mkdir()
    for number in range(shards):
        mine = held[number::shards]
        table = pa.table({"key": [f"{number:05d}{place:05d}" for place in range(len(mine))], "jpg": mine})
        pq.write_table(table, parquet / f"{number:05d}.parquet")
    return Images(tars, parquet, f"{count} JPEGs of 256 px in {shards} shards")


def installed() -> list[str]:
    """The peers whose environments are there.

    Raises:
        ValueError: there is none.
    """
    found = [peer for peer in PEERS if _interpreter(peer).exists()]
    if not found:
        raise ValueError(f"no environment of a peer in {ENVIRONMENTS}; run: make bench-peers")
    return found


def _interpreter(peer: str) -> Path:
    return ENVIRONMENTS / PEERS[peer][1] / "bin" / "python"


def run_peer(peer: str, given: Images, weights: Path, out: Path, batch: int, workers: int, threads: int) -> Run:
    """One peer with one setting.

    Raises:
        RuntimeError: it failed; its last words.
    """
    script, _, reads_tars = PEERS[peer]
    shards = given.tars if reads_tars else given.parquet
    command = [str(_interpreter(peer)), str(PROGRAMS / script), "--shards", str(shards), "--weights", str(weights), "--out",
               str(out), "--batch", str(batch), "--workers", str(workers), "--threads", str(threads)]  # fmt: skip
    watched = _watched(command, out, {})
    stamps = [json.loads(line) for line in (out / "stamps.jsonl").read_text().splitlines()]
    return _run([(count, at) for count, at in stamps if count], stamps[-1][1], max(1, workers), *watched)


def run_ours(scorer: str, bank: str, given: Images, out: Path, batch: int) -> Run:
    """`mdmf curate` from tars to the warehouse, as a user starts it: with its Prefect server, landing and report."""
    warehouse = out / "w.duckdb"
    command = [sys.executable, "-m", "mdmf_cli.main", "curate", str(given.tars), "--warehouse", str(warehouse), "--scorer",
               scorer, "--bank", bank, "--batch-images", str(batch), "--device", "cpu"]  # fmt: skip
    watched = _watched(command, out, {"PREFECT_HOME": str(out / "prefect"), "PYTHONPATH": str(ROOT)})
    return _run(*stamps_of(warehouse), os.cpu_count() or 1, *watched)


def stamps_of(warehouse: Path) -> tuple[list[tuple[int, float]], float]:
    """(images, time) of every batch that a warehouse shows, in order, and when the last shard was landed."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        batches = connection.execute("SELECT count(*), epoch(scored_at) FROM scores GROUP BY ALL ORDER BY 2").fetchall()
        ((landed,),) = connection.execute("SELECT epoch(max(committed_at)) FROM shards").fetchall()
    return batches, landed


def _run(stamps: Sequence[tuple[int, float]], end: float, side_by_side: int, seconds: float, pss: float, rss: float) -> Run:
    """Of (images, time) of every batch, so many of which are in the model at once."""
    total, first = sum(count for count, _ in stamps), sum(count for count, _ in stamps[:side_by_side])
    return Run(total, (total - first) / (end - stamps[side_by_side - 1][1]), seconds, pss, rss)


def _watched(command: Sequence[str], out: Path, further: Mapping[str, str]) -> tuple[float, float, float]:
    """Runs a command; (seconds, peak MB by proportional set size, peak MB by resident set size) of all that it started."""
    out.mkdir(parents=True)
    mark, peaks, ended = str(uuid.uuid4()), [0.0, 0.0], threading.Event()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PREFECT_API_URL")}
    watcher = threading.Thread(target=_watch, args=(mark, peaks, ended))
    watcher.start()
    started = time.perf_counter()
    try:
        with open(out / "log.txt", "wb") as log:
            code = subprocess.run(
                command, env={**environment, **further, _MARK: mark}, stdout=log, stderr=log, cwd=out, timeout=_LONGEST,
                check=False,
            ).returncode  # fmt: skip
    finally:
        ended.set()
        watcher.join()
    if code:
        raise RuntimeError(f"{command[1]} ended with {code}: {(out / 'log.txt').read_text(errors='replace')[-1500:]}")
    return time.perf_counter() - started, peaks[0], peaks[1]


def _watch(mark: str, peaks: list[float], ended: threading.Event) -> None:
    known: dict[tuple[int, float], bool] = {}
    while not ended.wait(_LOOK_SECONDS):
        pss = rss = 0.0
        for process in psutil.process_iter():
            try:
                identity = (process.pid, process.create_time())
                if not known.get(identity):
                    known[identity] = process.environ().get(_MARK) == mark
                if known[identity]:
                    memory = process.memory_full_info()
                    pss, rss = pss + memory.pss / 1e6, rss + memory.rss / 1e6
            except psutil.Error:
                continue
        peaks[0], peaks[1] = max(peaks[0], pss), max(peaks[1], rss)
