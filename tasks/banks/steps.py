"""The steps of banks as Prefect tasks: build, calibrate, rescore, health."""

from typing import Annotated

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import BaseModel, Field

from mdmf_core.scoring.scorer import Scorer
from tasks.banks.build import BuildSettings, BuiltBank, Calibrated, build, recalibrate
from tasks.banks.health import BankHealth, health
from tasks.banks.left_out import reviewed_generated
from tasks.scoring.loading import load_bank, load_scorer, load_setup, resolve_bank
from tasks.scoring.progress import progress_log
from tasks.storage.filesystems import absolute
from tasks.warehouse.commits import commit
from tasks.warehouse.migrations import migrate
from tasks.warehouse.registry import BankEntry, find, register_bank, register_calibration, register_scorer
from tasks.warehouse.warehouse import Warehouse


class NamedBank(BaseModel):
    """What was built, and what the registry calls it."""

    built: BuiltBank
    title: str | None  # name@version; None = no registry was given


@task(cache_policy=NO_CACHE, task_run_name="build {settings.name}")
def build_bank(settings: BuildSettings, warehouse: str | None) -> NamedBank:
    """Builds, calibrates and publishes one bank, and registers it."""
    scorer = load_scorer(settings.scorer, settings.device, settings.storage_block)
    registry = None if warehouse is None else Warehouse.at(warehouse)
    built = build(settings, scorer, progress_log(settings.source), reviewed_generated(registry))
    title = None if registry is None else registered(built, scorer, registry, settings.storage_block)
    return NamedBank(built=built, title=title)


def registered(built: BuiltBank, scorer: Scorer, warehouse: Warehouse, storage_block: str | None) -> str:
    """Enters a built bank in the registry; its name@version."""
    url = absolute(built.directory)
    bank, calibration = load_bank(url, built.calibration_url, storage_block)
    with warehouse.connect() as connection:
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

    @property
    def where(self) -> Warehouse:
        return Warehouse.at(self.warehouse)


class NamedCalibration(BaseModel):
    """A further calibration, and its number in the registry."""

    calibrated: Calibrated
    title: str
    version: int


@task(cache_policy=NO_CACHE, task_run_name="calibrate {settings.bank}")
def calibrate_bank(settings: CalibrateSettings) -> NamedCalibration:
    """Calibrates a bank on other real images, and registers the calibration."""
    url, _ = resolve_bank(settings.where, settings.scorer, settings.bank, None)
    setup = load_setup(settings.scorer, url, settings.device, 32, 0, settings.storage_block)
    found = recalibrate(
        settings.source, setup.scorer, setup.bank, setup.bank_url, settings.max_images, settings.domains,
        settings.storage_block,
        progress_log(settings.source), reviewed_generated(settings.where),
    )  # fmt: skip
    _, calibration = load_bank(url, found.url, settings.storage_block)
    with settings.where.connect() as connection:
        migrate(connection)

        def enter() -> BankEntry:
            register_scorer(connection, setup.scorer)
            register_bank(connection, setup.bank, setup.bank_url)
            register_calibration(connection, setup.calibration, None)
            register_calibration(connection, calibration, found.url)
            return find(connection, setup.bank.bank_id[:32])

        entry = commit(connection, enter)
    return NamedCalibration(calibrated=found, title=entry.title, version=entry.calibration_version)


@task(cache_policy=NO_CACHE, task_run_name="health of {bank}")
def announced_health(bank: str, calibration: str | None, warehouse: str, scorer: str, storage_block: str | None) -> BankHealth:
    """Examines a bank and emits the event `mdmf.bank.healthy` or `mdmf.bank.alarm`, for automations."""
    found = health(bank, calibration, warehouse, scorer, storage_block)
    emit_event(
        event="mdmf.bank.alarm" if found.alarms else "mdmf.bank.healthy",
        resource={"prefect.resource.id": f"mdmf.bank.{found.bank_id[:32]}", "prefect.resource.name": found.bank},
        payload={"alarms": list(found.alarms), "outliers": len(found.outliers), "outside": found.outside},
    )
    return found
