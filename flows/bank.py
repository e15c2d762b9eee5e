"""The flows of banks: `build-bank`, `calibrate-bank` and `bank-health`."""

from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from mdmf_core.choices import Compression, Condition
from tasks.banks import steps
from tasks.banks.build import BuildSettings, BuiltBank, Calibrated
from tasks.banks.health import BankHealth
from tasks.banks.steps import CalibrateSettings


@flow(name="build-bank")
def build_bank(
    source: str,
    name: str,
    store: str = "banks",
    warehouse: str | None = "warehouse.duckdb",
    scorer: str = "default",
    points: Annotated[int, Field(ge=2)] = 1000,
    max_error: Annotated[float, Field(ge=0)] = 0.0,
    compression: Compression = "herding",
    max_images: Annotated[int, Field(ge=4)] = 2000,
    domains: str = "photo",
    match: tuple[Condition, ...] = (),
    expel: str | None = None,
    device: str = "auto",
    storage_block: str | None = None,
) -> BuiltBank:
    """Builds a bank on half of the images, calibrates it on the other half, and registers it as `name@version`.

    Args:
        source: a collection of images that are known to be real, of the kind that will be scored: same compression, sizes.
        name: of the bank; every other content under this name is a further version.
        store: folder or s3:// prefix; the bank lies in STORE/NAME-ID.
        warehouse: whose registry names the bank, and whose reviewers say which images are no real ones; None = neither.
        scorer: as for `curate`.
        points: that every slice is compressed to at most.
        max_error: stop at fewer points once MMD(patches, points) is this small; an error if the points do not suffice.
        compression: herding, nystrom (herded points with optimal weights) or thinning.
        max_images: images read at most.
        domains: one name for all; `folder`; `column:NAME` of the images' json; `cluster:N`.
        match: cut every domain further by quality, size, resized, and compare like with like.
        expel: text or CSV file; images whose sha256 starts a line of it are left out.
    """
    settings = BuildSettings(
        source=source, name=name, store=store, scorer=scorer, points=points, max_error=max_error, compression=compression,
        max_images=max_images, domains=domains, match=match, expel=expel, device=device, storage_block=storage_block,
    )  # fmt: skip
    built = steps.build_bank(settings, warehouse)
    get_run_logger().info(
        "bank %s at %s: %d images, %d points (coreset error %.4f), calibrated on %d images; %d excluded, %d expelled, "
        "%d reviewed as generated",
        built.title or name, built.directory, built.bank_images, built.points, built.coreset_error, built.calibration_images,
        built.excluded, built.expelled, built.reviewed,
    )  # fmt: skip
    return built


@flow(name="calibrate-bank")
def calibrate_bank(
    source: str,
    bank: str,
    warehouse: str = "warehouse.duckdb",
    scorer: str = "default",
    max_images: Annotated[int, Field(ge=2)] = 2000,
    domains: str = "photo",
    device: str = "auto",
    storage_block: str | None = None,
) -> Calibrated:
    """Adds a numbered calibration to a bank, made on real images that the bank does not hold.

    Args:
        source: images that are known to be real. Those that the bank holds, or that reviewers call generated, are skipped.
        bank: directory, or `name@3`, `name`, `@alias` in the registry.
        domains: as for `build-bank`; every domain of the bank must be there.
    """
    settings = CalibrateSettings(
        source=source, bank=bank, warehouse=warehouse, scorer=scorer, max_images=max_images, domains=domains, device=device,
        storage_block=storage_block,
    )  # fmt: skip
    result = steps.calibrate_bank(settings)
    get_run_logger().info("%s: calibration %d on %d images", result.title, result.version, result.images)
    return result


@flow(name="bank-health")
def bank_health(
    bank: str = "@production",
    warehouse: str = "warehouse.duckdb",
    calibration: str | None = None,
    scorer: str = "default",
    storage_block: str | None = None,
) -> BankHealth:
    """Checks a bank against itself and the corpus; writes a page and emits `mdmf.bank.alarm` or `mdmf.bank.healthy`.

    Args:
        bank: directory, or `name@3`, `name`, `@alias` in the registry.
    """
    found = steps.announced_health(bank, calibration, warehouse, scorer, storage_block)
    create_markdown_artifact(key="bank-health", description=bank, markdown=found.markdown())
    for alarm in found.alarms:
        get_run_logger().warning("%s: %s", found.bank, alarm)
    return found
