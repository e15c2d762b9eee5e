"""The embedded scorer's whole path against the ideal pipeline, where every core only decodes, describes and scores."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.end_to_end.clip import crops_of, scored_rate
from benchmarks.harness.corpora import as_laion, described, photographs, write_shards
from benchmarks.harness.frame import Better, Part, Record, Setting, interleaved, ratio_record
from benchmarks.harness.machine import machine
from mdmf_core.records import ImageShape
from mdmf_core.scoring.scorer import Signatures
from tasks.scoring.loading import load_setup
from tasks.scoring.scoring_setup import ScoringSetup

IMAGES, BATCH, REPEATS, TARGET = 1024, 32, 3, 0.85


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU seconds of this process, all its threads."""
    started = time.process_time()
    action()
    return time.process_time() - started


def costs(images: list[bytes], setup: ScoringSetup) -> dict[str, float]:
    """CPU seconds per image of decoding, features and scores, each on one thread, where no core waits for another."""
    scorer = setup.scorer
    threads, shape = torch.get_num_threads(), ImageShape(512, 512, 90, False)
    torch.set_num_threads(1)
    try:
        cut: list[object] = []
        decoding = cpu_seconds(lambda: cut.extend(crops_of(images, scorer)))
        batches: list[Sequence[object]] = [cut[at : at + BATCH] for at in range(0, len(cut), BATCH)]
        extracted: list[Signatures] = []
        features = cpu_seconds(lambda: extracted.extend(scorer.extract(batch, setup.passes) for batch in batches))  # type: ignore[arg-type]
        scoring = cpu_seconds(
            lambda: [scorer.score(found, [shape] * len(found.counts), setup.bank, setup.calibration) for found in extracted]
        )
    finally:
        torch.set_num_threads(threads)
    return {name: cost / len(images) for name, cost in (("decode", decoding), ("features", features), ("scores", scoring))}


def records(setting: Setting) -> list[Record]:
    setup, found = load_setup("forensic", "default", "cpu", 0, 0, None), []
    cores: int = machine()["cores"]
    originals = photographs(setting.data, IMAGES)
    for number, (kind, images) in enumerate(
        {"256 px, as LAION": list(as_laion(originals)), "as found on the web": originals}.items()
    ):
        (shard,) = write_shards(setting.work / f"shards{number}", images)
        each: list[dict[str, float]] = []

        def ideal(images: list[bytes] = images, each: list[dict[str, float]] = each) -> float:
            each.append(costs(images, setup))
            return cores / sum(each[-1].values())

        def whole(shard: Path = shard) -> float:
            return scored_rate(shard, setup, setting.work / "parts")

        rates = interleaved({"whole path": whole, "ideal": ideal}, REPEATS, setting.say)
        record = ratio_record(
            f"whole path over {cores} cores / CPU seconds per image, embedded scorer, images {kind}", rates, "whole path",
            "ideal", Better.HIGHER, "images/s", TARGET, described(images),
        )  # fmt: skip
        medians = {name: statistics.median(cost[name] for cost in each[1:]) for name in each[0]}
        parts = {name: Part(1000 * median, "ms CPU/image") for name, median in medians.items()}
        found.append(Record(**{**vars(record), "parts": {**record.parts, **parts}}))
    return found
