"""What a run spent in vain."""

from collections.abc import Iterable

from tasks.parts import ShardOutcome


def wasted_seconds(outcomes: Iterable[ShardOutcome]) -> float:
    """Device seconds of scoring whose rows did not land: of dead attempts, and of shards that were deferred or failed.

    Dead attempts are booked by the run that finishes their shard, whichever run they were part of, each of them once.
    """
    return sum(outcome.lost + (outcome.seconds if outcome.state in ("deferred", "failed") else 0.0) for outcome in outcomes)
