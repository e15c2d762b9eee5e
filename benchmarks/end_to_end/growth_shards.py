"""The same as ``growth`` for the number of shards: 10 to 10,000 tiny ones, through plan, tasks, leases, parts and landing."""

from benchmarks.end_to_end.growth import grown, growth_records
from benchmarks.harness.frame import Record, Setting

SIZES, OF_EACH = (10, 100, 1_000, 10_000), 2


def records(setting: Setting) -> list[Record]:
    runs = grown(setting, [(OF_EACH * shards, shards) for shards in SIZES])
    return growth_records("shard", f"{OF_EACH} images", dict(zip(SIZES, runs, strict=True)), lambda run: run.wall)
