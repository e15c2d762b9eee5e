"""`mdmf curate` against what curators use today: the same shards, the same CLIP ViT-B/16, the same cores.

What each does: we read tars, check every byte, score all 196 patch tokens of an image by MMD against a bank, and land one
verifiable row an image in a warehouse, under a Prefect server. The peers write one embedding an image. clip-retrieval resizes
to 224 px, all others cut the centre; Daft reads the same JPEG bytes out of parquet.
"""

import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace

from benchmarks.end_to_end.clip import MODEL, clip_bank
from benchmarks.harness.compare import read_results
from benchmarks.harness.frame import Better, Part, Record, Setting, interleaved
from benchmarks.peers.runs import Run, images, installed, run_ours, run_peer
from benchmarks.run import RESULTS

IMAGES, SHARDS, BATCH, REPEATS = 240, 2, 8, 2
FASTER, SMALLER = 1.2, 1.0  # the targets: images/s and memory over the best peer
OURS = "mdmf curate"


def best_settings() -> dict[str, tuple[int, int]]:
    """(workers, threads) that ``peer_settings`` found best, by peer.

    Raises:
        ValueError: it has not run yet.
    """
    results = read_results(RESULTS, ["peer_settings"])
    if not results:
        raise ValueError("no benchmarks/results/peer_settings.json; run: make bench-peers")
    best = {}
    for record in results[0].records:
        if record.ratio == 1.0:
            best[record.name.partition(", ")[0]] = (int(record.parts["workers"].value), int(record.parts["threads"].value))
    return best


def records(setting: Setting) -> list[Record]:
    settings, given = best_settings(), images(setting, IMAGES, SHARDS)
    bank = clip_bank(setting)
    runs: dict[str, list[Run]] = {}

    def side(name: str, run: Callable[[], Run]) -> Callable[[], float]:
        def once() -> float:
            shutil.rmtree(setting.work / "out", ignore_errors=True)
            runs.setdefault(name, []).append(run())
            return runs[name][-1].images_per_second

        return once

    out, weights = setting.work / "out", setting.weights
    sides = {OURS: side(OURS, lambda: run_ours(f"timm:{MODEL}?weights={weights}", bank, given, out, BATCH))}
    for peer in installed():
        if peer not in settings:
            setting.say(f"{peer} is left out: peer_settings did not see it run")
            continue
        workers, threads = settings[peer]
        sides[peer] = side(
            peer, lambda peer=peer, w=workers, t=threads: run_peer(peer, given, weights, out, BATCH, w, t)
        )  # fmt: skip
    interleaved(sides, REPEATS, setting.say, warm=False)
    if any(run.images != IMAGES for found in runs.values() for run in found):
        raise ValueError(
            f"expected {IMAGES} images of each, got {[(name, run.images) for name, f in runs.items() for run in f]}"
        )
    return _records(runs, settings, given.did)


def _records(runs: dict[str, list[Run]], settings: dict[str, tuple[int, int]], did: str) -> list[Record]:
    rates = {name: [run.images_per_second for run in found] for name, found in runs.items()}
    memory = {name: [run.peak_pss for run in found] for name, found in runs.items()}
    peers = [name for name in runs if name != OURS]
    fastest = max(peers, key=lambda name: statistics.median(rates[name]))
    smallest = min(peers, key=lambda name: statistics.median(memory[name]))
    found = []
    for peer in peers:
        workers, threads = settings[peer]
        which = f"{did}, batches of {BATCH}; {peer} with {workers} workers, {threads} threads"
        found += [
            _ratio(f"mdmf curate over {peer}, speed", rates, peer, Better.HIGHER, "images/s", FASTER, peer == fastest, which),
            _ratio(f"mdmf curate over {peer}, memory", memory, peer, Better.LOWER, "MB", SMALLER, peer == smallest, which),
        ]
    whole = {f"{name}, start to exit": Part(statistics.median(run.seconds for run in one), "s") for name, one in runs.items()}
    resident = {f"{name}, RSS": Part(statistics.median(run.peak_rss for run in one), "MB") for name, one in runs.items()}
    first, second = found[:2]
    first, second = replace(first, parts={**first.parts, **whole}), replace(second, parts={**second.parts, **resident})
    return [first, second, *found[2:]]


def _ratio(
    name: str, values: dict[str, list[float]], peer: str, better: Better, unit: str, target: float, best: bool, did: str
) -> Record:
    """Ours over a peer; the target stands at the best of them only."""
    ratios = [ours / theirs for ours, theirs in zip(values[OURS], values[peer], strict=True)]
    parts = {who: Part(statistics.median(values[who]), unit) for who in (OURS, peer)}
    return Record(
        f"{name}{' (the best of them)' if best else ''}", statistics.median(ratios), better, min(ratios), max(ratios),
        len(ratios), parts, target if best else None, did,
    )  # fmt: skip
