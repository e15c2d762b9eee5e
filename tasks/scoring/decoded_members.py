"""Members are decoded and gathered into batches for the backbone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from mdmf_core.collections.text import was_resized
from mdmf_core.digests import sha256_hex
from mdmf_core.images.crops import CropPlan
from mdmf_core.records import DecodedFacts, ImageShape, Member
from tasks.scoring.decoder_pool import DecodePool

_MEMBERS = 512  # of a batch, scored or not


@dataclass(frozen=True)
class DecodedMember:
    """A member after decoding has either crops to score or the reason why not, and its facts if it was decoded."""

    member: Member  # without its data, which nobody needs any more
    sha256: str
    image: DecodedFacts | None
    crops: UInt8[np.ndarray, "n 3 size size"] | None
    reason: str | None = None
    detail: str = ""


def prepare(member: Member, plan: CropPlan, pool: DecodePool) -> DecodedMember:
    """Has a decoder of the pool decode and cut a member; never raises for what the member holds."""
    digest, bare = sha256_hex(member.data), replace(member, data=b"")
    if member.excluded is not None:
        return DecodedMember(bare, digest, None, None, member.excluded, member.detail)
    decoded = pool.decode(member.data, plan)
    return DecodedMember(bare, digest, decoded.facts, decoded.crops, decoded.reason, decoded.detail)


def batches(prepared: Iterable[DecodedMember], crops: int) -> Iterator[list[DecodedMember]]:
    """Gathers members into batches of at most ``crops`` crops, or of one image that has more; excluded members ride along."""
    batch: list[DecodedMember] = []
    held = 0
    for item in prepared:
        more = 0 if item.crops is None else len(item.crops)
        if batch and (held + more > crops or len(batch) == _MEMBERS):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += more
        if held >= crops:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def shape_of(member: Member, image: DecodedFacts) -> ImageShape:
    """Returns what decides which real images a member's image can be compared with."""
    return ImageShape(image.width, image.height, image.jpeg_quality, was_resized(member.sidecar))
