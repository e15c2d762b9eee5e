"""The steps of banks as Prefect tasks: build, calibrate, rescore, health."""

import os
import socket
import time
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import BaseModel, Field

from mdmf_core.scoring import Scorer
from tasks.bank_assembly import BuildSettings
from tasks.banks import BuiltBank, Calibrated, build, recalibrate
from tasks.health import BankHealth, examine
from tasks.kit import ScoringKit
from tasks.landing import land
from tasks.leases import Elsewhere, acquire, release
from tasks.parts import work_name
from tasks.registry import BankEntry, find, register_bank, register_calibration, register_scorer
from tasks.rescore import plan_rescore, rescore_shard
from tasks.reviews import reviewed_generated
from tasks.runs import RunRecord, finish_run, start_run
from tasks.scorers import device_label, load_bank, load_kit, load_scorer, resolve_bank
from tasks.steps import progress_log
from tasks.warehouse import commit, connect, leases_folder, migrate, parts_folder, warehouse_exists


class NamedBank(BaseModel):
    """What was built, and what the registry calls it."""

    built: BuiltBank
    title: str | None  # name@version; None = no registry was given


@task(cache_policy=NO_CACHE, task_run_name="build {settings.name}")
def build_bank(settings: BuildSettings, warehouse: str | None) -> NamedBank:
    """Builds, calibrates and publishes one bank, and registers it."""
    scorer = load_scorer(settings.scorer, settings.device, settings.storage_block)
    built = build(settings, scorer, progress_log(settings.source), reviewed_generated(warehouse))
    title = None if warehouse is None else registered(built, scorer, warehouse, settings.storage_block)
    return NamedBank(built=built, title=title)


def registered(built: BuiltBank, scorer: Scorer, warehouse: str, storage_block: str | None) -> str:
    """Enters a built bank in the registry; its name@version."""
    url = built.directory if "://" in built.directory else os.path.abspath(built.directory)
    bank, calibration = load_bank(url, built.calibration_url, storage_block)
    with connect(warehouse) as connection:
        migrate(connection)

        def enter() -> str:
            register_scorer(connection, scorer)
            register_bank(connection, bank, url)
            register_calibration(connection, calibration, built.calibration_url)
            return find(connection, bank.bank_id[:32]).title

        return commit(connection, enter)


class CalibrateSettings(BaseModel):
    """How a bank is calibrated again."""

    source: str
    bank: str
    warehouse: str
    scorer: str
    max_images: Annotated[int, Field(ge=2)]
    domains: str
    device: str
    storage_block: str | None


class NamedCalibration(BaseModel):
    """A further calibration, and its number in the registry."""

    calibrated: Calibrated
    title: str
    version: int


@task(cache_policy=NO_CACHE, task_run_name="calibrate {settings.bank}")
def calibrate_bank(settings: CalibrateSettings) -> NamedCalibration:
    """Calibrates a bank on other real images, and registers the calibration."""
    url, _ = resolve_bank(settings.warehouse, settings.scorer, settings.bank, None)
    kit = load_kit(settings.scorer, url, settings.device, 32, 0, settings.storage_block)
    found = recalibrate(
        settings.source, kit.scorer, kit.bank, kit.bank_url, settings.max_images, settings.domains, settings.storage_block,
        progress_log(settings.source), reviewed_generated(settings.warehouse),
    )  # fmt: skip
    _, calibration = load_bank(url, found.url, settings.storage_block)
    with connect(settings.warehouse) as connection:
        migrate(connection)

        def enter() -> BankEntry:
            register_scorer(connection, kit.scorer)
            register_bank(connection, kit.bank, kit.bank_url)
            register_calibration(connection, kit.calibration, None)
            register_calibration(connection, calibration, found.url)
            return find(connection, kit.bank.bank_id[:32])

        entry = commit(connection, enter)
    return NamedCalibration(calibrated=found, title=entry.title, version=entry.calibration_version)


class RescoreSettings(BaseModel):
    """What is scored again."""

    warehouse: str
    bank: str
    calibration: str | None
    scorer: str
    promote: bool
    device: str
    storage_block: str | None

    def kit(self) -> ScoringKit:
        bank, calibration = resolve_bank(self.warehouse, self.scorer, self.bank, self.calibration)
        return load_kit(self.scorer, bank, self.device, 256, 0, self.storage_block, calibration)


class Rescored(BaseModel):
    """What a rescore run did."""

    shards: int
    images: int
    seconds: float
    already_complete: int
    without_signatures: int
    promoted: bool


@task(cache_policy=NO_CACHE, task_run_name="rescore with {settings.bank}")
def rescore(settings: RescoreSettings, run_id: str, owner: str) -> Rescored:
    """Scores every shard with kept signatures under the bank, landing each as it is done."""
    logger, kit, folder = get_run_logger(), settings.kit(), parts_folder(settings.warehouse)
    plan = plan_rescore(settings.warehouse, folder, kit)
    run = RunRecord(
        run_id,
        "rescore",
        settings.warehouse,
        settings.model_dump(),
        version("mdmf"),
        socket.gethostname(),
        device_label(kit.scorer),
    )
    with connect(settings.warehouse) as connection:
        migrate(connection)
        promoted = start_run(connection, run, kit, settings.promote)
    started, shards, images, failure = time.monotonic(), 0, 0, None
    leases = leases_folder(settings.warehouse)
    try:
        for number, (work, old) in enumerate(plan.shards, start=1):
            url = work.shard.url
            lease = acquire(leases, work_name(url, kit.key), owner, work.generation)
            if isinstance(lease, Elsewhere):
                logger.warning("%s: run %s is at it under this bank; left to it", url, lease.run_id)
                continue
            outcome = replace(rescore_shard(work.shard, old, kit, folder, run_id), generation=lease.generation)
            for overtaken in land(settings.warehouse, [outcome], kit.key):
                logger.warning("%s: another run took it over and landed it; its rows stay", overtaken)
            release(leases, lease.shard, lease.generation)
            shards, images = shards + 1, images + outcome.scored
            logger.info("%d of %d: %s, %d images", number, len(plan.shards), os.path.basename(url), outcome.scored)
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        with connect(settings.warehouse) as connection:
            finish_run(connection, run_id, "failed" if failure else "completed", failure)
    return Rescored(
        shards=shards, images=images, seconds=time.monotonic() - started, already_complete=plan.complete,
        without_signatures=plan.without_signatures, promoted=promoted,
    )  # fmt: skip


@task(cache_policy=NO_CACHE, task_run_name="health of {bank}")
def health(bank: str, calibration: str | None, warehouse: str, scorer: str, storage_block: str | None) -> BankHealth:
    """Examines a bank against itself, its calibration and the corpus; emits `mdmf.bank.healthy` or `mdmf.bank.alarm`."""
    url, calibration_url = resolve_bank(warehouse, scorer, bank, calibration)
    loaded, calibrated = load_bank(url, calibration_url, storage_block)
    found = examine(loaded, calibrated, warehouse if warehouse_exists(warehouse) else None)
    emit_event(
        event="mdmf.bank.alarm" if found.alarms else "mdmf.bank.healthy",
        resource={"prefect.resource.id": f"mdmf.bank.{found.bank_id[:32]}", "prefect.resource.name": found.bank},
        payload={"alarms": list(found.alarms), "outliers": len(found.outliers), "outside": found.outside},
    )
    return found
