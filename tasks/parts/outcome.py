"""Defines the small records that tasks pass on: Work, WorkKey and ShardOutcome."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mdmf_core.digests import digest_of, short_id
from mdmf_core.records import Shard
from mdmf_core.scoring.stage_costs import StageCosts


@dataclass(frozen=True)
class WorkKey:
    """Everything that a score depends on beside the shard, as whole sha256 digests."""

    scorer_id: str
    bank_id: str
    calibration_id: str

    @property
    def ids(self) -> list[str]:
        """The ids of the tables: the first 128 bits of each digest as a UUID, in the order of the fields."""
        return [str(short_id(digest)) for digest in (self.scorer_id, self.bank_id, self.calibration_id)]


@dataclass(frozen=True)
class Work:
    """One shard of a plan, and what is to be done with it."""

    shard: Shard
    generation: int  # that of the shard's newest rows in the warehouse, 0 = there are none
    retry: tuple[str, ...] = ()  # reasons; only members that were excluded for one of them are read, all if it is empty


@dataclass(frozen=True)
class ShardOutcome:
    """The result of one shard, small enough to pass between tasks. ``part`` is a path or URL, None unless it is complete.

    A reason of a deferred or failed shard begins with its class and a colon: ``storage``, ``unfinished``, ``corrupt``,
    ``killed`` or ``error``.
    """

    url: str
    kind: str
    size_bytes: int
    fingerprint: str
    state: str  # complete | deferred | failed | elsewhere (another run holds its lease)
    reason: str | None
    digest: str | None
    members: int
    scored: int
    excluded: int
    seconds: float
    run_id: str
    part: str | None
    part_sha256: str | None = None  # digest of the part's file
    generation: int = 0  # number of the lease under which the part was made
    costs: dict[str, Any] | None = None  # costs of the stages as ``StageCosts.record`` writes them; None = not measured
    lost: float = 0.0  # seconds of attempts at the shard whose process died and left nothing


def without_part(shard: Shard, state: str, reason: str, run_id: str, seconds: float = 0.0) -> ShardOutcome:
    """Makes the outcome of a shard that gave no rows."""
    return ShardOutcome(
        shard.url, shard.kind, max(shard.size_bytes, 0), shard.fingerprint, state, reason, None, 0, 0, 0, seconds, run_id, None
    )


def costs_of(outcomes: Iterable[ShardOutcome], run_id: str) -> StageCosts:
    """Adds up what the stages cost in one run; parts that another run finished are left out."""
    ours = (outcome.costs for outcome in outcomes if outcome.run_id == run_id)
    return sum((StageCosts.from_record(costs) for costs in ours if costs), StageCosts())


def work_name(url: str, key: WorkKey) -> str:
    """Names the work on a shard, whatever its content: one run at a time holds the lease of that name."""
    return str(short_id(digest_of({"url": url} | asdict(key))))


def wasted_seconds(outcomes: Iterable[ShardOutcome]) -> float:
    """Adds up the device seconds whose rows did not land: dead attempts, and shards that were deferred or failed.

    A dead attempt is counted once, by the run that finishes its shard, whichever run the attempt was part of.
    """
    return sum(outcome.lost + (outcome.seconds if outcome.state in ("deferred", "failed") else 0.0) for outcome in outcomes)
