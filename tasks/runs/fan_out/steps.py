"""The Prefect tasks of a corpus run: those of the parent and those of its children."""

import uuid
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from mdmf_core.errors import MdmfError
from tasks.parts.leases import HeldElsewhere, acquire
from tasks.parts.plans import read_plan, write_plan
from tasks.parts.store import exists
from tasks.runs.backlog import Tally, accounted, left_of, left_to_do
from tasks.runs.fan_out.follower import Ended
from tasks.runs.fan_out.portions import (
    CorpusPlan,
    PortionResult,
    corpus_folder,
    drop_plan,
    keep_plan,
    keep_result,
    plan_path,
    result_of,
    unfinished_plan,
    work_of,
)
from tasks.runs.records import record_of, start_run
from tasks.runs.settings import ResolvedSettings
from tasks.runs.steps import Plan, opened
from tasks.warehouse.migrations import migrate


def corpus_work(settings: ResolvedSettings) -> str:
    """Returns the name of the work, on which one parent at a time has the lease."""
    return work_of(settings.source, settings.key, settings.images_per_slice, settings.max_shards)


def of_every_child(settings: ResolvedSettings, plan: CorpusPlan) -> dict[str, Any]:
    """Returns the parameters of every child: the plan's path and the parent's settings without the promotion."""
    asked = settings.model_copy(update={"promote": False}).model_dump(mode="json", exclude={"key"})
    return {"plan": plan.path, "settings": asked}


def require_alone(leases: str, work: str, name: str) -> None:
    """Takes the lease on this work; raises MdmfError when another parent lives that has it."""
    lease = acquire(leases, work, name, 0)
    if isinstance(lease, HeldElsewhere):
        raise MdmfError(f"run {lease.run_id} (process {lease.pid} on {lease.host}) is at this corpus already; follow that one")


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan_corpus(settings: ResolvedSettings, work: str, shards_per_run: int, resume: bool) -> tuple[CorpusPlan, bool]:
    """Returns the plan of an earlier parent that did not end, or a new plan, and whether it is the earlier one."""
    folder = corpus_folder(settings.where.parts)
    left = unfinished_plan(folder, work)
    if left is not None and resume:
        get_run_logger().info("plan %s goes on: %d portions of %d shards", left.plan_id, left.portions, left.shards_per_run)
        return left, True
    if left is not None:
        drop_plan(folder, work, left)
    tally, plan_id = Tally(), str(uuid.uuid4())
    path = plan_path(folder, plan_id)
    portions = write_plan(path, left_to_do(settings, tally), shards_per_run)
    plan = CorpusPlan(
        plan_id=plan_id, source=settings.source, path=path, portions=portions, shards_per_run=shards_per_run,
        shards=tally.shards, to_do=tally.to_do, already_complete=tally.already_complete, set_aside=tally.set_aside,
    )  # fmt: skip
    keep_plan(folder, work, plan)
    get_run_logger().info(
        "plan %s: %d shards at %s, %d to do in %d portions", plan_id, plan.shards, settings.source, plan.to_do, portions
    )
    return plan, False


@task(cache_policy=NO_CACHE, task_run_name="open run")
def open_corpus(settings: ResolvedSettings, run_id: str) -> bool:
    """Opens the parent's row, and says whether the views show this scorer and bank.

    The parent scores nothing: each child's own row names the device that it found.
    """
    run = record_of("curate-corpus", settings, settings.source, run_id, f"child runs, each on {settings.device}")
    with settings.where.connect() as connection:
        migrate(connection)
        return start_run(connection, run, settings.lineage, settings.promote)


@task(cache_policy=NO_CACHE, task_run_name="plan portion {portion}")
def plan_portion(settings: ResolvedSettings, plan: str, portion: int, run_id: str) -> Plan:
    """Writes the plan of a child: the shards of its portion that are still left to do."""
    if not exists(plan):
        raise MdmfError(f"{plan} is not there: the corpus was finished or planned anew since; there is nothing to do")
    device, tally = settings.scored_on(), Tally()
    shards = [work.shard for work in read_plan(plan, portion)]
    work = left_of(shards, settings.where, settings.key, None, tally)
    return opened(settings, "curate-portion", run_id, work, tally, device)


@task(cache_policy=NO_CACHE, task_run_name="keep result")
def keep_portion(
    settings: ResolvedSettings, plan: str, portion: int, run_id: str, elsewhere: int, failures: list[str], wasted: float
) -> PortionResult:
    """Writes for the parent what the warehouse holds of the portion now.

    The tables are asked, not this attempt's outcomes: shards that an earlier attempt landed before it died count as well.
    """
    result = _counted(settings, plan, portion, run_id, elsewhere, failures).model_copy(update={"wasted_seconds": wasted})
    keep_result(plan, result)
    return result


def portion_result(settings: ResolvedSettings, plan: str, ended: Ended) -> PortionResult:
    """Returns the result of a finished portion; it is counted here when no child has left one."""
    result = result_of(plan, ended.portion)
    return _counted(settings, plan, ended.portion, "", 0, [ended.failure or ""]) if result is None else result


def _counted(
    settings: ResolvedSettings, plan: str, portion: int, run_id: str, elsewhere: int, failures: list[str]
) -> PortionResult:
    shards = [work.shard for work in read_plan(plan, portion)]
    with settings.where.connect(read_only=True) as connection:
        counts = accounted(connection, shards, settings.key)
    left = len(shards) - counts["complete"] - counts["deferred"] - counts["failed"]
    # The other run may have landed them meanwhile.
    return PortionResult(portion=portion, run_id=run_id, failures=failures, elsewhere=min(elsewhere, left), **counts)


@task(cache_policy=NO_CACHE, task_run_name="close plan")
def close_corpus(settings: ResolvedSettings, work: str, plan: CorpusPlan) -> None:
    """Removes the plan once every portion is done or given up, so that the next run plans anew."""
    drop_plan(corpus_folder(settings.where.parts), work, plan)
