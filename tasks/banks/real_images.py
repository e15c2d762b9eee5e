"""Collections of real images are put through the backbone once; their signatures wait on disk."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from mdmf_core.banks.assembly import RealImage
from mdmf_core.banks.bank import BankMember, require_finite
from mdmf_core.banks.domains import cluster
from mdmf_core.errors import MdmfError, ShardCorrupt, ShardUnfinished
from mdmf_core.records import Member
from mdmf_core.scoring.scorer import Scorer
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import open_shard
from tasks.scoring.decoded_members import DecodedMember, batches, prepare, shape_of
from tasks.scoring.decoder_pool import LIMITS, decode_pool
from tasks.scoring.stage_threads import in_order
from tasks.storage.retries import storage_errors

Progress = Callable[[int], None]  # is told the usable images so far


@contextmanager
def spooled() -> Iterator[Callable[[torch.Tensor], Callable[[], torch.Tensor]]]:
    """Gives a function that puts a tensor on disk and gives one that reads it back; the file is gone after the block."""
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
    """Puts the distinct usable images of a collection through the backbone once, and counts the excluded ones.

    Args:
        domains: a name for all; ``folder``: the first folder of the key; ``column:NAME``: a field of the sidecar;
            ``cluster:N``: k-means on the embeddings.

    Raises:
        MdmfError: an image without the asked column or folder; a shard that cannot be read.
    """
    images: list[RealImage] = []
    seen: set[str] = set()
    excluded = 0
    for batch in batches(_images(source, scorer, most, storage_block), 32 * scorer.crops.most):
        fresh = []
        for item in batch:
            excluded += item.crops is None
            if item.crops is not None and item.sha256 not in seen:
                seen.add(item.sha256)
                fresh.append(item)
        if not fresh:
            continue
        signatures = scorer.extract([item.crops for item in fresh if item.crops is not None])
        vectors = torch.split(signatures.vectors, signatures.counts)
        for item, part, embedding in zip(fresh, vectors, signatures.embeddings.cpu().numpy(), strict=True):
            require_finite(part, item.member.key)
            images.append(_real_image(item, source, domains, embedding, append(part)))
        progress(len(images))
    if domains.startswith("cluster:"):
        names = cluster(np.stack([image.embedding for image in images]), int(domains.removeprefix("cluster:")))
        images = [replace(image, member=replace(image.member, domain=name)) for image, name in zip(images, names, strict=True)]
    return images, excluded


def _real_image(
    item: DecodedMember,
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
        fields = json.loads(member.sidecar) if member.sidecar else {}
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


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


def _images(source: str, scorer: Scorer, most: int, storage_block: str | None) -> Iterator[DecodedMember]:
    """Decodes up to ``most`` usable members of a collection; shards that cannot be read are an error, not a gap."""
    count, pool = 0, decode_pool(max(1, (os.cpu_count() or 2) - 1))
    for shard in list_shards(source, 1000, storage_block):
        try:
            with storage_errors(shard.url), open_shard(shard, LIMITS.max_bytes, storage_block) as reader:
                for item in in_order(pool.threads, lambda member: prepare(member, scorer.crops, pool), reader, window=64):
                    if count == most:
                        return
                    yield item
                    count += item.crops is not None
        except (ShardUnfinished, ShardCorrupt) as error:
            raise MdmfError(f"{shard.url}: {error}") from error
