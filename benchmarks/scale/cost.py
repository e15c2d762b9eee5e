"""What an object store charges per million images: requests counted on real shards, times list prices.

    PYTHONPATH=.:tests/helpers python benchmarks/scale/cost.py [--page docs/storage.md]

A bundled shard is read from a real S3 server, a part of 10,000 rows written there and landed, all under a lease, with every
request counted on its way. Nothing is scored, since scoring asks a store for nothing: the rows are made up, each with a caption
and a sidecar of the length of the bundled ones and with numbers that do not compress. A copy of the shard with 48 MiB more of
members tells how requests grow with a shard's length.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import s3fs
from fault_proxy import fault_proxy
from s3_server import KEY, SECRET, conditional_s3

from mdmf_core.records import Member, Shard
from tasks.collections.listing import list_shards
from tasks.collections.open_shards import expected_members, open_shard
from tasks.parts.leases import HEARTBEAT, Lease, acquire, owner, release
from tasks.parts.outcome import ShardOutcome, WorkKey, work_name
from tasks.parts.part_files import finished_part, part_path, part_writer
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

BEGIN, END = "<!-- made by benchmarks/scale/cost.py -->", "<!-- end -->"
PRICES = {
    "PUT": 0.005 / 1000,
    "LIST": 0.005 / 1000,
    "GET": 0.0004 / 1000,
    "DELETE": 0.0,
}  # S3 standard, us-east-1, November 2026
GB_MONTH = 0.023
IMAGES, BYTES = 10_000, 41_000  # of a shard, of an image: LAION-5B as img2dataset writes it at 384 px, 240 TB for 5.85e9
RATE = 1000  # images a second of one worker; for what a heartbeat costs
RUN = "00000000-0000-0000-0000-000000000001"
PADDING = 6 * 8 * 2**20
PLACES = {"/corpus/": "shards", "/leases/": "leases", "/scores/": "parts"}


class Meter:
    """Requests and bytes by place and kind."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def note(self, method: str, path: str, sent: int, received: int) -> None:
        place = next((name for mark, name in PLACES.items() if mark in path.replace("%2F", "/")), "other")
        kind = "LIST" if "list-type=2" in path else {"HEAD": "GET", "POST": "PUT"}.get(method, method)
        if kind == "LIST":
            place = "leases" if "leases" in path else "listing"
        self.requests[place, kind] += 1
        self.received[place] += received
        self.sent[place] += sent


@contextmanager
def metered() -> Iterator[Meter]:
    """Standard AWS variables for a server whose requests are counted."""
    with conditional_s3() as server, fault_proxy(server) as proxy:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": proxy.url,
        }  # fmt: skip
        s3fs.S3FileSystem.clear_instance_cache()
        for bucket in ("corpus", "lake"):
            s3fs.S3FileSystem().mkdir(bucket)
        meter = Meter()
        proxy.passed = lambda *facts: meter.note(*facts)
        yield meter


def padded(source: Path, out: Path) -> Path:
    """A copy of a tar with members that are no images."""
    shutil.copy(source, out)
    with tarfile.open(out, "a") as archive:
        for number in range(PADDING // 2**23):
            entry = tarfile.TarInfo(f"padding{number}.jpg")
            entry.size = 2**23 - 512
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    return out


def row(number: int, member: Member, words: list[str], dice: random.Random) -> dict[str, Any]:
    """What a scored image leaves in a part."""
    sha256, url = (
        hashlib.sha256(str(number).encode()).hexdigest(),
        f"https://{dice.getrandbits(40):x}.org/{dice.getrandbits(64):x}.jpg",
    )
    caption = " ".join(dice.choices(words, k=len((member.caption or "").split())))
    sidecar = json.loads(member.sidecar or "{}") | {"sha256": sha256, "url": url, "caption": caption, "key": f"{number:09d}"}
    scores = ("score", "mmd2", "cross_term", "self_term", "top_k", "p_value")
    return {
        "key": f"{number:09d}", "sha256": sha256, "format": "JPEG", "width": dice.randrange(100, 385), "height": 384,
        "bytes": dice.randrange(9_000, 90_000), "locator": number * BYTES, "jpeg_quality": 95, "border_px": 0, "resized": True,
        "caption": caption, "url": url, "sidecar": json.dumps(sidecar), "top_patch": dice.randrange(49), "patches": 49,
        "domain": "photos", "in_support": True, "scored_at": datetime.now(UTC),
    } | {name: dice.random() for name in scores}  # fmt: skip


def part_of(shard: Shard, path: str) -> ShardOutcome:
    """Reads the shard as a run does, and writes a part of as many rows as a shard has images."""
    started, dice = time.monotonic(), random.Random(0)  # noqa: S311 - no secret
    with part_writer(path) as part:
        with open_shard(shard, 64 * 2**20) as reader:
            members = [member for member in reader if member.caption]
        expected_members(shard)
        words = [word for member in members for word in (member.caption or "").split()]
        part.write([row(number, members[number % len(members)], words, dice) for number in range(IMAGES)])
        part.close_with(
            ShardOutcome(
                shard.url, shard.kind, shard.size_bytes, shard.fingerprint, "complete", None, reader.digest, IMAGES, IMAGES, 0,
                time.monotonic() - started, RUN, path,
            )
        )  # fmt: skip
    return part.outcome


def through(meter: Meter, tar: Path, warehouse: str) -> Meter:
    """What one shard asks for on its way, but for the listing."""
    filesystem, folder, key = s3fs.S3FileSystem(), "s3://lake/w.parts", WorkKey("a" * 64, "b" * 64, "c" * 64)
    filesystem.put_file(str(tar), f"corpus/{tar.name}")
    filesystem.pipe_file(f"corpus/{tar.stem}_stats.json", b"{}")
    (shard,) = list_shards(f"s3://corpus/{tar.name}", 1000)
    name_of_work = work_name(shard.url, key)
    with owner(f"{folder}/leases", RUN, heartbeat=3600) as name:
        meter.clear()
        lease = acquire(f"{folder}/leases", name_of_work, name, 0)
        if not isinstance(lease, Lease):
            raise RuntimeError(f"somebody else is at {shard.url}: {lease}")
        path = part_path(folder, shard, key)
        outcome = finished_part(path) or part_of(shard, path)
        land(Warehouse.at(warehouse), [outcome], key)
        release(f"{folder}/leases", name_of_work, lease.generation)
        found = Meter()
        found.requests, found.received, found.sent = meter.requests.copy(), meter.received.copy(), meter.sent.copy()
    return found


def table(plain: Meter, long: Meter) -> str:
    """Per shard as measured, and per million images."""
    shards = 1e6 / IMAGES
    per_get = PADDING / (long.requests["shards", "GET"] - plain.requests["shards", "GET"])
    gets = plain.requests["shards", "GET"] - 1 + IMAGES * BYTES / per_get
    rows = [("read shards and their stats files", {"GET": gets}, IMAGES * BYTES, 0.0)]
    rows += [("list them, three files a shard", {"LIST": 3 / 1000}, 0, 0.0)]
    for place, label in (("leases", "leases"), ("parts", "parts: look, write, land")):
        rows.append(
            (
                label,
                {kind: plain.requests[place, kind] for kind in PRICES if plain.requests[place, kind]},
                plain.received[place] if place == "parts" else 0,
                plain.sent[place] if place == "parts" else 0.0,
            )
        )
    rows.append((f"sign of life every {HEARTBEAT:.0f} s at {RATE} images/s", {"PUT": IMAGES / RATE / HEARTBEAT}, 0, 0.0))
    lines = ["| per shard of 10,000 images | PUT | LIST | GET, HEAD | DELETE | MB read | MB written | $ per million images |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
    total = 0.0
    for label, requests, read, written in rows:
        price = shards * sum(PRICES[kind] * number for kind, number in requests.items())
        total += price
        cells = [f"{requests.get(kind, 0):.3g}" for kind in ("PUT", "LIST", "GET", "DELETE")]
        lines.append(f"| {label} | {' | '.join(cells)} | {read / 1e6:.1f} | {written / 1e6:.1f} | {price:.4f} |")
    part = plain.sent["parts"] / IMAGES
    lines += [
        f"| **together** | | | | | | | **{total:.4f}** |",
        "",
        f"A part holds {part:.0f} bytes an image: {part * 1e6 / 1e9:.2f} GB and "
        f"${part * 1e6 / 1e9 * GB_MONTH:.4f} a month per million images; LAION-5B's 585,000 parts are "
        f"{part * 5.85e9 / 1e12:.1f} TB, ${part * 5.85e9 / 1e9 * GB_MONTH:.0f} a month, and its requests ${total * 5850:.0f}.",
        f"A shard of {IMAGES * BYTES / 1e6:.0f} MB takes {gets:.0f} GETs, one per {per_get / 2**20:.1f} MiB.",
    ]
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--page", type=Path)
    page = arguments.parse_args().page
    source = Path(__file__).parents[2] / "samples" / "laion-mini" / "00000.tar"
    with tempfile.TemporaryDirectory() as folder, metered() as meter:
        warehouse = str(Path(folder) / "w.duckdb")
        with Warehouse.at(warehouse).connect() as connection:
            migrate(connection)
        plain = through(meter, source, warehouse)
        long = through(meter, padded(source, Path(folder) / "00001.tar"), warehouse)
    made = table(plain, long)
    print(made)
    if page is not None:
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
