"""Which stage is the limit on a machine, and what to change: from measured rates to advice."""

from collections.abc import Mapping
from dataclasses import dataclass

_ENOUGH = 0.9  # of the largest rate over batch sizes: a smaller batch that reaches it is as good
_CLOSE = 1.2  # a stage within this factor of the limit is the next one


@dataclass(frozen=True)
class Rates:
    """What was measured of each stage alone; images per second unless said otherwise."""

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


@dataclass(frozen=True)
class Advice:
    """The limit, the rate that follows from it and what to change, most effective first."""

    limit: str  # read | decode | backbone | score | land
    images_per_second: float  # of the whole pipeline
    rates: Mapping[str, float]  # images per second of each stage, had it the machine to itself
    changes: tuple[str, ...]


def advise(rates: Rates) -> Advice:
    """The slowest stage sets the pace.

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
        limit = min(stages, key=lambda name: stages[name])
        return Advice(limit, stages[limit], stages, _changes(limit, rates, stages))
    # Decoding by all children takes cores / decode_one of every core's time; the backbone was measured on all cores.
    shared = 1 / (1 / (rates.cores * rates.decode_one) + 1 / best + 1 / rates.score)
    alone = min(("read", "land"), key=lambda name: stages[name])
    if stages[alone] < shared:
        return Advice(alone, stages[alone], stages, _changes(alone, rates, stages))
    limit = min(("decode", "backbone", "score"), key=lambda name: stages[name])
    return Advice(limit, shared, stages, _changes(limit, rates, stages))


def _changes(limit: str, rates: Rates, stages: Mapping[str, float]) -> tuple[str, ...]:
    others = sorted(value for name, value in stages.items() if name != limit)
    gain = others[0] / stages[limit] if others else 1.0
    changes = {"read": _read, "decode": _decode, "backbone": _backbone, "score": _score, "land": _land}[limit](rates)
    if gain < _CLOSE:
        after = min((name for name in stages if name != limit), key=lambda name: stages[name])
        changes = (*changes, f"{after} comes next: it is only {gain:.1f} times as fast, so that little is won by one change")
    return changes


def _read(rates: Rates) -> tuple[str, ...]:
    return (
        f"storage gives {rates.read:.0f} MB/s: bring workers nearer to it (same region, local copies of the shards)",
        "run several workers: each reads a shard of its own, and one connection rarely fills the line",
    )


def _decode(rates: Rates) -> tuple[str, ...]:
    scale = rates.decode_all / rates.decode_one
    if rates.decoders < rates.cores:
        first = f"decode_threads: {rates.cores} instead of {rates.decoders} (one child reaches {rates.decode_one:.0f} images/s)"
    else:
        first = f"more cores: {rates.decoders} children reach {scale:.1f} times one child's {rates.decode_one:.0f} images/s"
    return first, "smaller images: shards of 256 or 512 px decode several times as fast as originals"


def _backbone(rates: Rates) -> tuple[str, ...]:
    best = max(rates.backbone.values())
    good = min(size for size, value in rates.backbone.items() if value >= _ENOUGH * best)
    batch = f"batch_images: {good} gives {rates.backbone[good]:.0f} of at most {best:.0f} images/s"
    if rates.on_gpu:
        return batch, "more GPUs: one worker for each, with device cuda:N or CUDA_VISIBLE_DEVICES"
    return batch, "a GPU: the backbone is what it speeds up; or more machines, a worker on each"


def _score(rates: Rates) -> tuple[str, ...]:
    return ("a smaller bank: `mdmf bank build --points` with fewer points, whose certificate says what it costs",)


def _land(rates: Rates) -> tuple[str, ...]:
    return (
        "shards_per_task: more shards are landed with one opening of the warehouse",
        "a DuckLake warehouse: many writers land at once (docs/lake.md)",
    )
