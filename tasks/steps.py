"""The steps of the flows as Prefect tasks: paths, numbers and small records in and out."""

import os
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from pydantic import BaseModel, Field

from mdmf_core.errors import WarehouseHeld
from tasks.artifacts import group_name, landing_name, short_source
from tasks.kit import ScoringKit
from tasks.landing import land
from tasks.leases import release
from tasks.parts import ShardOutcome, Work, read_plan, work_name, write_plan
from tasks.report import write_report
from tasks.retry import again, cuts, require_retryable, waiting_for_retry
from tasks.runs import RunRecord, finish_run, start_run, still_to_do
from tasks.scorers import device_label, load_kit, resolve_bank
from tasks.shards import list_shards
from tasks.warehouse import connect, leases_folder, migrate, parts_folder
from tasks.work import work_off

_LOG_SECONDS = 20.0


class CurateSettings(BaseModel):
    """What a curate run does. Nothing here changes a score but scorer and bank, which every row names."""

    source: str
    warehouse: str
    scorer: str
    bank: str
    calibration: str | None
    keep_signatures: Annotated[float, Field(ge=0, le=1)]
    shards_per_task: Annotated[int, Field(ge=1)]
    images_per_slice: Annotated[int, Field(ge=1)]
    max_shards: Annotated[int, Field(ge=1)] | None
    batch_images: Annotated[int, Field(ge=1)]
    decode_threads: Annotated[int, Field(ge=0)]
    device: str
    storage_block: str | None
    promote: bool

    def kit(self) -> ScoringKit:
        return load_kit(
            self.scorer, self.bank, self.device, self.batch_images, self.decode_threads, self.storage_block, self.calibration,
            self.keep_signatures,
        )  # fmt: skip

    def resolved(self) -> "CurateSettings":
        """With the directory that a bank's name or alias means now, so that a promotion halfway changes nothing."""
        bank, calibration = resolve_bank(self.warehouse, self.scorer, self.bank, self.calibration)
        return self.model_copy(update={"bank": bank, "calibration": calibration})


class Plan(BaseModel):
    """Where a run's plan lies and what is in it."""

    path: str
    groups: int
    shards: int
    to_do: int
    already_complete: int
    set_aside: int  # failed before with the same bytes
    promoted: bool


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan(settings: CurateSettings, run_id: str) -> Plan:
    """Lists the source, writes the plan of what is left to do and opens the run in the warehouse."""
    kit = settings.kit()
    shards = list_shards(settings.source, settings.images_per_slice, settings.storage_block)
    with connect(settings.warehouse) as connection:
        migrate(connection)
        waiting, set_aside = still_to_do(connection, shards, kit.key)
    complete = len(shards) - len(waiting) - set_aside
    found = _opened(settings, "curate", kit, run_id, waiting[: settings.max_shards], len(shards), complete, set_aside)
    get_run_logger().info(
        "%d shards at %s, %d to do in %d groups, %d set aside; %s on %s",
        len(shards), settings.source, found.to_do, found.groups, set_aside, kit.scorer.name, device_label(kit.scorer),
    )  # fmt: skip
    return found


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan_retry(settings: CurateSettings, reasons: tuple[str, ...], force: bool, run_id: str) -> Plan:
    """The same for what was excluded, deferred or set aside for these reasons."""
    kit = settings.kit()
    require_retryable(reasons, force)
    with connect(settings.warehouse) as connection:
        migrate(connection)
        waiting, cut_sizes = waiting_for_retry(connection, kit.key, reasons), cuts(connection)
    work, missing = again(waiting, reasons, cut_sizes, settings.storage_block)
    if missing:
        get_run_logger().warning("the store does not list %d shards; they stay as they are; first %s", len(missing), missing[0])
    return _opened(settings, "retry", kit, run_id, work, len(waiting), 0, 0)


def _opened(
    settings: CurateSettings, flow: str, kit: ScoringKit, run_id: str, work: list[Work], shards: int, complete: int, aside: int
) -> Plan:
    """Writes the plan, and the run's row last: what fails before leaves none that nobody would close."""
    size = settings.shards_per_task
    groups = [work[start : start + size] for start in range(0, len(work), size)]
    path = os.path.join(parts_folder(settings.warehouse), "plans", f"{run_id}.parquet")
    write_plan(path, groups)
    host, device = socket.gethostname(), device_label(kit.scorer)
    run = RunRecord(run_id, flow, settings.source, settings.model_dump(), version("mdmf"), host, device)
    with connect(settings.warehouse) as connection:
        promoted = start_run(connection, run, kit, settings.promote)
    return Plan(
        path=path, groups=len(groups), shards=shards, to_do=len(work), already_complete=complete, set_aside=aside,
        promoted=promoted,
    )  # fmt: skip


@task(cache_policy=NO_CACHE, task_run_name=group_name, retries=1, retry_delay_seconds=5)
def score_group(settings: CurateSettings, plan_path: str, group: int, owner: str) -> list[ShardOutcome]:
    """Scores the shards of one group into parts, each under its lease."""
    logger, kit = get_run_logger(), settings.kit()
    parts, leases = parts_folder(settings.warehouse), leases_folder(settings.warehouse)
    started = time.monotonic()
    outcomes = [
        work_off(work, kit, parts, leases, owner, settings.storage_block, progress_log(short_source(work.shard.url)))
        for work in read_plan(plan_path, group)
    ]
    for outcome in outcomes:
        if outcome.state != "complete":
            logger.warning("%s %s: %s", outcome.url, outcome.state, outcome.reason)
    seconds = time.monotonic() - started
    members = sum(outcome.members for outcome in outcomes)
    scored = sum(outcome.scored for outcome in outcomes)
    logger.info(
        "group %d: %d shards, %d members = %d scored + %d excluded, %.1f s, %.1f images/s",
        group, len(outcomes), members, scored, members - scored, seconds, members / seconds,
    )  # fmt: skip
    return outcomes


def progress_log(name: str) -> Callable[[int], None]:
    """A function that is told how many images are done so far, and logs it with the rate every 20 seconds."""
    logger, started = get_run_logger(), time.monotonic()
    last = started

    def progress(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LOG_SECONDS:
            last = now
            logger.info("%s: %d images so far, %.1f images/s", name, done, done / (now - started))

    return progress


def _may_pass(_: object, __: object, state: State[object]) -> bool:
    """Whether landing is worth another try; after an hour of waiting for the warehouse it is not."""
    return not isinstance(state.result(raise_on_failure=False), WarehouseHeld)


@task(cache_policy=NO_CACHE, task_run_name=landing_name, retries=2, retry_delay_seconds=5, retry_condition_fn=_may_pass)
def land_group(settings: CurateSettings, outcomes: list[ShardOutcome]) -> None:
    """Commits the outcomes of one group, and gives their leases back."""
    key = settings.kit().key
    for url in land(settings.warehouse, outcomes, key):
        get_run_logger().warning("%s: another run took it over and landed it; its rows stay", url)
    for outcome in outcomes:
        release(leases_folder(settings.warehouse), work_name(outcome.url, key), outcome.generation)


@task(cache_policy=NO_CACHE, task_run_name="report")
def report(settings: CurateSettings) -> str | None:
    """Writes the report folder; its page."""
    return write_report(settings.warehouse, settings.source, settings.storage_block, settings.kit())


@task(cache_policy=NO_CACHE, task_run_name="close run")
def close_run(settings: CurateSettings, run_id: str, failures: list[str]) -> None:
    """Writes how the run ended."""
    with connect(settings.warehouse) as connection:
        finish_run(connection, run_id, "failed" if failures else "completed", "; ".join(failures)[:2000] or None)
