"""Building a bank and its calibration from a collection of real images."""

import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float

from mdmf_core.banks import Bank, BankMember, build_bank
from mdmf_core.calibration import CARD as CALIBRATION
from mdmf_core.calibration import Calibration, Support, require_disjoint
from mdmf_core.errors import ArtifactError, MdmfError, ShardCorrupt, ShardUnfinished
from mdmf_core.scoring import Scorer
from tasks.extract import LIMITS, Prepared, in_order, prepare
from tasks.shards import list_shards, open_shard
from tasks.storage import open_storage, storage_errors

_PATCHES = 64  # kept of each image, on an even stride; neighbours in an image say nearly the same


@dataclass(frozen=True)
class BuiltBank:
    """What a build made, small enough to return."""

    directory: str
    bank_id: str
    calibration_id: str
    bank_images: int
    calibration_images: int
    points: int
    coreset_error: float
    excluded: int


@dataclass(frozen=True)
class CalibrationImage:
    """What is kept of a held-out image until the bank is there to score it: no pixels."""

    sha256: str
    width: int
    height: int
    jpeg_quality: int | None
    signatures: Float[torch.Tensor, "patches d"]

    @classmethod
    def of(cls, item: Prepared, signatures: Float[torch.Tensor, "patches d"]) -> "CalibrationImage":
        image = item.image
        if image is None:
            raise ValueError(f"{item.member.key} was not decoded")
        return cls(item.sha256, image.width, image.height, image.jpeg_quality, signatures)


def build(
    source: str,
    scorer: Scorer,
    directory: str,
    points: int,
    max_images: int,
    domain: str,
    storage_block: str | None,
) -> BuiltBank:
    """Builds a bank on half of the real images of ``source`` and calibrates it on the other half; publishes both at once.

    The halves are dealt by the images' sha256, so that no image, and no copy of one, is in both.

    Raises:
        MdmfError: fewer than 4 usable images, a directory that exists, or a source that cannot be read.
    """
    require_new(directory, storage_block)
    bank_half: list[tuple[BankMember, torch.Tensor]] = []
    calibration_half: list[CalibrationImage] = []
    seen: set[str] = set()
    excluded = 0
    for item in _images(source, scorer, max_images, storage_block):
        if item.crops is None:
            excluded += 1
        elif item.sha256 not in seen:
            seen.add(item.sha256)
            signatures = scorer.signatures(item.crops)
            if int(item.sha256[-1], 16) % 2:
                calibration_half.append(CalibrationImage.of(item, signatures.cpu()))
            else:
                member = BankMember(source, item.member.key, item.sha256, domain)
                bank_half.append((member, signatures[:: -(-len(signatures) // _PATCHES)].cpu()))
    if min(len(bank_half), len(calibration_half)) < 2:
        raise MdmfError(
            f"{source}: {len(seen)} usable images ({excluded} excluded) leave {len(bank_half)} for the bank and "
            f"{len(calibration_half)} for calibration; at least 2 of each are needed, and 1 / FPR of the latter to be useful"
        )
    bank = build_bank(
        os.path.basename(directory.rstrip("/")),
        scorer.scorer_id,
        torch.cat([part for _, part in bank_half]),
        [member for member, _ in bank_half],
        points,
        scorer.sigma,
    )
    calibration = calibrate(scorer, bank, calibration_half, domain)
    publish(directory, {CALIBRATION: calibration.file()} | bank.files(), storage_block)
    return BuiltBank(
        directory, bank.bank_id, calibration.calibration_id, len(bank.members), len(calibration.scores), len(bank.points),
        bank.coreset_error, excluded,
    )  # fmt: skip


def calibrate(scorer: Scorer, bank: Bank, images: list[CalibrationImage], domain: str) -> Calibration:
    """Scores held-out real images and keeps the scores.

    Raises:
        ArtifactError: one of them is in the bank.
    """
    require_disjoint(bank, tuple(image.sha256 for image in images))
    scores = [
        float(scorer.statistic.score(scorer.terms(image.signatures, [len(image.signatures)], bank))[0]) for image in images
    ]
    qualities = [image.jpeg_quality for image in images if image.jpeg_quality is not None]
    support = Support(
        side_min=min(min(image.width, image.height) for image in images),
        side_max=max(max(image.width, image.height) for image in images),
        quality_min=min(qualities, default=1),
        lossless=len(qualities) < len(images),
    )
    sha256s = tuple(sorted(image.sha256 for image in images))
    return Calibration(scorer.scorer_id, bank.bank_id, domain, tuple(sorted(scores)), support, sha256s)


def _images(source: str, scorer: Scorer, most: int, storage_block: str | None) -> Iterator[Prepared]:
    """Up to ``most`` prepared members of a collection; shards that cannot be read are an error, not a gap."""
    count = 0
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1)) as pool:
        for shard in list_shards(source, 1000, storage_block):
            try:
                with storage_errors(shard.url), open_shard(shard, LIMITS.max_bytes, storage_block) as reader:
                    for item in in_order(pool, lambda member: prepare(member, scorer.crops), reader, window=64):
                        if count == most:
                            return
                        yield item
                        count += item.crops is not None
            except (ShardUnfinished, ShardCorrupt) as error:
                raise MdmfError(f"{shard.url}: {error}") from error


def require_new(directory: str, storage_block: str | None) -> None:
    """Raises ArtifactError when the directory is there already."""
    filesystem, path = open_storage(directory, storage_block)
    with storage_errors(directory):
        if filesystem.exists(path):
            raise ArtifactError(f"{directory} exists; what is published does not change: choose another name")


def publish(directory: str, contents: dict[str, bytes], storage_block: str | None) -> None:
    """Writes a directory so that readers see all of it or none: renamed locally, its card last on an object store."""
    require_new(directory, storage_block)
    filesystem, path = open_storage(directory, storage_block)
    with storage_errors(directory):
        if "://" in directory:
            for name, data in contents.items():  # the card comes last; without it this is no bank
                filesystem.pipe_file(f"{path}/{name}", data)
            return
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        os.makedirs(temporary)
        try:
            for name, data in contents.items():
                os.makedirs(os.path.dirname(os.path.join(temporary, name)), exist_ok=True)
                with open(os.path.join(temporary, name), "wb") as file:
                    file.write(data)
                    os.fsync(file.fileno())
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
