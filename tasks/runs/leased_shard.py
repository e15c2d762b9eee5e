"""One shard of a plan is worked on under its lease: scored, retried, set aside, or left to the run that holds the lease."""

import time
from collections.abc import Callable
from dataclasses import replace

from prefect import get_run_logger

from mdmf_core.errors import MdmfError, PartDamaged
from tasks.parts.leases import MOST_ATTEMPTS, HeldElsewhere, acquire, run_of
from tasks.parts.outcome import ShardOutcome, Work, without_part, work_name
from tasks.parts.part_files import finished_part, part_path
from tasks.scoring.retry_members import retry_members
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scoring_setup import ScoringSetup


def score_under_lease(
    work: Work,
    setup: ScoringSetup,
    parts: str,
    leases: str,
    owner: str,
    storage_block: str | None,
    progress: Callable[[int], None],
) -> ShardOutcome:
    """Scores one shard and returns its outcome. It raises only errors that concern every shard, such as a full disk.

    Raises:
        MdmfError: parts cannot be written, or the like.
    """
    shard, run_id, started = work.shard, run_of(owner), time.monotonic()
    lease = acquire(leases, work_name(shard.url, setup.key), owner, work.generation)
    if isinstance(lease, HeldElsewhere):
        return without_part(shard, "elsewhere", f"run {lease.run_id} (process {lease.pid} on {lease.host}) is at it", run_id)
    try:
        if lease.attempts > MOST_ATTEMPTS and finished_part(part_path(parts, shard, setup.key)) is None:
            died = f"{lease.attempts - 1} processes died while they were at it"
            outcome = without_part(shard, "failed", f"killed: {died}; read it again with `mdmf retry --reason killed`", run_id)
        elif work.retry:
            outcome = retry_members(shard, work.retry, setup, parts, run_id, storage_block, progress)
        else:
            outcome = score_shard(shard, setup, parts, run_id, storage_block, progress)
    except PartDamaged as error:
        outcome = without_part(shard, "failed", f"error: {error}", run_id)
    except MdmfError:
        raise
    except Exception as error:  # whatever it is, it must not cost the other shards of the group
        get_run_logger().exception("%s failed", shard.url)
        outcome = without_part(shard, "failed", f"error: {type(error).__name__}: {error}"[:2000], run_id)
    # What a dead attempt finished is not lost.
    saved = outcome.seconds if outcome.seconds > time.monotonic() - started else 0.0
    return replace(outcome, generation=lease.generation, lost=max(0.0, lease.lost - saved))
