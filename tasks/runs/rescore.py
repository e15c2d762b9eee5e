"""`mdmf rescore`: every kept signature scored again with another bank, under leases."""

import os
import time
from dataclasses import replace

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks.parts.leases import HeldElsewhere, acquire, release
from tasks.parts.outcome import work_name
from tasks.runs.records import finish_run, record_of, start_run
from tasks.scoring.loading import device_label, load_setup, resolve_bank
from tasks.scoring.rescore import plan_rescore, rescore_shard
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse


class RescoreSettings(BaseModel):
    """The settings of a rescore run: which signatures are scored with which bank."""

    warehouse: str
    bank: str
    calibration: str | None
    scorer: str
    promote: bool
    device: str
    storage_block: str | None

    @property
    def where(self) -> Warehouse:
        return Warehouse.at(self.warehouse)

    def setup(self) -> ScoringSetup:
        bank, calibration = resolve_bank(self.where, self.scorer, self.bank, self.calibration)
        return load_setup(self.scorer, bank, self.device, 256, 0, self.storage_block, calibration)


class Rescored(BaseModel):
    """The result of a rescore run, in counts."""

    shards: int
    images: int
    seconds: float
    already_complete: int
    without_signatures: int
    promoted: bool


@task(cache_policy=NO_CACHE, task_run_name="rescore with {settings.bank}")
def rescore(settings: RescoreSettings, run_id: str, owner: str) -> Rescored:
    """Scores every shard with kept signatures under the bank, landing each as it is done."""
    logger, setup, folder = get_run_logger(), settings.setup(), settings.where.parts
    plan = plan_rescore(settings.where, folder, setup)
    run = record_of("rescore", settings, settings.warehouse, run_id, device_label(setup.scorer))
    with settings.where.connect() as connection:
        migrate(connection)
        promoted = start_run(connection, run, setup, settings.promote)
    started, shards, images, failure = time.monotonic(), 0, 0, None
    leases = settings.where.leases
    try:
        for number, (work, old) in enumerate(plan.shards, start=1):
            url = work.shard.url
            lease = acquire(leases, work_name(url, setup.key), owner, work.generation)
            if isinstance(lease, HeldElsewhere):
                logger.warning("%s: run %s is at it under this bank; left to it", url, lease.run_id)
                continue
            outcome = replace(rescore_shard(work.shard, old, setup, folder, run_id), generation=lease.generation)
            for overtaken in land(settings.where, [outcome], setup.key):
                logger.warning("%s: another run took it over and landed it; its rows stay", overtaken)
            release(leases, lease.shard, lease.generation)
            shards, images = shards + 1, images + outcome.scored
            logger.info("%d of %d: %s, %d images", number, len(plan.shards), os.path.basename(url), outcome.scored)
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        with settings.where.connect() as connection:
            finish_run(connection, run_id, "failed" if failure else "completed", failure)
    return Rescored(
        shards=shards, images=images, seconds=time.monotonic() - started, already_complete=plan.complete,
        without_signatures=plan.without_signatures, promoted=promoted,
    )  # fmt: skip
