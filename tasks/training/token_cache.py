"""The token cache: patch tokens of labelled images under every condition, so that arms cost seconds, not backbone passes."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float16, Int64, UInt8
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mdmf_core.digests import digest_of, sha256_hex, tensors_digest
from mdmf_core.records import ExclusionReason, ImageExcluded, ImageShape
from mdmf_core.scoring.scorer import Scorer
from mdmf_core.training.conditions import crops_under
from mdmf_core.training.labelled import LabelledImage
from mdmf_core.training.model_choice import ImageTokens
from tasks.scoring.decoder_pool import DecodePool, decode_pool
from tasks.storage.checked_reads import read_bytes
from tasks.storage.publishing import whole_file

VERSION = "tokens-2"  # raise when a change in views or embeddings makes cached tokens stale
_CHUNK = 64  # images
_BATCH = 64  # crops in one backbone pass


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image beside its tokens; ``reason`` says why it has none."""

    url: str
    generated: bool
    group: str
    domain: str
    pair: str | None
    sha256: str
    format: str = ""
    width: int = 0
    height: int = 0
    jpeg_quality: int | None = None
    reason: str | None = None

    @property
    def shape(self) -> ImageShape:
        """What decides which real images it can be compared with."""
        return ImageShape(self.width, self.height, self.jpeg_quality, None)


ImageCrops = tuple[ImageFacts, UInt8[np.ndarray, "n 3 size size"] | None]


@dataclass(frozen=True)
class ChunkTokens:
    """Tokens of some images under one condition; image i owns the next ``counts[i]`` crops."""

    facts: tuple[ImageFacts, ...]
    tokens: Float16[torch.Tensor, "crops k d"]
    counts: Int64[torch.Tensor, " images"]
    embeddings: Float16[torch.Tensor, "crops e"]


def chunked(images: Sequence[LabelledImage]) -> list[tuple[LabelledImage, ...]]:
    """Chunks of one group each, so that a new group leaves the cache of the others valid."""
    groups: dict[tuple[bool, str], list[LabelledImage]] = {}
    for image in images:
        groups.setdefault((image.generated, image.group), []).append(image)
    return [tuple(found[start : start + _CHUNK]) for found in groups.values() for start in range(0, len(found), _CHUNK)]


class TokenCache:
    """Chunks on local disk, named by everything that their tokens depend on."""

    def __init__(self, folder: str, scorer: Scorer) -> None:
        self.folder, self.scorer = folder, scorer
        self._identity = {
            "version": VERSION,
            "backbone": dict(scorer.backbone_record),
            "weights": tensors_digest(scorer.backbone.state_dict()),
            "crops": asdict(scorer.crops),
            "autocast": str(scorer.autocast),
        }

    def path(self, chunk: Sequence[LabelledImage], condition: str) -> str:
        files = [[image.url, image.size_bytes, image.generated] for image in chunk]
        name = digest_of(self._identity | {"condition": condition, "files": files})
        return os.path.join(self.folder, condition, f"{name[:32]}.safetensors")

    def fill(self, chunk: Sequence[LabelledImage], conditions: Sequence[str], storage_block: str | None) -> int:
        """Computes what is missing of one chunk; the number of conditions computed. Every file is read once."""
        missing = [name for name in conditions if not os.path.exists(self.path(chunk, name))]
        if not missing:
            return 0
        pool = decode_pool()
        files = list(pool.threads.map(lambda image: read_bytes(image.url, storage_block), chunk))
        lost: dict[str, ImageFacts] = {}  # by URL: no further condition waits for a decoder that ends or hangs again

        def crops(image: LabelledImage, data: bytes) -> ImageCrops:
            return (lost[image.url], None) if image.url in lost else self._crops(image, data, condition, pool)

        for condition in missing:
            made = list(pool.threads.map(crops, chunk, files))
            lost |= {facts.url: facts for facts, _ in made if facts.reason and not ExclusionReason(facts.reason).decode_again}
            self._save(self.path(chunk, condition), made)
        return len(missing)

    def _crops(self, image: LabelledImage, data: bytes, condition: str, pool: DecodePool) -> ImageCrops:
        digest = sha256_hex(data)
        facts = ImageFacts(image.url, image.generated, image.group, image.domain, image.pair, digest)
        try:
            decoded = pool.upright(data)
            facts = replace(
                facts, format=decoded.format, width=decoded.width, height=decoded.height, jpeg_quality=decoded.jpeg_quality
            )
            crops = crops_under(condition, decoded.pixels, digest, self.scorer.crops)
        except ImageExcluded as excluded:
            return replace(facts, reason=str(excluded.reason)), None
        return facts, crops

    @torch.inference_mode()
    def _save(self, path: str, made: list[ImageCrops]) -> None:
        counts = torch.tensor([0 if crops is None else len(crops) for _, crops in made])
        parts = [crops for _, crops in made if crops is not None]
        tokens, embeddings = [], []
        size = self.scorer.crops.size
        stacked = torch.from_numpy(np.concatenate(parts) if parts else np.zeros((0, 3, size, size), np.uint8))
        for batch in torch.split(stacked, _BATCH):
            with torch.autocast(self.scorer.device.type, dtype=self.scorer.autocast, enabled=self.scorer.autocast is not None):
                found, whole = self.scorer.backbone.describe(batch.to(self.scorer.device))  # type: ignore[operator]
            tokens.append(found.half().cpu())
            embeddings.append(whole.half().cpu())
        contents = {
            "tokens": torch.cat(tokens).contiguous() if parts else torch.zeros(0, 1, 1, dtype=torch.float16),
            "embeddings": torch.cat(embeddings).contiguous() if parts else torch.zeros(0, 1, dtype=torch.float16),
            "counts": counts,
        }
        with whole_file(path) as temporary:
            save_file(contents, temporary, metadata={"images": json.dumps([asdict(facts) for facts, _ in made])})

    def read(self, chunks: Sequence[Sequence[LabelledImage]], condition: str) -> Iterator[ChunkTokens]:
        """The filled chunks of a condition, one at a time."""
        for chunk in chunks:
            path = self.path(chunk, condition)
            with safe_open(path, "pt") as file:
                found = json.loads(file.metadata()["images"])
            # Group, domain and pair are the listing's to say: they may change while the tokens do not.
            facts = tuple(
                ImageFacts(**entry | {"group": image.group, "domain": image.domain, "pair": image.pair})
                for entry, image in zip(found, chunk, strict=True)
            )
            tensors = load_file(path)
            yield ChunkTokens(facts, tensors["tokens"], tensors["counts"], tensors["embeddings"])


def per_image(chunk: ChunkTokens) -> list[tuple[ImageFacts, torch.Tensor, torch.Tensor]]:
    """(facts, tokens [crops, k, d], embeddings [crops, e]) of every image; one without crops has empty tensors."""
    sizes = chunk.counts.tolist()
    parts = (torch.split(part, sizes) if sum(sizes) else (part,) * len(sizes) for part in (chunk.tokens, chunk.embeddings))
    return list(zip(chunk.facts, *parts, strict=True))


def image_tokens(chunks: Sequence[ChunkTokens], usable: np.ndarray) -> ImageTokens:
    """The images at the mask ``usable``, all of which have crops."""
    kept = [
        (facts, tokens, embeddings)
        for (facts, tokens, embeddings), keep in zip((e for c in chunks for e in per_image(c)), usable, strict=True)
        if keep
    ]
    facts = [entry for entry, _, _ in kept]
    return ImageTokens(
        [tokens.flatten(0, 1) for _, tokens, _ in kept],
        np.stack([embeddings.float().mean(0).numpy() for _, _, embeddings in kept]),
        np.array([f.generated for f in facts]), np.array([f.group for f in facts]), np.array([f.domain for f in facts]),
        np.array([f.pair for f in facts], dtype=object), np.array([f.sha256 for f in facts]),
    )  # fmt: skip
