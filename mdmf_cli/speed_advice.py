"""Advice on what to change when the slowest stage is known, in the words of options and pages."""

from mdmf_core.scoring.slowest_stage import Limit, Rates

_CLOSE = 1.2  # a stage within this factor of the limit is the next one


def changes(limit: Limit, rates: Rates) -> tuple[str, ...]:
    """Returns what would make a run faster, most effective first."""
    advice = {"read": _read, "decode": _decode, "backbone": _backbone, "score": _score, "land": _land}[limit.stage](rates)
    after, factor = limit.next
    if factor < _CLOSE:
        advice = (*advice, f"{after} comes next: it is only {factor:.1f} times as fast, so that little is won by one change")
    return advice


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
    best, good = max(rates.backbone.values()), rates.good_batch
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
