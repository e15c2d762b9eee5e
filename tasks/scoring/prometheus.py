"""Counters for Prometheus, in the registry that Prefect's own endpoint serves (PREFECT_CLIENT_METRICS_ENABLED)."""

from prometheus_client import Counter, Gauge

SECONDS = Counter("mdmf_stage_seconds", "Seconds that workers of a stage were at work", ["stage"])
ITEMS = Counter("mdmf_stage_items", "Images that went through a stage; rows for landing", ["stage"])
BYTES = Counter("mdmf_stage_bytes", "Encoded bytes that went through a stage", ["stage"])
QUEUE = Gauge("mdmf_queue_depth", "Items that wait before a stage", ["queue"])
SHARDS = Counter("mdmf_shards", "Shards by what became of them", ["state"])
MEMBERS = Counter("mdmf_members", "Members of complete shards", ["verdict"])


def count(stage: str, seconds: float, items: int, size: int) -> None:
    """Adds the work of one stage."""
    SECONDS.labels(stage).inc(seconds)
    ITEMS.labels(stage).inc(items)
    BYTES.labels(stage).inc(size)


def count_shard(state: str, scored: int, excluded: int) -> None:
    """Adds one shard and its members."""
    SHARDS.labels(state).inc()
    MEMBERS.labels("scored").inc(scored)
    MEMBERS.labels("excluded").inc(excluded)
