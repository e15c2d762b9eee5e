"""The steps of the flows as Prefect tasks: paths, numbers and small records in and out."""

import os
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field

from tasks.extract import score_shard
from tasks.kit import ScoringKit
from tasks.landing import land
from tasks.parts import ShardOutcome, read_plan, write_plan
from tasks.report import write_report
from tasks.scorers import device_label, load_kit, resolve_bank
from tasks.shards import list_shards
from tasks.warehouse import RunRecord, connect, finish_run, migrate, parts_folder, start_run, still_to_do

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
    promoted: bool


@task(cache_policy=NO_CACHE, task_run_name="plan {settings.source}")
def plan(settings: CurateSettings, run_id: str) -> Plan:
    """Lists the source, opens the run in the warehouse and writes the plan of what is left to do."""
    kit = settings.kit()
    shards = list_shards(settings.source, settings.images_per_slice, settings.storage_block)
    run = RunRecord(
        run_id, "curate", settings.source, settings.model_dump(), version("mdmf"), socket.gethostname(),
        device_label(kit.scorer),
    )  # fmt: skip
    with connect(settings.warehouse) as connection:
        migrate(connection)
        promoted = start_run(connection, run, kit, settings.promote)
        waiting = still_to_do(connection, shards, kit.key)[: settings.max_shards]
    size = settings.shards_per_task
    groups = [waiting[start : start + size] for start in range(0, len(waiting), size)]
    path = os.path.join(parts_folder(settings.warehouse), "plans", f"{run_id}.parquet")
    write_plan(path, groups)
    get_run_logger().info(
        "%d shards at %s, %d to do in %d groups; %s on %s",
        len(shards), settings.source, len(waiting), len(groups), kit.scorer.name, run.device,
    )  # fmt: skip
    return Plan(path=path, groups=len(groups), shards=len(shards), to_do=len(waiting), promoted=promoted)


@task(cache_policy=NO_CACHE, task_run_name="score group {group}", retries=1, retry_delay_seconds=5)
def score_group(settings: CurateSettings, plan_path: str, group: int, run_id: str) -> list[ShardOutcome]:
    """Scores the shards of one group into parts."""
    logger, kit, folder = get_run_logger(), settings.kit(), parts_folder(settings.warehouse)
    started = time.monotonic()
    outcomes = [
        score_shard(shard, kit, folder, run_id, settings.storage_block, progress_log(os.path.basename(shard.url)))
        for shard in read_plan(plan_path, group)
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


@task(cache_policy=NO_CACHE, task_run_name="land", retries=2, retry_delay_seconds=5)
def land_group(settings: CurateSettings, outcomes: list[ShardOutcome]) -> None:
    """Commits the outcomes of one group in one transaction."""
    land(settings.warehouse, outcomes, settings.kit().key)


@task(cache_policy=NO_CACHE, task_run_name="report")
def report(settings: CurateSettings) -> str | None:
    """Writes the report folder; its page."""
    return write_report(settings.warehouse, settings.source, settings.storage_block, settings.kit())


@task(cache_policy=NO_CACHE, task_run_name="close run")
def close_run(settings: CurateSettings, run_id: str, failures: list[str]) -> None:
    """Writes how the run ended."""
    with connect(settings.warehouse) as connection:
        finish_run(connection, run_id, "failed" if failures else "completed", "; ".join(failures)[:2000] or None)
