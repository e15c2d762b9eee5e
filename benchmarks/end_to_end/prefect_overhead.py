"""What Prefect costs a shard of 10,000 images, beside the seconds that one GPU takes for it.

Shards of four images go through the real flow with a stub scorer, so that the time in which none is scored or landed is
Prefect's and the plan's. The line through runs of 1, 10 and 50 shards gives a fixed cost and one per shard. A GPU that does
1,500 images/s (what clip-retrieval publishes for ViT-B/32 on an RTX 3080) takes 10,000 / 1,500 = 6.67 s for a shard; the ratio
is (6.67 s + Prefect's cost per shard) / 6.67 s, and at most 1.01 is the target.
"""

import statistics
from collections.abc import Mapping

from benchmarks.harness.corpora import as_laion, photographs, write_shards
from benchmarks.harness.frame import Better, Part, Record, Setting, slope
from benchmarks.harness.stub import prefect_server, run_apart

SHARDS, IMAGES, REPEATS = (1, 10, 50), 4, 3
GPU_RATE, SHARD_IMAGES, TARGET = 1500, 10_000, 1.01
SHARDS_PER_TASK = (4, 1)  # the default, and the dearest


def records(setting: Setting) -> list[Record]:
    images, found = list(as_laion(photographs(setting.data, IMAGES))), []
    for shards in SHARDS:
        write_shards(setting.work / f"of{shards}", images * shards, shards)
    with prefect_server(setting) as environment:
        run_apart(setting.work / "of1", setting.work / "warm.duckdb", 1, environment)
        for per_task in SHARDS_PER_TASK:
            found.append(_record(setting, per_task, environment))
    return found


def _record(setting: Setting, per_task: int, environment: Mapping[str, str]) -> Record:
    lines, landings = [], []
    for repeat in range(REPEATS):
        runs = {}
        for shards in SHARDS:
            warehouse = setting.work / f"{per_task}-{repeat}-{shards}.duckdb"
            runs[shards] = run_apart(setting.work / f"of{shards}", warehouse, per_task, environment)
            if runs[shards].scored != IMAGES * shards:
                raise ValueError(f"{shards} shards: expected {IMAGES * shards} images scored, got {runs[shards].scored}")
        lines.append(slope(list(runs), [run.overhead for run in runs.values()]))
        landings.append(slope(list(runs), [run.landing for run in runs.values()])[1])
        said = ", ".join(f"{shards} shards {run.overhead:.2f} of {run.wall:.2f} s" for shards, run in runs.items())
        setting.say(f"{per_task} shards a task, repeat {repeat + 1} of {REPEATS}: beside scoring and landing {said}")
    seconds = SHARD_IMAGES / GPU_RATE
    ratios = [1 + each / seconds for _, each in lines]
    parts = {
        "fixed": Part(statistics.median(fixed for fixed, _ in lines), "s a run"),
        "Prefect": Part(1000 * statistics.median(each for _, each in lines), "ms a shard"),
        "landing": Part(1000 * statistics.median(landings), "ms a shard"),
    }
    did = f"{', '.join(map(str, SHARDS))} shards, stub scorer; without = {seconds:.2f} s at {GPU_RATE} images/s"
    name = f"shard of {SHARD_IMAGES:,} images with Prefect over without, {per_task} shards a task"
    return Record(
        name, statistics.median(ratios), Better.LOWER, min(ratios), max(ratios), REPEATS, parts, TARGET, did
    )  # fmt: skip
