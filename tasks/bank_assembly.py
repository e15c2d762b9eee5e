"""From real images to a bank and its calibration, in memory: what a build computes, without reading or publishing."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, Field

from mdmf_core.banks import Bank, Slice, domain_of, require_slices
from mdmf_core.calibration import Calibration, CalibrationSlice, require_disjoint
from mdmf_core.coreset import BLOCK_POINTS, Method, compress
from mdmf_core.domains import Condition, Router, Support, slice_name
from mdmf_core.errors import ArtifactError
from mdmf_core.health import RANK, FeatureMap
from mdmf_core.kernels import median_heuristic
from mdmf_core.scoring import Scorer
from tasks.real_images import RealImage

_PATCHES = 64  # kept of each bank image, on an even stride; neighbours in an image say nearly the same
_MEDIAN_PATCHES = 2000  # that the bandwidth is taken from, where the scorer has none of its own
LEAST = 2  # images a slice, for the bank and for its calibration
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


def in_bank_half(image: RealImage) -> bool:
    """Whether an image goes to the bank rather than to its calibration."""
    return int(image.member.sha256[-1], 16) % 2 == 0


def assemble(settings: BuildSettings, scorer: Scorer, images: Sequence[RealImage]) -> Bank:
    """The bank of these images, every slice compressed on its own, and every member's score against it."""
    ordered = sorted(images, key=lambda image: image.member.sha256)
    sigma = _bandwidth(ordered) if scorer.sigma is None else scorer.sigma
    by_slice: dict[str, list[RealImage]] = {}
    for image in ordered:
        by_slice.setdefault(slice_name(image.member.domain, image.shape, settings.match), []).append(image)
    require_slices({name: len(found) for name, found in by_slice.items()}, LEAST, "bank")
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
    terms = scorer.terms(signatures, [len(signatures)], (part,))
    return float(scorer.statistic.score(terms)[0, 0])


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
    least = LEAST if len(known) == 1 else _LEAST_OF_SEVERAL
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
