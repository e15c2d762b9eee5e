"""Banks are built and calibrated from collections of real images, published, and entered in a warehouse's registry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field

from mdmf_core.banks.assembly import LEAST, assemble, calibrate, in_bank_half
from mdmf_core.banks.bank import Bank, bank_from_files
from mdmf_core.banks.calibration import CARD as CALIBRATION
from mdmf_core.banks.calibration import Calibration, calibration_from_file
from mdmf_core.choices import Compression, Condition
from mdmf_core.errors import ArtifactError, MdmfError, SourceError
from mdmf_core.scoring.scorer import Scorer
from tasks.banks.left_out import expelled, reviewed_generated
from tasks.banks.real_images import Progress, collect, spooled
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.storage.checked_reads import read_bytes
from tasks.storage.filesystems import absolute
from tasks.storage.publishing import publish, write_bytes
from tasks.warehouse.commits import commit
from tasks.warehouse.migrations import migrate
from tasks.warehouse.registry import BankEntry, find, register_bank, register_calibration, register_scorer
from tasks.warehouse.warehouse import Warehouse


class BuildSettings(BaseModel):
    """The settings of a build: which real images, which scorer, how many points, in which slices."""

    source: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    store: str
    scorer: str
    points: Annotated[int, Field(ge=2)]
    max_error: Annotated[float, Field(ge=0)]
    compression: Compression
    max_images: Annotated[int, Field(ge=4)]
    domains: str
    match: tuple[Condition, ...]
    expel: str | None
    device: str
    storage_block: str | None


@dataclass(frozen=True)
class BuiltBank:
    """What a build made, and what the registry calls it; small enough to return."""

    title: str | None  # name@version; None = no registry was given
    directory: str
    bank_id: str
    calibration_id: str
    calibration_url: str | None  # None = in the directory
    bank_images: int
    calibration_images: int
    slices: tuple[str, ...]
    points: int
    coreset_error: float
    smallest_budget: float
    excluded: int
    expelled: int
    reviewed: int  # left out because somebody calls them generated


def build(
    settings: BuildSettings, scorer: Scorer, progress: Progress = lambda done: None, registry: Warehouse | None = None
) -> BuiltBank:
    """Builds a bank on half of the real images of a collection, calibrates it on the other half, publishes both at once.

    The halves are dealt by the images' sha256, so that no image, and no copy of one, is in both. The directory is named by the
    bank's digest: building the same again finds it there.

    Args:
        registry: the warehouse that names the bank, and whose reviewers say which images are generated, so in neither half.

    Raises:
        MdmfError: too few usable images in a slice, an error bound that is not reached, or a source that cannot be read.
    """
    expel, generated = expelled(settings.expel, settings.storage_block), reviewed_generated(registry)
    with spooled() as append:
        images, excluded = collect(
            settings.source, scorer, settings.max_images, settings.domains, settings.storage_block, append, progress
        )
        real = [image for image in images if image.member.sha256 not in generated]
        usable = [image for image in real if image.member.sha256 not in expel]
        halves = [image for image in usable if in_bank_half(image)], [image for image in usable if not in_bank_half(image)]
        if min(len(half) for half in halves) < LEAST:
            raise MdmfError(
                f"{settings.source}: {len(usable)} usable images ({excluded} excluded) leave {len(halves[0])} for the bank "
                f"and {len(halves[1])} for calibration; at least {LEAST} of each are needed, "
                "and 1 / FPR of the latter to be useful"
            )
        try:
            bank = assemble(
                scorer, halves[0], settings.name, settings.points, settings.compression, settings.max_error, settings.match
            )
        except ValueError as error:
            raise ArtifactError(f"{settings.source}: {error}") from error
        calibration = calibrate(scorer, bank, halves[1])
    directory = f"{settings.store.rstrip('/')}/{settings.name}-{bank.bank_id[:12]}"
    calibration_url = _publish_once(directory, bank, calibration, settings.storage_block)
    title = None
    if registry is not None:
        title = _registered(registry, scorer, bank, absolute(directory), [(calibration, calibration_url)]).title
    return BuiltBank(
        title, directory, bank.bank_id, calibration.calibration_id, calibration_url, len(bank.members), calibration.images,
        tuple(part.domain for part in bank.slices), bank.points, bank.coreset_error, calibration.smallest_budget, excluded,
        len(real) - len(usable), len(images) - len(real),
    )  # fmt: skip


def _publish_once(directory: str, bank: Bank, calibration: Calibration, storage_block: str | None) -> str | None:
    """Publishes a bank unless it is there, and says where its calibration lies, if not in the bank's directory."""
    if not _is_published(directory, storage_block):
        try:
            publish(directory, {CALIBRATION: calibration.file()} | bank.files(), storage_block, named_by_content=True)
        except SourceError:
            if not _is_published(directory, storage_block):  # another build of the same bank may have been faster
                raise
    there = calibration_from_file(read_bytes(f"{directory}/{CALIBRATION}", storage_block))
    # The same bank with other calibration images, as when one of those is expelled.
    if there.calibration_id != calibration.calibration_id:
        return _publish_calibration(directory, calibration, storage_block)
    return None


def _is_published(directory: str, storage_block: str | None) -> bool:
    try:
        bank_from_files(lambda name: read_bytes(f"{directory}/{name}", storage_block))
    except SourceError:
        return False
    return True


def _publish_calibration(bank_url: str, calibration: Calibration, storage_block: str | None) -> str:
    url = f"{bank_url.rstrip('/')}.calibrations/{calibration.calibration_id[:12]}.json"
    write_bytes(url, calibration.file(), storage_block)
    return absolute(url)


def _registered(
    registry: Warehouse, scorer: Scorer, bank: Bank, url: str, calibrations: Sequence[tuple[Calibration, str | None]]
) -> BankEntry:
    """The registry's entry of a bank, once the bank is in it with its scorer and its calibrations, each with its own URL."""
    with registry.connect() as connection:
        migrate(connection)

        def enter() -> BankEntry:
            register_scorer(connection, scorer)
            register_bank(connection, bank, url)
            for calibration, calibration_url in calibrations:
                register_calibration(connection, calibration, calibration_url)
            return find(connection, bank.bank_id[:32])

        return commit(connection, enter)


@dataclass(frozen=True)
class Calibrated:
    """A further calibration of a bank, and its number in the registry."""

    title: str  # of the bank
    version: int
    url: str
    bank_id: str
    calibration_id: str
    images: int
    smallest_budget: float
    by_slice: dict[str, int]
    skipped: int  # images that the bank itself holds
    reviewed: int  # left out because somebody calls them generated


def recalibrate(
    source: str,
    setup: ScoringSetup,
    max_images: int,
    domains: str,
    storage_block: str | None,
    progress: Progress,
    registry: Warehouse,
) -> Calibrated:
    """Calibrates a bank on another collection of real images, into ``BANK.calibrations/ID.json``.

    Args:
        setup: with the bank and the scorer that it was built for.
        registry: the warehouse that numbers the calibration, and whose reviewers say which images are generated.

    Raises:
        MdmfError: too few images in a slice, or a source that cannot be read.
    """
    scorer, bank = setup.scorer, setup.bank
    generated, held = reviewed_generated(registry), {member.sha256 for member in bank.members}
    with spooled() as append:
        images, _ = collect(source, scorer, max_images, domains, storage_block, append, progress)
        real = [image for image in images if image.member.sha256 not in generated]
        fresh = [image for image in real if image.member.sha256 not in held]
        calibration = calibrate(scorer, bank, fresh)
    url = _publish_calibration(setup.bank_url, calibration, storage_block)
    entry = _registered(registry, scorer, bank, setup.bank_url, [(setup.calibration, None), (calibration, url)])
    by_slice = {part.domain: len(part.scores) for part in calibration.slices}
    return Calibrated(
        entry.title, entry.calibration_version, url, bank.bank_id, calibration.calibration_id, calibration.images,
        calibration.smallest_budget, by_slice, len(real) - len(fresh), len(images) - len(real),
    )  # fmt: skip
