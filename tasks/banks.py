"""Building and calibrating banks from collections of real images."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, Field

from mdmf_core.banks import Bank, BankMember, Slice, bank_from_files, domain_of, require_finite, require_slices
from mdmf_core.calibration import CARD as CALIBRATION
from mdmf_core.calibration import Calibration, CalibrationSlice, calibration_from_file, require_disjoint
from mdmf_core.coreset import BLOCK_POINTS, Method, compress
from mdmf_core.domains import Condition, Router, Support, cluster, slice_name
from mdmf_core.errors import ArtifactError, MdmfError, ShardCorrupt, ShardUnfinished, SourceError
from mdmf_core.health import RANK, FeatureMap
from mdmf_core.kernels import median_heuristic
from mdmf_core.records import ImageShape, Member
from mdmf_core.scoring import Scorer
from tasks.extract import LIMITS, Prepared, batches, in_order, prepare, shape_of
from tasks.publish import write_directory
from tasks.shards import list_shards, open_shard
from tasks.storage import open_storage, read_bytes, storage_errors

_PATCHES = 64  # kept of each bank image, on an even stride; neighbours in an image say nearly the same
_MEDIAN_PATCHES = 2000  # that the bandwidth is taken from, where the scorer has none of its own
Progress = Callable[[int], None]  # is told the usable images so far
_LEAST = 2  # images a slice, for the bank and for its calibration
_LEAST_OF_SEVERAL = (
    20  # calibration images a slice, where there are several: the largest p-value counts, so a tiny one excuses all
)


class BuildSettings(BaseModel):
    """How a bank is built."""

    source: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    store: str
    scorer: str
    points: Annotated[int, Field(ge=2)]
    max_error: Annotated[float, Field(ge=0)]
    compression: Method
    max_images: Annotated[int, Field(ge=4)]
    domains: str
    match: tuple[Condition, ...]
    expel: str | None
    device: str
    storage_block: str | None


@dataclass(frozen=True)
class BuiltBank:
    """What a build made, small enough to return."""

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


@dataclass(frozen=True)
class RealImage:
    """One usable image of a collection; its signatures wait on disk."""

    member: BankMember
    shape: ImageShape
    embedding: Float[np.ndarray, " e"]
    signatures: Callable[[], Float[torch.Tensor, "patches d"]]


def build(settings: BuildSettings, scorer: Scorer, progress: Progress = lambda done: None) -> BuiltBank:
    """Builds a bank on half of the real images of a collection, calibrates it on the other half, publishes both at once.

    The halves are dealt by the images' sha256, so that no image, and no copy of one, is in both. The directory is named by the
    bank's digest: building the same again finds it there.

    Raises:
        MdmfError: too few usable images in a slice, an error bound that is not reached, or a source that cannot be read.
    """
    expel = _expelled(settings.expel, settings.storage_block)
    with spooled() as append:
        images, excluded = collect(
            settings.source, scorer, settings.max_images, settings.domains, settings.storage_block, append, progress
        )
        usable = [image for image in images if image.member.sha256 not in expel]
        halves = [image for image in usable if in_bank_half(image)], [image for image in usable if not in_bank_half(image)]
        if min(len(half) for half in halves) < _LEAST:
            raise MdmfError(
                f"{settings.source}: {len(usable)} usable images ({excluded} excluded) leave {len(halves[0])} for the bank "
                f"and {len(halves[1])} for calibration; at least {_LEAST} of each are needed, "
                "and 1 / FPR of the latter to be useful"
            )
        try:
            bank = assemble(settings, scorer, halves[0])
        except ValueError as error:
            raise ArtifactError(f"{settings.source}: {error}") from error
        calibration = calibrate(scorer, bank, halves[1])
    directory = f"{settings.store.rstrip('/')}/{settings.name}-{bank.bank_id[:12]}"
    calibration_url = _publish_once(directory, bank, calibration, settings.storage_block)
    return BuiltBank(
        directory, bank.bank_id, calibration.calibration_id, calibration_url, len(bank.members), calibration.images,
        tuple(part.domain for part in bank.slices), bank.points, bank.coreset_error, calibration.smallest_budget, excluded,
        len(images) - len(usable),
    )  # fmt: skip


def in_bank_half(image: RealImage) -> bool:
    """Whether an image goes to the bank rather than to its calibration."""
    return int(image.member.sha256[-1], 16) % 2 == 0


def _publish_once(directory: str, bank: Bank, calibration: Calibration, storage_block: str | None) -> str | None:
    """Publishes a bank unless it is there; where the calibration lies, if not in the bank's directory."""
    if not _is_published(directory, storage_block):
        try:
            write_directory(directory, {CALIBRATION: calibration.file()} | bank.files(), storage_block)
        except OSError:
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
    filesystem, path = open_storage(url, storage_block)
    with storage_errors(url):
        filesystem.makedirs(os.path.dirname(path), exist_ok=True)
        filesystem.pipe_file(f"{path}.tmp", calibration.file())
        filesystem.mv(f"{path}.tmp", path)
    return url if "://" in url else os.path.abspath(url)


def _expelled(path: str | None, storage_block: str | None) -> set[str]:
    """sha256 values of a text or CSV file: the first field of every line that is one."""
    if path is None:
        return set()
    fields = [line.split(",")[0].strip().strip('"').lower() for line in read_bytes(path, storage_block).decode().splitlines()]
    found = {field for field in fields if len(field) == 64}
    if not found:
        raise ArtifactError(f"{path}: no line starts with a sha256")
    return found


@contextmanager
def spooled() -> Iterator[Callable[[torch.Tensor], Callable[[], torch.Tensor]]]:
    """A function that puts a tensor on disk and gives one that reads it back; the file is gone after the block."""
    with tempfile.TemporaryFile() as file:

        def append(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
            array = tensor.cpu().numpy()
            offset = file.seek(0, os.SEEK_END)
            file.write(np.ascontiguousarray(array).tobytes())

            def read() -> torch.Tensor:
                file.seek(offset)
                return torch.from_numpy(np.frombuffer(file.read(array_bytes), dtype=dtype).reshape(shape).copy())

            array_bytes, dtype, shape = array.nbytes, array.dtype, array.shape
            return read

        yield append


def collect(
    source: str,
    scorer: Scorer,
    most: int,
    domains: str,
    storage_block: str | None,
    append: Callable[[torch.Tensor], Callable[[], torch.Tensor]],
    progress: Progress = lambda done: None,
) -> tuple[list[RealImage], int]:
    """The distinct usable images of a collection through the backbone once, and how many were excluded.

    Args:
        domains: a name for all; ``folder``: the first folder of the key; ``column:NAME``: a field of the sidecar;
            ``cluster:N``: k-means on the embeddings.

    Raises:
        MdmfError: an image without the asked column or folder; a shard that cannot be read.
    """
    images: list[RealImage] = []
    seen: set[str] = set()
    excluded = 0
    for batch in batches(_images(source, scorer, most, storage_block), 32):
        fresh = []
        for item in batch:
            excluded += item.crops is None
            if item.crops is not None and item.sha256 not in seen:
                seen.add(item.sha256)
                fresh.append(item)
        if not fresh:
            continue
        found = scorer.extract([item.crops for item in fresh if item.crops is not None])
        vectors = torch.split(found.vectors, found.counts)
        for item, part, embedding in zip(fresh, vectors, found.embeddings.cpu().numpy(), strict=True):
            require_finite(part, item.member.key)
            images.append(_real_image(item, source, domains, embedding, append(part)))
        progress(len(images))
    if domains.startswith("cluster:"):
        names = cluster(np.stack([image.embedding for image in images]), int(domains.removeprefix("cluster:")))
        images = [replace(image, member=replace(image.member, domain=name)) for image, name in zip(images, names, strict=True)]
    return images, excluded


def _real_image(
    item: Prepared,
    source: str,
    domains: str,
    embedding: Float[np.ndarray, " e"],
    signatures: Callable[[], torch.Tensor],
) -> RealImage:
    image = item.image
    if image is None:
        raise ValueError(f"{item.member.key} was not decoded")
    sidecar = _fields(item.member)
    licence = sidecar.get("license", sidecar.get("licence"))
    domain = _domain(item.member, sidecar, domains).replace(", ", " ")  # a comma parts the domain from its conditions
    member = BankMember(
        source, item.member.key, item.sha256, domain, None if licence is None else str(licence),
        image.format, image.width, image.height, image.jpeg_quality,
    )  # fmt: skip
    return RealImage(member, shape_of(item.member, image), embedding, signatures)


def _fields(member: Member) -> dict[str, Any]:
    try:
        found = json.loads(member.sidecar) if member.sidecar else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _domain(member: Member, sidecar: dict[str, Any], domains: str) -> str:
    if domains.startswith("cluster:"):
        return ""  # known when all images are
    if domains == "folder":
        folder, slash, _ = member.key.partition("/")
        if not slash:
            raise MdmfError(f"{member.key!r} lies in no folder; domains by folder need KIND/IMAGE below the source")
        return folder
    if domains.startswith("column:"):
        name = domains.removeprefix("column:")
        if sidecar.get(name) in (None, ""):
            raise MdmfError(f"{member.key!r} has no field {name!r} in its json; fields there: {', '.join(sidecar) or 'none'}")
        return str(sidecar[name])
    return domains


def assemble(settings: BuildSettings, scorer: Scorer, images: Sequence[RealImage]) -> Bank:
    """The bank of these images, every slice compressed on its own, and every member's score against it."""
    ordered = sorted(images, key=lambda image: image.member.sha256)
    sigma = _bandwidth(ordered) if scorer.sigma is None else scorer.sigma
    by_slice: dict[str, list[RealImage]] = {}
    for image in ordered:
        by_slice.setdefault(slice_name(image.member.domain, image.shape, settings.match), []).append(image)
    require_slices({name: len(found) for name, found in by_slice.items()}, _LEAST, "bank")
    slices = tuple(
        Slice.of(
            name, compress(_blocks(found), settings.points, sigma, settings.compression, settings.max_error), len(found), sigma
        )
        for name, found in sorted(by_slice.items())
    )
    domains = [image.member.domain for image in ordered]
    router = Router.fit(np.stack([image.embedding for image in ordered]), domains) if len(set(domains)) > 1 else None
    return with_members(Bank(settings.name, scorer.scorer_id, slices, sigma, (), settings.match, router), scorer, ordered)


def with_members(bank: Bank, scorer: Scorer, images: Sequence[RealImage]) -> Bank:
    """The bank with its manifest: every member's slice, score and features."""
    slices = {part.domain: part for part in bank.slices}
    maps = {name: FeatureMap.of(part.points, part.sigma) for name, part in slices.items()}
    members, features = [], []
    for image in sorted(images, key=lambda image: image.member.sha256):
        name = slice_name(image.member.domain, image.shape, bank.match)
        signatures = image.signatures()
        members.append(replace(image.member, domain=name, score=own_score(scorer, slices[name], signatures)))
        features.append(_padded(maps[name].images(signatures, [len(signatures)])[0]))
    return replace(bank, members=tuple(members), features=torch.stack(features))


def _padded(features: Float[torch.Tensor, " r"]) -> Float[torch.Tensor, " rank"]:
    """Slices of few points have fewer features; zeros change no distance."""
    return torch.nn.functional.pad(features, (0, RANK - len(features)))


def _bandwidth(images: Sequence[RealImage]) -> float:
    some = images[:: max(1, len(images) // 200)]
    return median_heuristic(
        torch.cat([image.signatures()[:: max(1, len(some) * _PATCHES // _MEDIAN_PATCHES)] for image in some])
    )


def _blocks(images: Sequence[RealImage]) -> Iterator[Float[torch.Tensor, "n d"]]:
    held: list[torch.Tensor] = []
    for image in images:
        signatures = image.signatures()
        held.append(signatures[:: -(-len(signatures) // _PATCHES)].clone())
        if sum(len(part) for part in held) > BLOCK_POINTS - _PATCHES:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)


def own_score(scorer: Scorer, part: Slice, signatures: Float[torch.Tensor, "patches d"]) -> float:
    """The score of one image against one slice."""
    (terms,) = scorer.terms(signatures, [len(signatures)], (part,))
    return float(scorer.statistic.score(terms)[0])


def calibrate(scorer: Scorer, bank: Bank, images: Sequence[RealImage]) -> Calibration:
    """Scores held-out images, each against the slice that it belongs to.

    Raises:
        ArtifactError: an image that the bank holds, a domain that the bank lacks, or a slice with too few images.
    """
    require_disjoint(bank, [image.member.sha256 for image in images])
    known = [part.domain for part in bank.slices]
    by_slice: dict[str, list[RealImage]] = {name: [] for name in known}
    for image in images:
        name = slice_name(image.member.domain, image.shape, bank.match)
        if name not in by_slice and domain_of(name) not in {domain_of(domain) for domain in known}:
            raise ArtifactError(f"{image.member.key!r} is of domain {domain_of(name)!r}; bank {bank.name!r} has {known}")
        by_slice.get(name, []).append(image)  # a band that the bank has not seen cannot be calibrated
    least = _LEAST if len(known) == 1 else _LEAST_OF_SEVERAL
    require_slices({name: len(found) for name, found in by_slice.items()}, least, "calibration")
    return Calibration(
        scorer.scorer_id,
        bank.bank_id,
        tuple(
            CalibrationSlice(
                part.domain,
                tuple(sorted(own_score(scorer, part, image.signatures()) for image in by_slice[part.domain])),
                Support.of([image.shape for image in by_slice[part.domain]], bank.match),
                tuple(sorted(image.member.sha256 for image in by_slice[part.domain])),
            )
            for part in bank.slices
        ),
    )


@dataclass(frozen=True)
class Calibrated:
    """A further calibration of a bank."""

    url: str
    bank_id: str
    calibration_id: str
    images: int
    smallest_budget: float
    by_slice: dict[str, int]
    skipped: int  # images that the bank itself holds


def recalibrate(
    source: str,
    scorer: Scorer,
    bank: Bank,
    bank_url: str,
    max_images: int,
    domains: str,
    storage_block: str | None,
    progress: Progress = lambda done: None,
) -> Calibrated:
    """Calibrates a bank on another collection of real images, into ``BANK.calibrations/ID.json``.

    Raises:
        MdmfError: as ``calibrate``.
    """
    held = {member.sha256 for member in bank.members}
    with spooled() as append:
        images, _ = collect(source, scorer, max_images, domains, storage_block, append, progress)
        fresh = [image for image in images if image.member.sha256 not in held]
        calibration = calibrate(scorer, bank, fresh)
    url = _publish_calibration(bank_url, calibration, storage_block)
    counts = Counter({part.domain: len(part.scores) for part in calibration.slices})
    return Calibrated(
        url, bank.bank_id, calibration.calibration_id, calibration.images, calibration.smallest_budget, dict(counts),
        len(images) - len(fresh),
    )  # fmt: skip


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
