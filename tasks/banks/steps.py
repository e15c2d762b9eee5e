"""The steps of banks as Prefect tasks: build, calibrate, rescore, health."""

from typing import Annotated

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import BaseModel, Field

from tasks.banks.build import BuildSettings, BuiltBank, Calibrated, build, recalibrate
from tasks.banks.health import BankHealth, health
from tasks.scoring.loading import load_scorer, load_setup, resolve_bank
from tasks.scoring.progress import progress_log
from tasks.warehouse.warehouse import Warehouse


@task(cache_policy=NO_CACHE, task_run_name="build {settings.name}")
def build_bank(settings: BuildSettings, warehouse: str | None) -> BuiltBank:
    """Builds, calibrates and publishes one bank, and registers it where there is a warehouse."""
    scorer = load_scorer(settings.scorer, settings.device, settings.storage_block)
    return build(settings, scorer, progress_log(settings.source), None if warehouse is None else Warehouse.at(warehouse))


class CalibrateSettings(BaseModel):
    """The settings of a further calibration: which bank, which real images, which registry."""

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


@task(cache_policy=NO_CACHE, task_run_name="calibrate {settings.bank}")
def calibrate_bank(settings: CalibrateSettings) -> Calibrated:
    """Calibrates a bank on other real images, and registers the calibration."""
    url, _ = resolve_bank(settings.where, settings.scorer, settings.bank, None)
    setup = load_setup(settings.scorer, url, settings.device, 32, 0, settings.storage_block)
    return recalibrate(
        settings.source, setup, settings.max_images, settings.domains, settings.storage_block, progress_log(settings.source),
        settings.where,
    )  # fmt: skip


@task(cache_policy=NO_CACHE, task_run_name="health of {bank}")
def announced_health(bank: str, calibration: str | None, warehouse: str, scorer: str, storage_block: str | None) -> BankHealth:
    """Examines a bank and emits the event `mdmf.bank.healthy` or `mdmf.bank.alarm`, for automations."""
    report = health(bank, calibration, warehouse, scorer, storage_block)
    emit_event(
        event="mdmf.bank.alarm" if report.alarms else "mdmf.bank.healthy",
        resource={"prefect.resource.id": f"mdmf.bank.{report.bank_id[:32]}", "prefect.resource.name": report.bank},
        payload={"alarms": list(report.alarms), "outliers": len(report.outliers), "outside": report.outside},
    )
    return report
