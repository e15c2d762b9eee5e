"""Work, WorkKey, ShardOutcome: what tasks pass on."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mdmf_core.digests import digest_of, short_id
from mdmf_core.records import Shard
from mdmf_core.scoring.stage_costs import StageCosts


@dataclass(frozen=True)
class WorkKey:
    """What a score depends on beside the shard: whole sha256 digests."""

    scorer_id: str
    bank_id: str
    calibration_id: str

    @property
    def ids(self) -> list[str]:
        """As the tables have them: the first 128 bits as UUIDs, in the order of the fields."""
        return [str(short_id(digest)) for digest in (self.scorer_id, self.bank_id, self.calibration_id)]


@dataclass(frozen=True)
class Work:
    """One shard of a plan."""

    shard: Shard
    generation: int  # of its newest rows in the warehouse, 0 = none
    retry: tuple[str, ...] = ()  # read only the members that were excluded for these reasons; empty = all members


@dataclass(frozen=True)
class ShardOutcome:
    """What became of one shard, small enough to pass between tasks. ``part`` is a path, None unless complete.

    A reason of a deferred or failed shard begins with its class and a colon: ``storage``, ``unfinished``, ``corrupt``,
    ``killed`` or ``error``.
    """

    url: str
    kind: str
    size_bytes: int
    fingerprint: str
    state: str  # complete | deferred | failed | elsewhere (another run is at it)
    reason: str | None
    digest: str | None
    members: int
    scored: int
    excluded: int
    seconds: float
    run_id: str
    part: str | None
    part_sha256: str | None = None  # of the part's file
    generation: int = 0  # of the lease under which it was made
    costs: dict[str, Any] | None = None  # of the stages, as ``StageCosts.record`` has them; None = nobody looked
    lost: float = 0.0  # seconds of attempts that died at it and left nothing


def without_part(shard: Shard, state: str, reason: str, run_id: str, seconds: float = 0.0) -> ShardOutcome:
    """The outcome of a shard that gave no rows."""
    return ShardOutcome(
        shard.url, shard.kind, max(shard.size_bytes, 0), shard.fingerprint, state, reason, None, 0, 0, 0, seconds, run_id, None
    )


def costs_of(outcomes: Iterable[ShardOutcome], run_id: str) -> StageCosts:
    """What the stages of these shards cost together in one run, which may have found parts that another one finished."""
    ours = (outcome.costs for outcome in outcomes if outcome.run_id == run_id)
    return sum((StageCosts.from_record(costs) for costs in ours if costs), StageCosts())


def work_name(url: str, key: WorkKey) -> str:
    """Under which one run at a time works on a shard, whatever its content."""
    return str(short_id(digest_of({"url": url} | asdict(key))))


def wasted_seconds(outcomes: Iterable[ShardOutcome]) -> float:
    """Device seconds of scoring whose rows did not land: of dead attempts, and of shards that were deferred or failed.

    Dead attempts are booked by the run that finishes their shard, whichever run they were part of, each of them once.
    """
    return sum(outcome.lost + (outcome.seconds if outcome.state in ("deferred", "failed") else 0.0) for outcome in outcomes)
