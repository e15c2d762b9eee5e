"""Writes the corpus of docs/desk.md: labelled images as a LAION download would have them, in tars of img2dataset's layout.

python docs/desk_corpus.py ../shared/data /tmp/desk/laion

The first folder holds manifest.csv with label, set and file. Files go in byte by byte, the label goes nowhere; the host of an
image's URL is its set.
"""

import csv
import hashlib
import io
import json
import random
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IMAGES, SHARDS, GENERATED, SEED = 720, 5, 0.3, 6
CUT_SHORT = (37, 411)  # places of images whose download ended early
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("url", "caption", "key", "status", "error_message", "LICENSE", "exif", "sha256")),
        *((name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
    ]
)


def drawn(data: Path) -> list[dict[str, str]]:
    """The images of the corpus in the order of the download: a fixed random draw of either class."""
    with open(data / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    draw = random.Random(SEED)  # noqa: S311 - a draw, not a secret
    generated = round(IMAGES * GENERATED)
    found = []
    for label, count in (("generated", generated), ("real", IMAGES - generated)):
        found += draw.sample([row for row in rows if row["label"] == label], count)
    draw.shuffle(found)
    return found


def write_shard(folder: Path, number: int, images: list[tuple[dict[str, str], bytes]]) -> None:
    """NNNNN.tar with its NNNNN.parquet and NNNNN_stats.json."""
    rows = []
    with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
        for place, (image, content) in enumerate(images):
            row = _metadata(image, content, f"{number:05d}{place:04d}")
            _add(tar, row["key"] + Path(image["file"]).suffix, content)
            _add(tar, f"{row['key']}.json", json.dumps(row, indent=4).encode())
            _add(tar, f"{row['key']}.txt", row["caption"].encode())
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), folder / f"{number:05d}.parquet")
    stats = {"count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0,
             "duration": 12.5, "start_time": 1700000000.0, "end_time": 1700000012.5,
             "status_dict": {"success": len(rows)}}  # fmt: skip
    (folder / f"{number:05d}_stats.json").write_text(json.dumps(stats, indent=4) + "\n")  # last: the shard is whole


def _metadata(image: dict[str, str], content: bytes, key: str) -> dict[str, Any]:
    width, height = int(image["width"]), int(image["height"])
    name = Path(image["file"])
    return {
        "url": f"https://{image['set'].replace('_', '-')}.example.org/{name.name}", "caption": name.stem.replace("_", " "),
        "key": key, "status": "success", "error_message": None, "LICENSE": "?", "exif": "{}",
        "sha256": hashlib.sha256(content).hexdigest(), "width": width, "height": height,
        "original_width": width, "original_height": height,
    }  # fmt: skip


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True)
    images = [(image, (data / image["file"]).read_bytes()) for image in drawn(data)]
    for place in CUT_SHORT:
        image, content = images[place]
        images[place] = image, content[: len(content) // 2]
    size = IMAGES // SHARDS
    for number in range(SHARDS):
        write_shard(out, number, images[number * size : (number + 1) * size])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
