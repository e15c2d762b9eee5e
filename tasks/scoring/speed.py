"""The speed of each stage alone is measured on this machine and on real images, within about a minute."""

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mdmf_core.errors import SourceError
from mdmf_core.images.crops import CropPlan
from mdmf_core.records import Member
from mdmf_core.scoring.slowest_stage import Rates
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard
from tasks.parts.outcome import ShardOutcome
from tasks.parts.part_files import part_writer
from tasks.scoring.cpu_threads import model_threads
from tasks.scoring.decoded_members import DecodedMember, prepare, shape_of
from tasks.scoring.decoder_pool import LIMITS, DecodePool
from tasks.scoring.score_shard import Batch, rows_of
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.scoring.stage_clock import Stages
from tasks.scoring.stage_threads import in_order
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

_IMAGES = 200  # that are read and decoded
_SHARDS, _ROWS = 3, 10_000  # that are landed, and rows of each
_BYTES = 256 * 2**20  # that are read at most


def measure(source: str, setup: ScoringSetup, seconds: float, storage_block: str | None, say: Callable[[str], None]) -> Rates:
    """Measures the rates of all stages on the first images of a source.

    Args:
        seconds: for each figure, about.
        say: is told what comes next.

    Raises:
        SourceError: no image there that can be scored.
    """
    say("reading")
    members, rate = _read(source, seconds, storage_block)
    cores = os.cpu_count() or 1
    decode: dict[int, float] = {}
    ready: list[DecodedMember] = []
    for workers in sorted({1, setup.decode_threads}):
        say(f"decoding in {workers} children")
        with DecodePool(workers) as pool:
            ready = _decoded(members, setup.scorer.crops, pool)  # starts the children
            decode[workers] = _rate(lambda: len(_decoded(members, setup.scorer.crops, pool)), seconds)
    scored = [item for item in ready if item.crops is not None]
    if not scored:
        raise SourceError(f"{source}: none of its first {len(members)} images can be scored; first: {ready[0].detail}")
    backbone = {}
    for size in (1, 4, 16, 64):
        say(f"backbone, {size} images at once")
        crops = [item.crops for item in islice(cycle(scored), size) if item.crops is not None]
        _extracted(crops, setup)
        backbone[size] = _rate(lambda: _extracted(crops, setup), seconds)  # noqa: B023 - called at once
    say("statistics")
    signatures = setup.scorer.extract(crops)
    shapes = [shape_of(item.member, item.image) for item in islice(cycle(scored), len(crops)) if item.image is not None]
    score = _rate(lambda: len(setup.scorer.score(signatures, shapes, setup.bank, setup.calibration)), seconds)
    say("landing")
    some = scored[: len(crops)]
    rows = rows_of(Batch(some, None, setup.scorer.extract([item.crops for item in some])), setup, None, Stages())
    mean = sum(len(member.data) for member in members) / len(members)
    return Rates(
        cores, setup.scorer.device.type == "cuda", mean, rate, decode[1], decode[setup.decode_threads], setup.decode_threads,
        backbone, score, _landed(rows, setup),
    )  # fmt: skip


def _read(source: str, seconds: float, storage_block: str | None) -> tuple[list[Member], float]:
    """Reads some members, and says at how many MB/s."""
    members: list[Member] = []
    read, started = 0, time.perf_counter()
    for shard in list_shards(source, _IMAGES, storage_block):
        if shard.unfinished:
            continue
        with open_shard(shard, LIMITS.max_bytes, storage_block) as reader:
            for member in reader:
                read += len(member.data)
                if member.excluded is None and len(members) < _IMAGES:
                    members.append(member)
                if read >= _BYTES or (len(members) >= _IMAGES and time.perf_counter() - started >= seconds):
                    return members, read / (time.perf_counter() - started) / 1e6
    if not members:
        raise SourceError(f"{source}: no image there")
    return members, read / (time.perf_counter() - started) / 1e6


def _decoded(members: Sequence[Member], plan: CropPlan, pool: DecodePool) -> list[DecodedMember]:
    return list(in_order(pool.threads, lambda member: prepare(member, plan, pool), members, len(members)))


def _extracted(crops: Sequence[UInt8[np.ndarray, "n 3 size size"]], setup: ScoringSetup) -> int:
    """Puts as many batches through the backbone side by side as a run does, and counts their images."""
    threads = model_threads(setup.backbones)
    return sum(len(signatures.counts) for signatures in threads.map(setup.scorer.extract, [crops] * setup.backbones))


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Does some work again and again for so long, and says at how many items per second."""
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < seconds:
        done += work()
    return done / (time.perf_counter() - started)


def _landed(rows: Sequence[dict[str, Any]], setup: ScoringSetup) -> float:
    """Lands one shard after another into a new warehouse, and says at how many rows per second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warehouse = Warehouse.at(str(folder / "w.duckdb"))
        with warehouse.connect() as connection:
            migrate(connection)
        ready = [_part(folder, number, rows) for number in range(_SHARDS)]
        started = time.perf_counter()
        for outcome in ready:
            land(warehouse, [outcome], setup.key)
        return _SHARDS * _ROWS / (time.perf_counter() - started)


def _part(folder: Path, number: int, rows: Sequence[dict[str, Any]]) -> ShardOutcome:
    """Writes a finished part of ``_ROWS`` members that repeat the facts and scores of a few."""
    path, run = str(folder / f"{number}.parquet"), str(uuid.uuid4())
    outcome = ShardOutcome(
        f"{number}.tar", "tar", 1, "speed", "complete", None, "speed", _ROWS, _ROWS, 0, 1.0, run, None, generation=1
    )  # fmt: skip
    with part_writer(path) as part:
        part.write([row | {"key": str(index)} for index, row in enumerate(islice(cycle(rows), _ROWS))])
        part.close_with(outcome)
    return replace(part.outcome, generation=1)
