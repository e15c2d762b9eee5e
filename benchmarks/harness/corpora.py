"""Shards for benchmarks, in img2dataset's layout, from a folder of images."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

from PIL import Image

from mdmf_core.images.decode import ImageLimits, decode

LEAST = 224  # px of the shorter side: one crop of CLIP
LAION_SIDE, LAION_QUALITY = 256, 95  # what img2dataset makes of LAION by default
_SUFFIXES = (".jpg", ".jpeg")


def photographs(data: Path, count: int) -> list[bytes]:
    """``count`` JPEG files as they lie under ``data``, evenly drawn; again from the first where there are not as many.

    All of them get a score from CLIP, as found and ``as_laion``.

    Raises:
        ValueError: there is none that is large enough.
    """
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in _SUFFIXES)
    drawn = (path.read_bytes() for path in paths[:: max(1, len(paths) // (2 * count))])
    large = list(islice((data for data in drawn if _has_a_crop(data) and _has_a_crop(*as_laion([data]))), count))
    if not large:
        raise ValueError(f"{data}: no JPEG of at least {LEAST} px a side below it; pass --data FOLDER")
    return list(islice(cycle(large), count))


def _has_a_crop(data: bytes) -> bool:
    """Whether one crop of CLIP lies within the image's border."""
    with Image.open(io.BytesIO(data)) as image:
        large = min(image.size) >= LEAST
    return large and min(decode(data, ImageLimits()).pixels.shape[:2]) >= LEAST


def as_laion(images: Iterable[bytes]) -> Iterator[bytes]:
    """The same pictures with a shorter side of 256 px, as JPEG."""
    for data in images:
        with Image.open(io.BytesIO(data)) as image:
            scale = LAION_SIDE / min(image.size)
            size = (max(LAION_SIDE, round(image.width * scale)), max(LAION_SIDE, round(image.height * scale)))
            buffer = io.BytesIO()
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=LAION_QUALITY)
        yield buffer.getvalue()


def write_shards(folder: Path, images: Iterable[bytes], shards: int = 1) -> list[Path]:
    """``images`` dealt out to tars: NNNNN.tar with jpg, txt and json of each member, and its stats file."""
    folder.mkdir(parents=True)
    held, paths = list(images), []
    for number in range(shards):
        mine, path = held[number::shards], folder / f"{number:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for place, data in enumerate(mine):
                key = f"{number:05d}{place:05d}"
                sidecar = json.dumps({"key": key, "url": f"https://example.org/{key}.jpg", "status": "success"})
                for suffix, content in (("jpg", data), ("txt", b"a caption"), ("json", sidecar.encode())):
                    entry = tarfile.TarInfo(f"{key}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        path.with_name(f"{number:05d}_stats.json").write_text(json.dumps({"successes": len(mine)}))
        paths.append(path)
    return paths


def described(images: list[bytes]) -> str:
    """How many, how heavy and how large, for a record's ``did``."""
    pixels = [Image.open(io.BytesIO(data)).size for data in images]
    width, height = (sorted(side)[len(side) // 2] for side in zip(*pixels, strict=True))
    return f"{len(images)} JPEGs of {sum(map(len, images)) / len(images) / 1000:.0f} kB, median {width} x {height} px"
