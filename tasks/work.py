"""One shard of a plan, under its lease: scored, mended, set aside, or left to the run that is at it."""

import time
from collections.abc import Callable
from dataclasses import replace

from prefect import get_run_logger

from mdmf_core.errors import MdmfError, PartDamaged
from tasks.extract import score_shard
from tasks.kit import ScoringKit
from tasks.leases import MOST_ATTEMPTS, Elsewhere, acquire, run_of
from tasks.mend import mend_shard
from tasks.parts import ShardOutcome, Work, finished_part, part_path, without_part, work_name


def work_off(
    work: Work, kit: ScoringKit, parts: str, leases: str, owner: str, storage_block: str | None, progress: Callable[[int], None]
) -> ShardOutcome:
    """What became of one shard. Only what concerns all shards alike, such as a full disk, is raised.

    Raises:
        MdmfError: parts cannot be written, or the like.
    """
    shard, run_id, started = work.shard, run_of(owner), time.monotonic()
    lease = acquire(leases, work_name(shard.url, kit.key), owner, work.generation)
    if isinstance(lease, Elsewhere):
        return without_part(shard, "elsewhere", f"run {lease.run_id} (process {lease.pid} on {lease.host}) is at it", run_id)
    try:
        if lease.attempts > MOST_ATTEMPTS and finished_part(part_path(parts, shard, kit.key)) is None:
            died = f"{lease.attempts - 1} processes died while they were at it"
            outcome = without_part(shard, "failed", f"killed: {died}; read it again with `mdmf retry --reason killed`", run_id)
        elif work.retry:
            outcome = mend_shard(shard, work.retry, kit, parts, run_id, storage_block, progress)
        else:
            outcome = score_shard(shard, kit, parts, run_id, storage_block, progress)
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
