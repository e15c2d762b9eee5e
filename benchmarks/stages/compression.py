"""Whether a bank of a million patches is compressed in as many seconds per patch as one of a hundred thousand."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from benchmarks.harness.frame import Better, Part, Record, Setting, timed
from benchmarks.stages.mmd import POINTS, measured, more
from mdmf_core.mmd.coreset import BLOCK_POINTS, compress
from tasks.scoring.loading import load_scorer

SIZES, TARGET = (100_000, 1_000_000), 1.5


def blocks(patches: Tensor, count: int) -> Iterator[Tensor]:
    """As ``more``, in blocks that are never held together."""
    for number in range(count // BLOCK_POINTS):
        yield more(patches, BLOCK_POINTS, number)


def records(setting: Setting) -> list[Record]:
    scorer = load_scorer("forensic", "cpu")
    patches, _ = measured(scorer, setting)
    return [_record(method, patches, scorer.sigma or 1.0, setting) for method in ("herding", "thinning")]


def _record(method: str, patches: Tensor, sigma: float, setting: Setting) -> Record:
    seconds = {}
    for count in SIZES:
        seconds[count] = timed(partial(compress, blocks(patches, count), POINTS, sigma, method))
        setting.say(f"{method} of {count:,} patches: {seconds[count]:.0f} s")
    small, large = SIZES
    ratio = (seconds[large] / large) / (seconds[small] / small)
    parts = {f"{count:,} patches": Part(value, "s") for count, value in seconds.items()}
    name = f"building by {method}: seconds per patch at {large:,}, over {small:,}"
    return Record(name, ratio, Better.LOWER, ratio, ratio, 1, parts, TARGET, f"to {POINTS} points")
