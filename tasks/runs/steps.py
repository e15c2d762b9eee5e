"""The Prefect tasks of curate and retry. They take and return paths, numbers and small records."""

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from pydantic import BaseModel

from mdmf_core.errors import MdmfError, WarehouseHeld
from tasks.parts.leases import release, run_of
from tasks.parts.outcome import ShardOutcome, Work, costs_of, work_name
from tasks.parts.plans import write_plan
from tasks.report.write import NoEvidence, write_report
from tasks.runs.backlog import Tally, left_to_do
from tasks.runs.leased_shard import score_under_lease
from tasks.runs.names import group_name, landing_name, planned, short_source
from tasks.runs.records import finish_run, record_of, start_run
from tasks.runs.retry import cuts, require_retryable, waiting_for_retry, work_again
from tasks.runs.settings import ResolvedSettings
from tasks.scoring.loading import device_label
from tasks.scoring.progress import Interrupted, progress_log
from tasks.scoring.prometheus import count_shard
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.scoring.stage_clock import Stages
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate


class Plan(BaseModel):
    """The path of a run's plan, and how much it holds."""

    path: str
    groups: int
    shards: int
    to_do: int
    already_complete: int
    set_aside: int  # failed before with the same bytes
    promoted: bool


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan(settings: ResolvedSettings, run_id: str) -> Plan:
    """Lists the source, writes the plan of what is left to do and opens the run in the warehouse."""
    device, tally = settings.scored_on(), Tally()
    written = opened(settings, "curate", run_id, left_to_do(settings, tally), tally, device)
    get_run_logger().info(
        "%d shards at %s, %d to do in %d groups, %d set aside; %s on %s",
        written.shards, settings.source, written.to_do, written.groups, written.set_aside, settings.lineage.scorer.name, device,
    )  # fmt: skip
    return written


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan_retry(settings: ResolvedSettings, reasons: tuple[str, ...], force: bool, run_id: str) -> Plan:
    """Writes the plan of what was excluded, deferred or set aside for these reasons, and opens the run in the warehouse."""
    device = settings.scored_on()
    require_retryable(reasons, force)
    with settings.where.connect() as connection:
        migrate(connection)
        waiting, cut_sizes = waiting_for_retry(connection, settings.key, reasons), cuts(connection)
    work, missing = work_again(waiting, reasons, cut_sizes, settings.storage_block)
    if missing:
        get_run_logger().warning("the store does not list %d shards; they stay as they are; first %s", len(missing), missing[0])
    return opened(settings, "retry", run_id, work, Tally(shards=len(waiting), to_do=len(work)), device)


def opened(settings: ResolvedSettings, flow: str, run_id: str, work: Iterable[Work], tally: Tally, device: str) -> Plan:
    """Writes the plan, and the run's row last: what fails before leaves no row that nobody would close.

    Args:
        device: what scores the images, in words for the row.
    """
    path = os.path.join(settings.where.parts, "plans", f"{run_id}.parquet")
    groups = write_plan(path, work, settings.shards_per_task)
    run = record_of(flow, settings, settings.source, run_id, device)
    with settings.where.connect() as connection:
        promoted = start_run(connection, run, settings.lineage, settings.promote)
    return Plan(path=path, groups=groups, promoted=promoted, **asdict(tally))


def _may_pass(_: object, __: object, state: State[object]) -> bool:
    """Tells whether a task is worth another try: not after an hour of waiting for the warehouse, nor in an interrupted run."""
    return not isinstance(state.result(raise_on_failure=False), WarehouseHeld | Interrupted)


@task(cache_policy=NO_CACHE, task_run_name=group_name, retries=1, retry_delay_seconds=5, retry_condition_fn=_may_pass)
def score_group(settings: ResolvedSettings, plan_path: str, group: int, owner: str) -> list[ShardOutcome]:
    """Scores the shards of one group into parts, each under its lease."""
    settings.engine.take_share()
    logger, setup = get_run_logger(), settings.setup()
    parts, leases = settings.where.parts, settings.where.leases
    started = time.monotonic()
    outcomes = [
        score_under_lease(work, setup, parts, leases, owner, settings.storage_block, progress_log(short_source(work.shard.url)))
        for work in planned(plan_path, group)
    ]
    for outcome in outcomes:
        count_shard(outcome.state, outcome.scored, outcome.excluded)
        if outcome.state != "complete":
            logger.warning("%s %s: %s", outcome.url, outcome.state, outcome.reason)
    seconds = time.monotonic() - started
    members = sum(outcome.members for outcome in outcomes)
    scored = sum(outcome.scored for outcome in outcomes)
    logger.info(
        "group %d: %d shards, %d members = %d scored + %d excluded, %.1f s, %.1f images/s; %s; process %d on %s, %s",
        group, len(outcomes), members, scored, members - scored, seconds, members / seconds,
        costs_of(outcomes, run_of(owner)).sentence(setup.decode_threads), os.getpid(), socket.gethostname(),
        device_label(setup.scorer),
    )  # fmt: skip
    settings.engine.hand_in_logs()
    return outcomes


@task(cache_policy=NO_CACHE, task_run_name=landing_name, retries=2, retry_delay_seconds=5, retry_condition_fn=_may_pass)
def land_group(settings: ResolvedSettings, outcomes: list[ShardOutcome]) -> dict[str, Any]:
    """Commits the outcomes of one group and gives their leases back; returns what landing cost."""
    key, stages = settings.key, Stages()
    with stages.timed("land", sum(outcome.members for outcome in outcomes)):
        overtaken = land(settings.where, outcomes, key)
    cost = stages.snapshot().stages["land"]
    get_run_logger().info("landed %d rows in %.2f s, %.0f rows/s", cost.items, cost.seconds, cost.rate or 0)
    for url in overtaken:
        get_run_logger().warning("%s: another run took it over and landed it; its rows stay", url)
    for outcome in outcomes:
        release(settings.where.leases, work_name(outcome.url, key), outcome.generation)
    return replace(stages.snapshot(), wall=0.0).record()  # it runs beside the scoring of the next group


@task(cache_policy=NO_CACHE, task_run_name="report")
def report(settings: ResolvedSettings, scored_here: bool) -> str | None:
    """Writes the report folder and gives the path of its page; None while there is nothing to report.

    Args:
        scored_here: by this process, so that the scorer is loaded. Otherwise it is loaded on the CPU to draw the evidence maps,
            since this machine may have no GPU; where that fails, the report says why it has no maps.
    """
    if scored_here:
        evidence: ScoringSetup | NoEvidence = settings.setup()
    else:
        try:
            evidence = settings.model_copy(update={"device": "cpu", "compile": False}).setup()
        except (MdmfError, ValueError, OSError) as error:
            evidence = NoEvidence(f"scorer or bank cannot be loaded where the run was planned: {error}")
    return write_report(settings.where, settings.source, settings.storage_block, evidence)


@task(cache_policy=NO_CACHE, task_run_name="close run")
def close_run(settings: ResolvedSettings, run_id: str, failures: list[str], costs: dict[str, Any]) -> None:
    """Writes how the run ended, and what its stages cost."""
    with settings.where.connect() as connection:
        finish_run(connection, run_id, "failed" if failures else "completed", "; ".join(failures)[:2000] or None, costs)
