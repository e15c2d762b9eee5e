"""The report's pictures: thumbnails, and evidence maps drawn over them, as files named by their content."""

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image

from mdmf_core.collections.formats import FORMATS
from mdmf_core.digests import sha256_hex
from mdmf_core.errors import SourceError, SourceRefused
from mdmf_core.images.crops import CropPlan
from mdmf_core.records import ExclusionReason, ImageExcluded
from mdmf_core.scoring.evidence import Densities, Evidence, evidence, paint
from tasks.collections.open_shards import read_member
from tasks.scoring.decoder_pool import DecodePool, decode_pool
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.scoring.stage_threads import in_order
from tasks.storage.filesystems import is_remote

SIDE = 240  # longest side of thumbnails and maps, pixels
MAX_THUMBNAIL, MAX_MAP = 24_000, 4_000  # bytes; with the counts in ``tasks.report.galleries`` they keep a report under 30 MB
RAREST = 0.001  # lower end of the density map's colours
# Safe for colour-blind readers: one runs from purple over white to orange, the other from yellow (rare) to dark blue.
WITNESS, DENSITY = "PuOr_r", "cividis_r"
_CLEAR = 255  # palette entry of what no patch covers


@dataclass(frozen=True)
class Seen:
    """What became of one image's bytes. ``problem`` says why there is no picture, in one sentence."""

    image_id: str
    thumbnail: bytes | None = None
    crops: UInt8[np.ndarray, "n 3 size size"] | None = None
    area: tuple[int, int] = (0, 0)  # height and width that crops were cut from
    problem: str | None = None


@dataclass(frozen=True)
class Evident:
    """The evidence of one image, over its area, and in numbers for the panel."""

    witness: Float[np.ndarray, "rows columns"]
    rarity: Float[np.ndarray, "rows columns"]
    facts: dict[str, Any]


class Pictures:
    """Picture files by name; the same content is one file."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def add(self, data: bytes, suffix: str) -> str:
        """The name of the file."""
        name = f"{sha256_hex(data)[:32]}.{suffix}"
        self.files[name] = data
        return name


def see(row: dict[str, Any], storage_block: str | None, plan: CropPlan | None, pool: DecodePool, silent: set[str]) -> Seen:
    """Reads and decodes one image again, and cuts its crops; whatever is wrong with it must not cost the report.

    Args:
        plan: of the crops; None = none are wanted.
        silent: stores that did not answer; they are asked no more, as every image would wait for all tries. Grows here.
    """
    identity, store = str(row["image_id"]), _store(row["shard_url"])
    if store in silent:
        return Seen(identity, problem=f"{store} does not answer")
    if row.get("reason") is not None and not ExclusionReason(row["reason"]).decode_again:
        return Seen(identity, problem="its decoder ended or hung; the report does not wait for another one")
    if not FORMATS[row["kind"]].separate_files and row["locator"] is None:
        return Seen(identity, problem="the warehouse does not know where its bytes lie")
    try:
        data = read_member(row["shard_url"], row["kind"], row["key"], row["locator"], row["bytes"], storage_block)
        if sha256_hex(data) != row["sha256"]:
            return Seen(identity, problem="its bytes are not those that were scored: the shard has changed since")
        image = pool.upright(data)
        if not image.pixels.size:
            return Seen(identity, problem="nothing but a uniform border")
        crops = None if plan is None else plan.cut(image.pixels)
    except (SourceError, ImageExcluded) as error:
        if isinstance(error, SourceError) and not isinstance(error, SourceRefused):
            silent.add(store)
        return Seen(identity, problem=str(error)[:300])
    return Seen(identity, thumbnail(image.pixels), crops, image.pixels.shape[:2])


def _store(shard_url: str) -> str:
    """Bucket or folder."""
    return "/".join(shard_url.split("/")[:3]) if is_remote(shard_url) else os.path.dirname(shard_url)


def thumbnail(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A JPEG of at most ``SIDE`` x ``SIDE`` pixels and ``MAX_THUMBNAIL`` bytes: noise gets fewer pixels."""
    side = SIDE
    while True:
        small, file = Image.fromarray(pixels), io.BytesIO()
        small.thumbnail((side, side))
        small.save(file, "JPEG", quality=80)
        if file.tell() <= MAX_THUMBNAIL:
            return file.getvalue()
        side = side * 3 // 4


def look(
    records: dict[str, dict[str, Any]], setup: ScoringSetup | None, pictures: Pictures, storage_block: str | None
) -> dict[str, Evident]:
    """Sets ``thumbnail`` and ``problem`` of every record, and gives the evidence of those that could be computed."""
    found: dict[str, Evident] = {}
    densities: dict[str, Densities] = {}
    batch: list[tuple[dict[str, Any], Seen]] = []
    silent: set[str] = set()
    threads, plan = (8, None) if setup is None else (setup.decode_threads, setup.scorer.crops)
    decoders = decode_pool() if setup is None else decode_pool(threads)

    def seen_of(row: dict[str, Any]) -> Seen:
        return see(row, storage_block, plan, decoders, silent)

    with ThreadPoolExecutor(threads, thread_name_prefix="report") as pool:
        for seen in in_order(pool, seen_of, records.values(), window=2 * threads):
            record = records[seen.image_id]
            record["thumbnail"] = None if seen.thumbnail is None else pictures.add(seen.thumbnail, "jpg")
            record["problem"] = seen.problem
            if setup is not None and seen.crops is not None:
                batch.append((record, seen))
                if sum(len(seen.crops) for _, seen in batch if seen.crops is not None) >= setup.batch_crops:
                    found |= _evidence(batch, setup, densities)
                    batch = []
    if setup is not None and batch:
        found |= _evidence(batch, setup, densities)
    return found


def _evidence(
    batch: list[tuple[dict[str, Any], Seen]], setup: ScoringSetup, densities: dict[str, Densities]
) -> dict[str, Evident]:
    """Against the slice that the score was taken from."""
    signatures = setup.scorer.extract([seen.crops for _, seen in batch if seen.crops is not None], setup.passes)
    slices = {part.domain: part for part in setup.bank.slices}
    found = {}
    for (record, seen), vectors in zip(batch, torch.split(signatures.vectors, signatures.counts), strict=True):
        part = slices[record["domain"]]
        if part.domain not in densities:
            densities[part.domain] = Densities.of(part)
        height, width = seen.area
        of_patches = evidence(vectors, part, densities[part.domain])
        boxes = setup.scorer.patch_boxes(height, width)
        found[record["image_id"]] = Evident(
            paint(of_patches.witness.numpy(), boxes, height, width, SIDE),
            paint(of_patches.rarity.numpy(), boxes, height, width, SIDE),
            _facts(of_patches, boxes, height, width),
        )
    return found


def _facts(found: Evidence, boxes: Float[np.ndarray, "patches 4"], height: int, width: int) -> dict[str, Any]:
    """The rarest and the most ordinary patch: where they lie, as shares of the image, and the bank points beside them."""

    def patch(at: int) -> dict[str, Any]:
        return {
            "patch": at,
            "box": [round(float(edge), 5) for edge in boxes[at] / [height, width, height, width]],
            "pixels": [round(float(edge)) for edge in boxes[at]],
            "witness": round(float(found.witness[at]), 4),
            "rarity": round(float(found.rarity[at]), 6),
            "nearest": [
                [int(point), round(float(kernel), 4)]
                for point, kernel in zip(found.nearest[at], found.similarity[at], strict=True)
            ],
        }

    return {
        "witness": round(float(found.witness.mean()), 4),
        "rare": int((found.rarity <= 0.01).sum()),
        "rarest": patch(int(found.rarity.argmin())),
        "commonest": patch(int(found.rarity.argmax())),
    }


def limit_of(found: Iterable[Evident]) -> float:
    """One witness scale for all images, so that colours compare: the largest value met, rounded up to a tenth."""
    largest = max((float(np.nanmax(np.abs(each.witness))) for each in found), default=0.1)
    return max(0.1, float(np.ceil(10 * largest)) / 10)


def maps(each: Evident, limit: float) -> tuple[bytes, bytes]:
    """Witness and density map as PNG."""
    share = np.log10(np.clip(each.rarity, RAREST, 1.0)) / np.log10(RAREST)  # 1 = rare, 0 = common
    return _png((each.witness / limit + 1) / 2, WITNESS), _png(1 - share, DENSITY)


def colours(name: str, steps: int) -> list[str]:
    """A map's colours from low to high, as hexadecimal."""
    return ["#" + bytes(colour).hex() for colour in _palette(name)[np.linspace(0, _CLEAR - 1, steps).round().astype(int)]]


def _palette(name: str) -> UInt8[np.ndarray, "255 3"]:
    wide = colormaps[name](np.linspace(0.0, 1.0, _CLEAR), bytes=True)
    return np.asarray(wide, np.uint8)[:, :3]


def _png(values: Float[np.ndarray, "rows columns"], colormap: str) -> bytes:
    """Values in [0, 1] as a palette PNG, clear where there is none, with fewer cells where it would grow too large."""
    clear = np.isnan(values)
    levels = np.where(clear, 0.0, np.clip(values, 0.0, 1.0) * (_CLEAR - 1)).round().astype(np.uint8)
    levels[clear] = _CLEAR
    while True:
        image = Image.fromarray(levels, "P")
        image.putpalette(_palette(colormap).tobytes() + b"\0\0\0")
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True, transparency=_CLEAR)
        if buffer.tell() <= MAX_MAP or min(levels.shape) < 2:
            return buffer.getvalue()
        levels = levels[::2, ::2]
