"""A bank and its calibration are computed in memory from real images that were read before."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float

from mdmf_core.banks.bank import Bank, BankMember, Slice, domain_of, require_slices
from mdmf_core.banks.calibration import Calibration, CalibrationSlice, require_disjoint
from mdmf_core.banks.domains import Router, Support, slice_name
from mdmf_core.choices import Compression, Condition
from mdmf_core.errors import ArtifactError
from mdmf_core.mmd.coreset import BLOCK_POINTS, compress
from mdmf_core.mmd.kernels import median_heuristic
from mdmf_core.mmd.two_sample import RANK, FeatureMap
from mdmf_core.records import ImageShape

_PATCHES = 64  # kept of each bank image, on an even stride; neighbours in an image say nearly the same
_MEDIAN_PATCHES = 2000  # that the bandwidth is taken from, where the scorer has none of its own
LEAST = 2  # images a slice, for the bank and for its calibration
# Calibration images a slice, where there are several: the largest p-value counts, so a tiny slice would excuse every image.
LEAST_OF_SEVERAL = 20


@dataclass(frozen=True)
class RealImage:
    """One usable image of a collection; its signatures wait on disk."""

    member: BankMember
    shape: ImageShape
    embedding: Float[np.ndarray, " e"]
    signatures: Callable[[], Float[torch.Tensor, "patches d"]]


class SliceScorer(Protocol):
    """What a bank needs of a scorer: its identity, its bandwidth, and the score of one image against one slice."""

    @property
    def scorer_id(self) -> str: ...

    @property
    def sigma(self) -> float | None: ...

    def score_against(self, part: Slice, signatures: Float[torch.Tensor, "patches d"]) -> float: ...


def in_bank_half(image: RealImage) -> bool:
    """Says whether an image goes to the bank rather than to its calibration."""
    return int(image.member.sha256[-1], 16) % 2 == 0


def assemble(
    scorer: SliceScorer,
    images: Sequence[RealImage],
    name: str,
    points: int,
    compression: Compression,
    max_error: float = 0.0,
    match: tuple[Condition, ...] = (),
) -> Bank:
    """Builds the bank of these images: every slice is compressed on its own, and every member is scored against its slice.

    Args:
        points: of each slice, at most.
        max_error: bound of the MMD between a slice and its coreset; 0 = as many points as given.
        match: image properties by which slices are told apart, beside the domain.

    Raises:
        ArtifactError: a slice with too few images.
        ValueError: an error bound that ``points`` do not reach.
    """
    ordered = sorted(images, key=lambda image: image.member.sha256)
    sigma = _bandwidth(ordered) if scorer.sigma is None else scorer.sigma
    by_slice: dict[str, list[RealImage]] = {}
    for image in ordered:
        by_slice.setdefault(slice_name(image.member.domain, image.shape, match), []).append(image)
    require_slices({part: len(own) for part, own in by_slice.items()}, LEAST, "bank")
    slices = tuple(
        Slice.of(part, compress(_blocks(own), points, sigma, compression, max_error), len(own), sigma)
        for part, own in sorted(by_slice.items())
    )
    domains = [image.member.domain for image in ordered]
    router = Router.fit(np.stack([image.embedding for image in ordered]), domains) if len(set(domains)) > 1 else None
    return with_members(Bank(name, scorer.scorer_id, slices, sigma, (), match, router), scorer, ordered)


def with_members(bank: Bank, scorer: SliceScorer, images: Sequence[RealImage]) -> Bank:
    """Returns the bank with its manifest: every member's slice, score and features."""
    slices = {part.domain: part for part in bank.slices}
    maps = {name: FeatureMap.of(part.points, part.sigma) for name, part in slices.items()}
    members, features = [], []
    for image in sorted(images, key=lambda image: image.member.sha256):
        name = slice_name(image.member.domain, image.shape, bank.match)
        signatures = image.signatures()
        members.append(replace(image.member, domain=name, score=scorer.score_against(slices[name], signatures)))
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


def calibrate(scorer: SliceScorer, bank: Bank, images: Sequence[RealImage]) -> Calibration:
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
    least = LEAST if len(known) == 1 else LEAST_OF_SEVERAL
    require_slices({name: len(own) for name, own in by_slice.items()}, least, "calibration")
    return Calibration(
        scorer.scorer_id,
        bank.bank_id,
        tuple(
            CalibrationSlice(
                part.domain,
                tuple(sorted(scorer.score_against(part, image.signatures()) for image in by_slice[part.domain])),
                Support.of([image.shape for image in by_slice[part.domain]], bank.match),
                tuple(sorted(image.member.sha256 for image in by_slice[part.domain])),
            )
            for part in bank.slices
        ),
    )
