"""The stage that limits a machine follows from the measured rates of all stages, and so does the rate of all together."""

from collections.abc import Mapping
from dataclasses import dataclass

_ENOUGH = 0.9  # of the largest rate over batch sizes: a smaller batch that reaches it is as good


@dataclass(frozen=True)
class Rates:
    """The measured rates of each stage alone are in images per second unless said otherwise."""

    cores: int
    on_gpu: bool
    bytes_per_image: float  # encoded
    read: float  # MB/s
    decode_one: float  # by one child
    decode_all: float  # by ``decoders`` children at once
    decoders: int
    backbone: Mapping[int, float]  # by images in a batch
    score: float
    land: float  # rows per second

    @property
    def good_batch(self) -> int:
        """The smallest measured batch with which the backbone is nearly as fast as with any, in images."""
        best = max(self.backbone.values())
        return min(size for size, rate in self.backbone.items() if rate >= _ENOUGH * best)


@dataclass(frozen=True)
class Limit:
    """The stage that sets the pace, and the pace that follows from it."""

    stage: str  # read | decode | backbone | score | land
    images_per_second: float  # of the whole pipeline
    rates: Mapping[str, float]  # images per second of each stage, had it the machine to itself

    @property
    def next(self) -> tuple[str, float]:
        """Names the slowest of the other stages, and how many times as fast as the limit it is."""
        stage = min((name for name in self.rates if name != self.stage), key=lambda name: self.rates[name])
        return stage, self.rates[stage] / self.rates[self.stage]


def limit_of(rates: Rates) -> Limit:
    """Finds the limit of a machine with these rates: the slowest stage sets the pace.

    On a GPU the stages run beside each other. On a CPU, decoding, backbone and statistics share the cores, so that their
    seconds per image add up; reading and landing still run beside them.

    Raises:
        ValueError: a rate that is not above 0.
    """
    best = max(rates.backbone.values(), default=0.0)
    stages = {
        "read": rates.read * 1e6 / rates.bytes_per_image if rates.bytes_per_image > 0 else 0.0,
        "decode": rates.decode_all,
        "backbone": best,
        "score": rates.score,
        "land": rates.land,
    }
    slow = {name: value for name, value in stages.items() if value <= 0}
    if slow:
        raise ValueError(f"rates must be above 0, got {', '.join(f'{name} {value:g}' for name, value in slow.items())}")
    if rates.on_gpu:
        slowest = min(stages, key=lambda name: stages[name])
        return Limit(slowest, stages[slowest], stages)
    # Decoding by all children takes cores / decode_one of every core's time; the backbone was measured on all cores.
    shared = 1 / (1 / (rates.cores * rates.decode_one) + 1 / best + 1 / rates.score)
    alone = min(("read", "land"), key=lambda name: stages[name])
    if stages[alone] < shared:
        return Limit(alone, stages[alone], stages)
    return Limit(min(("decode", "backbone", "score"), key=lambda name: stages[name]), shared, stages)
