"""Whether an image costs the same in a large corpus as in a small one: seconds and memory, with a stub scorer.

What each further image costs between the two larger sizes over what it costs between the two smaller ones, so that what is
paid once counts on neither side; and the peak memory of the largest over that of the smallest.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from benchmarks.harness.corpora import as_laion, photographs, write_shards
from benchmarks.harness.frame import Better, Part, Record, Setting, slope
from benchmarks.harness.stub import FlowRun, prefect_server, run_apart

PHOTOGRAPHS = 50
SIZES = (100, 1_000, 10_000)  # images of one shard
SHARDS_PER_TASK = 100
CPU = "of it the scoring process"
TIME, MEMORY = 1.15, 1.10  # the targets


def records(setting: Setting) -> list[Record]:
    runs = grown(setting, [(size, 1) for size in SIZES])
    return growth_records("image", "one shard", dict(zip(SIZES, runs, strict=True)), lambda run: run.scoring)


def grown(setting: Setting, sizes: Sequence[tuple[int, int]]) -> list[FlowRun]:
    """A run of the flow over each corpus of so many images in so many shards, each in a process of its own."""
    few, found = list(as_laion(photographs(setting.data, PHOTOGRAPHS))), []
    with prefect_server(setting) as environment:
        for images, shards in ((20, 1), *sizes):
            folder = setting.work / f"{images}of{shards}"
            write_shards(folder, (few[at % len(few)] for at in range(images)), shards)
            run = run_apart(folder, setting.work / f"{images}of{shards}.duckdb", SHARDS_PER_TASK, environment)
            setting.say(f"{images} images in {shards} shards: {run.wall:.1f} s, peak {run.peak_mb:.0f} MB")
            if run.scored != images:
                raise ValueError(f"expected {images} images scored, got {run.scored}")
            found.append(run)
    return found[1:]  # the first warmed the server


def growth_records(what: str, of: str, runs: dict[int, FlowRun], clock: Callable[[FlowRun], float]) -> list[Record]:
    """Seconds of each further one, and peak memory, large over small."""
    sizes, seconds = list(runs), [clock(run) for run in runs.values()]
    memory = [run.peak_mb for run in runs.values()]
    steps = zip(pairwise(sizes), pairwise(seconds), strict=True)
    further = [(late - early) / (more - fewer) for (fewer, more), (early, late) in steps]
    did = f"{', '.join(f'{size:,}' for size in sizes)} {what}s of {of}"
    return [
        _record(f"seconds of each further {what}, late over early", further[-1] / further[0], TIME, did, {
            **_each(sizes, seconds, what, "s"), "each further": Part(1000 * slope(sizes, seconds)[1], f"ms a {what}"),
            CPU: Part(1000 * slope(sizes, [run.cpu for run in runs.values()])[1], f"ms CPU a {what}"),
        }),
        _record(f"peak memory at {sizes[-1]:,} {what}s over {sizes[0]:,}", memory[-1] / memory[0], MEMORY, did, {
            **_each(sizes, memory, what, "MB"), "each further": Part(1000 * slope(sizes, memory)[1], f"kB a {what}")
        }),
    ]  # fmt: skip


def _each(sizes: Sequence[int], values: Sequence[float], what: str, unit: str) -> dict[str, Part]:
    return {f"{size:,} {what}s": Part(value, unit) for size, value in zip(sizes, values, strict=True)}


def _record(name: str, ratio: float, target: float, did: str, parts: dict[str, Part]) -> Record:
    return Record(name, ratio, Better.LOWER, ratio, ratio, 1, parts, target, did)
